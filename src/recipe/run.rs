//! Running an experiment: settings, device, checks, weights, training, `final/`, report.

use super::experiment::{Experiment, Parts};
use super::folder::{Loaded, Opened};
use super::run_folder::{Inputs, RunFolder};
use super::save::{Saved, save_final};
use super::{Arguments, RecipeError, adapter_file, making, preflight, report, tools};
use crate::adapters::Adapter;
use crate::checkpoint::Shards;
use crate::data::{Checked, DataKind, Dataset, Encoder, LoaderSettings, PadSide, Padding, Reading, Sampler};
use crate::device::{Chosen, choose};
use crate::generation::Stop;
use crate::models::{CausalLm, LanguageModel};
use crate::nn::params;
use crate::objectives::Objective;
use crate::projector::Projector;
use crate::settings::{Component, Given, Origin, Resolved, Resolver, Section};
use crate::text::check_end_of_turn;
use crate::trainer::{Ended, EvalData, Part, Plan, Train, TrainData, Trainer};
use crate::vision::VisionEncoder;
use crate::vlm::{Layout, Vlm};
use clap::{CommandFactory, FromArgMatches};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The function that runs an experiment of one type.
pub(super) type Runner<E> = fn(&E, &Arguments) -> anyhow::Result<Finished>;

/// How an invocation of a recipe ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Finished {
    /// `--print-config` or `--dry-run`: nothing was trained.
    Checked,
    /// Trained to the end, or found so.
    Trained {
        /// The run folder.
        run: PathBuf,
    },
    /// Interrupted; a checkpoint was written.
    Interrupted {
        /// The run folder.
        run: PathBuf,
    },
}

impl<M, A, V, P, O, D, R> Experiment<M, A, V, P, O, D, R> {
    /// Runs as a program: reads the command line, prints, and ends the process with the exit code: 0, 1 for an error, 2
    /// for a wrong invocation, 130 when interrupted.
    ///
    /// # Errors
    /// None: they are printed. The type is what `fn main` wants.
    pub fn main(self) -> anyhow::Result<()> {
        let command = Arguments::command()
            .name(clap::builder::Str::from(&*Box::leak(self.parts().name.clone().into_boxed_str())))
            .about(format!("Recipe {}", self.parts().name));
        let matches = command.get_matches();
        let arguments = Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
        exit(self.run(&arguments))
    }

    /// Runs as a library, with the options of a command line.
    ///
    /// # Errors
    /// A [`RecipeError`], as `anyhow::Error`.
    pub fn run(&self, arguments: &Arguments) -> anyhow::Result<Finished> {
        (self.runner())(self, arguments)
    }
}

/// Ends the process with what a recipe came to.
pub fn exit(result: anyhow::Result<Finished>) -> ! {
    let code = match result {
        Ok(Finished::Interrupted { .. }) => 130,
        Ok(_) => 0,
        Err(error) => {
            eprintln!("error: {}", describe(&error));
            error.downcast_ref::<RecipeError>().map_or(1, RecipeError::exit_code)
        }
    };
    std::process::exit(code)
}

/// An error with those of its causes that it does not tell itself; no back-trace, because these are errors of the user's
/// files, not of the program.
pub fn describe(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.contains(&cause) {
            continue;
        }
        if !text.is_empty() {
            text.push_str(": ");
        }
        text.push_str(&cause);
    }
    text
}

/// Runs an experiment; its types are known here and nowhere before.
pub(super) fn run_experiment<M, A, V, P, O, D, R>(
    experiment: &Experiment<M, A, V, P, O, D, R>,
    arguments: &Arguments,
) -> anyhow::Result<Finished>
where
    M: LanguageModel,
    A: Adapter,
    V: VisionEncoder,
    P: Projector,
    O: Objective,
    D: DataKind,
    R: Component,
{
    let session = Session::<M, A, V, P, O, D>::start(experiment.parts(), arguments)?;
    Ok(session.run()?)
}

/// What is known before a weight is read.
struct Session<'a, M, A, V, P, O, D> {
    name: &'a str,
    arguments: &'a Arguments,
    resolved: Resolved,
    types: std::marker::PhantomData<(M, A, V, P, O, D)>,
}

/// The typed settings.
struct Settings<M, A, V, P, O, D> {
    model: M,
    adapter: A,
    vision: V,
    projector: P,
    objective: O,
    data: D,
    train: Train,
    reading: Reading,
}

/// What has been checked and is ready to be trained with.
struct Prepared<M: LanguageModel, V: VisionEncoder, P: Projector, D: DataKind> {
    opened: Opened<M, V, P>,
    data: TrainData<D>,
    eval: Option<EvalData<D>>,
    notes: Vec<String>,
}

/// Where model and data lie.
#[derive(Clone, Debug)]
struct Places {
    model: PathBuf,
    data: Vec<PathBuf>,
    eval: Vec<PathBuf>,
    images: Vec<PathBuf>,
}

impl<'a, M, A, V, P, O, D> Session<'a, M, A, V, P, O, D>
where
    M: LanguageModel,
    A: Adapter,
    V: VisionEncoder,
    P: Projector,
    O: Objective,
    D: DataKind,
{
    fn start<R: Component>(
        parts: &'a Parts<M, A, V, P, O, D, R>,
        arguments: &'a Arguments,
    ) -> Result<Self, RecipeError> {
        let mut resolver = Resolver::new(vec![
            Section::of::<M>("model"),
            Section::of::<A>("adapter"),
            Section::of::<V>("vision"),
            Section::of::<P>("projector"),
            Section::of::<O>("objective"),
            Section::of::<D>("data"),
            Section::of::<super::ImageSettings>("image"),
            Section::of::<R>("reference"),
            Section::of::<Train>("train"),
        ])
        .recipe("model", &parts.model)?
        .recipe("adapter", &parts.adapter)?
        .recipe("vision", &parts.vision)?
        .recipe("projector", &parts.projector)?
        .recipe("objective", &parts.objective)?
        .recipe("data", &parts.data)?
        .recipe("reference", &parts.reference)?
        .recipe("train", &parts.train)?;
        if let Some(file) = &arguments.config {
            resolver = resolver.file(file)?;
        }
        let resolved = resolver.command_line(&arguments.assignments())?.finish();
        Ok(Self { name: &parts.name, arguments, resolved, types: std::marker::PhantomData })
    }

    fn run(mut self) -> Result<Finished, RecipeError> {
        let arguments = self.arguments;
        for (given, flag, needs) in [
            (!arguments.eval_data.is_empty() && arguments.data.is_empty(), "--eval-data", "--data"),
            (!arguments.images.is_empty() && arguments.data.is_empty(), "--images", "--data"),
            (arguments.adapter.is_some() && arguments.model.is_none(), "--adapter", "--model"),
        ] {
            if given {
                return Err(RecipeError::Usage(format!(
                    "{flag} would do nothing without {needs}; add it, or leave {flag} out"
                )));
            }
        }
        self.derive()?;
        if self.arguments.print_config {
            // Every value is checked first: what is printed is what a run would use.
            self.settings()?;
            print!("{}", self.resolved.table());
            return Ok(Finished::Checked);
        }
        let settings = self.settings()?;
        self.refuse_idle(&settings.train)?;
        let chosen = choose(self.arguments.device)?;
        println!("device: {} ({})", chosen.name, chosen.reason);
        if settings.train.bf16 && chosen.name.starts_with("cpu") {
            return Err(RecipeError::Usage(
                "train.bf16 is for GPUs: the CPU converts whole operands on every product and is slower with it; leave it out".to_owned(),
            ));
        }
        if self.arguments.dry_run {
            let scratch = making::Scratch::new()?;
            let places = self.places(scratch.path())?;
            let (opened, encoder) = self.open(&settings, &places, &chosen)?;
            self.dry_run(&settings, &places, &opened, &encoder, &chosen)?;
            return Ok(Finished::Checked);
        }
        let folder = RunFolder::open(self.arguments, self.name)?;
        for note in &folder.notes {
            println!("{note}");
        }
        match self.prepare(&settings, &folder, &chosen) {
            Ok(prepared) => self.train(settings, prepared, folder, chosen),
            Err(error) => {
                folder.abandon();
                Err(error)
            }
        }
    }

    fn settings(&self) -> Result<Settings<M, A, V, P, O, D>, RecipeError> {
        let data: D = self.resolved.section("data")?;
        Ok(Settings {
            model: self.resolved.section("model")?,
            adapter: self.resolved.section("adapter")?,
            vision: self.resolved.section("vision")?,
            projector: self.resolved.section("projector")?,
            objective: self.resolved.section("objective")?,
            train: self.resolved.section("train")?,
            reading: data.reading(),
            data,
        })
    }

    /// Settings that follow from others: what a made model needs, and what an adapter implies.
    fn derive(&mut self) -> Result<(), RecipeError> {
        if self.arguments.model.is_none() {
            let own_data = !self.arguments.data.is_empty();
            for (key, value) in making::training(own_data) {
                self.derive_default(key, value, "the made model is random")?;
            }
        }
        if let Some(dir) = &self.arguments.adapter {
            self.take_from_file(dir)?;
        }
        let adapter: A = self.resolved.section("adapter")?;
        if adapter.trains_projector() == Some(false) {
            let projector = self.resolved.setting("train.projector");
            let asked = projector.is_some_and(|s| s.origin != Origin::Default && s.value == json!(true));
            if asked {
                return Err(RecipeError::Usage(
                    "train.projector is true, but adapter.modules_to_save leaves the projector out; add multi_modal_projector \
                     to it, or set train.projector=false"
                        .to_owned(),
                ));
            }
            self.derive_default("train.projector", json!(false), "adapter.modules_to_save leaves it out")?;
        }
        let language_model = self.resolved.setting("train.language_model").map(|s| s.value.clone());
        if language_model.is_none_or(|v| v.is_null()) {
            let trains = !A::FREEZES_LANGUAGE_MODEL;
            let reason = if trains { "there is no adapter" } else { "an adapter is trained instead" };
            self.resolved.derive("train.language_model", json!(trains), reason)?;
        }
        Ok(())
    }

    /// Settings that were typed and would do nothing.
    fn refuse_idle(&self, train: &Train) -> Result<(), RecipeError> {
        let typed = |key: &str| {
            let origin = self.resolved.setting(key).map(|s| &s.origin);
            matches!(origin, Some(Origin::CommandLine | Origin::File(_)))
                && self.resolved.setting(key).is_some_and(|s| !s.value.is_null())
        };
        let parts = [
            ("vision_tower", train.vision_tower),
            ("projector", train.projector),
            // The adapter's rate is the language model's.
            ("language_model", train.language_model.unwrap_or(false) || A::FREEZES_LANGUAGE_MODEL),
        ];
        for (part, trained) in parts {
            let key = format!("train.{part}_learning_rate");
            if !trained && typed(&key) {
                return Err(RecipeError::Usage(format!(
                    "{key} would do nothing: the part is frozen; set train.{part}=true, or leave it out"
                )));
            }
        }
        if train.bf16 && train.language_model == Some(true) {
            return Err(RecipeError::Usage(
                "train.bf16 holds frozen weights in bf16, but the language model is trained; add an adapter, or leave it out"
                    .to_owned(),
            ));
        }
        let evaluates = !self.arguments.eval_data.is_empty() || self.arguments.data.is_empty();
        for key in
            ["train.eval_steps", "train.load_best_model_at_end", "train.eval_on_start", "train.eval_shuffled_images"]
        {
            let off = self.resolved.setting(key).is_some_and(|s| s.value == json!(false));
            if !evaluates && !off && typed(key) {
                return Err(RecipeError::Usage(format!(
                    "{key} would do nothing without held-out data; add --eval-data, or leave it out"
                )));
            }
        }
        Ok(())
    }

    fn derive_default(&mut self, key: &str, value: Value, reason: &str) -> Result<(), RecipeError> {
        if self.resolved.setting(key).is_some_and(|s| s.origin == Origin::Default) {
            self.resolved.derive(key, value, reason)?;
        }
        Ok(())
    }

    /// The user's model and data, or made ones in `made_dir`.
    fn places(&self, made_dir: &Path) -> Result<Places, RecipeError> {
        let arguments = self.arguments;
        let mut places = Places {
            model: arguments.model.clone().unwrap_or_default(),
            data: arguments.data.clone(),
            eval: arguments.eval_data.clone(),
            images: arguments.images.clone(),
        };
        if arguments.data.is_empty() {
            if arguments.model.is_some() {
                return Err(RecipeError::Usage(
                    "--model needs --data FILE, the records to train on (leave both out for a made model on made data)"
                        .to_owned(),
                ));
            }
            let data = making::data(made_dir, self.train_seed()?)?;
            println!(
                "data: made {} records, {} held out, in {} (answering from a wrong picture would be right {:.1}% of the time)",
                super::made::MadeTraining::TRAIN_RECORDS,
                super::made::MadeTraining::EVAL_RECORDS,
                made_dir.display(),
                data.chance * 100.0
            );
            places.data = vec![data.train_json];
            places.eval = vec![data.eval_json];
        }
        if arguments.model.is_none() {
            let texts = making::Texts { data: &places.data, images: &places.images };
            places.model = making::model::<D>(&made_dir.join("model"), &texts, self.train_seed()?)?;
            println!("model: made a small random one, in {}", places.model.display());
            println!(
                "       a random model has nothing for a small adapter to adapt, so here, and only here, more of it is trained: \
                 see `parameters` below"
            );
        }
        Ok(places)
    }

    fn train_seed(&self) -> Result<u64, RecipeError> {
        Ok(self.resolved.section::<Train>("train")?.seed)
    }

    fn open(
        &self,
        settings: &Settings<M, A, V, P, O, D>,
        places: &Places,
        chosen: &Chosen,
    ) -> Result<(Opened<M, V, P>, Encoder), RecipeError> {
        let device = chosen.device.clone().autodiff();
        device.seed(settings.train.seed);
        let mut opened = Opened::new(&places.model, &settings.model, &settings.vision, &settings.projector, &device)?;
        let image: super::ImageSettings = self.resolved.section("image")?;
        if let Some(processor) = &mut opened.processor {
            image.apply(processor);
        }
        let image_token = opened.image_token.as_ref().map(|(text, _)| text.as_str());
        let template = tools::template(settings.reading.template.as_deref(), &opened.tokenizer, image_token)?;
        check_end_of_turn(&template, &opened.tokenizer)?;
        let encoder = Encoder {
            tokenizer: opened.tokenizer.clone(),
            template,
            image: tools::image_encoding(&opened),
            max_length: settings.reading.max_tokens_count,
            overlong: settings.reading.overlong,
        };
        Ok((opened, encoder))
    }

    fn dry_run(
        &self,
        settings: &Settings<M, A, V, P, O, D>,
        places: &Places,
        opened: &Opened<M, V, P>,
        encoder: &Encoder,
        chosen: &Chosen,
    ) -> Result<(), RecipeError> {
        let reading = &settings.reading;
        // Names, shapes and lengths stand in the headers; the adapter's targets in the model's own structure.
        Shards::open(&opened.folder.dir)?;
        if self.arguments.adapter.is_none() {
            let mut rng = ChaCha8Rng::seed_from_u64(settings.train.seed);
            let (model, prefix) = (opened.model.language_model.clone(), Self::prefix(opened.processor.is_some()));
            settings.adapter.attach(model, prefix, &mut rng, &chosen.device.clone().autodiff())?;
        }
        for (label, files) in [("training data", &places.data), ("held-out data", &places.eval)] {
            if files.is_empty() {
                continue;
            }
            let dataset = Dataset::open(settings.data.clone(), files, &places.images)?;
            let checked = preflight::check_records(&dataset, encoder, reading.bad_record, self.arguments.decode)?;
            for line in preflight::describe(label, &checked, dataset.len()) {
                println!("{line}");
            }
            if label == "training data" {
                if let Some(sample) = preflight::show_sample(&dataset, encoder, &checked) {
                    println!("{sample}");
                }
                self.print_plan(settings, opened, &checked);
            }
        }
        println!("everything that can be checked without the weights is in order");
        Ok(())
    }

    fn print_plan(&self, settings: &Settings<M, A, V, P, O, D>, opened: &Opened<M, V, P>, checked: &Checked) {
        let plan = Plan::new(&settings.train, sampler(&settings.train), &checked.signed_lengths);
        println!("plan: {} steps of {} records", plan.total_steps, step_records(&settings.train));
        let longest = checked.lengths.iter().copied().max().unwrap_or(0);
        let tokens = longest * settings.train.per_device_train_batch_size;
        let trains = |name: &str| trainable(name, &settings.train);
        let width = opened.model.language_model.hidden_size();
        let memory = preflight::memory(&opened.model, trains, tokens, width, settings.train.bf16);
        println!(
            "memory: about {} for weights, {} for gradients and moments of what is trained, {} for activations of the longest batch",
            preflight::bytes(memory.weights),
            preflight::bytes(memory.training),
            preflight::bytes(memory.activations)
        );
    }

    /// Everything that can be refused without the weights.
    fn prepare(
        &self,
        settings: &Settings<M, A, V, P, O, D>,
        folder: &RunFolder,
        chosen: &Chosen,
    ) -> Result<Prepared<M, V, P, D>, RecipeError> {
        let places = self.places(&folder.dir().join("made"))?;
        let (opened, encoder) = self.open(settings, &places, chosen)?;
        let (data, eval, notes) = self.data(settings, &places, &Arc::new(encoder), &opened.folder.dir)?;
        for line in &notes {
            println!("{line}");
        }
        folder.agree(&self.resolved, &self.inputs(&places, &data.dataset, eval.as_ref()))?;
        Ok(Prepared { opened, data, eval, notes })
    }

    fn train(
        &self,
        settings: Settings<M, A, V, P, O, D>,
        prepared: Prepared<M, V, P, D>,
        folder: RunFolder,
        chosen: Chosen,
    ) -> Result<Finished, RecipeError> {
        let started = std::time::SystemTime::now();
        let device = chosen.device.clone().autodiff();
        let Prepared { opened, data, eval, notes } = prepared;
        if folder.is_finished() {
            println!("the run in {} is finished", folder.dir().display());
            return Ok(Finished::Trained { run: folder.dir().to_owned() });
        }
        let narrow = |name: &str| settings.train.bf16 && !trainable(name, &settings.train);
        let loaded = opened.load(&settings.projector, &narrow, &device)?;
        let (loaded, adapter) = self.attach(&settings, loaded, &device)?;
        print_trained(&loaded, &settings.train);
        let interrupt = Arc::new(AtomicBool::new(false));
        on_interrupt(&interrupt);
        let samples = report::Samples::choose(eval.as_ref());
        let before = samples.before(folder.dir(), folder.resume.is_some(), &loaded.model, &chosen.device)?;
        let trainer = Trainer {
            objective: &settings.objective,
            settings: &settings.train,
            data,
            eval,
            device,
            run_dir: folder.dir(),
            interrupt: &interrupt,
        };
        let Loaded { folder: source, model, tokenizer, processor, image_token } = loaded;
        let trained = trainer.run(model, folder.resume.as_ref())?;
        if trained.ended == Ended::Interrupted {
            println!(
                "interrupted after step {}; continue with --resume --output {}",
                trained.counters.step,
                folder.dir().display()
            );
            return Ok(Finished::Interrupted { run: folder.dir().to_owned() });
        }
        let loaded: Loaded<M, V, P> =
            Loaded { folder: source, model: trained.model, tokenizer, processor, image_token };
        let after = samples.answers(&loaded.model, &chosen.device)?;
        let saved = save_final(&folder.dir().join("final"), &loaded, &adapter)?;
        let page = report::Page {
            name: self.name,
            chosen: &chosen,
            resolved: &self.resolved,
            started,
            notes: &notes,
            counters: &trained.counters,
            metrics: &trained.metrics,
        };
        page.write(folder.dir(), &samples, &before, &after)?;
        for (reason, n) in &trained.counters.skipped {
            println!("left out {n} times in training: {reason}");
        }
        let kind = match saved {
            Saved::Adapter => "adapter",
            Saved::Model => "model",
        };
        println!("{kind}: {}", folder.dir().join("final").display());
        println!("report: {}", folder.dir().join("report.html").display());
        Ok(Finished::Trained { run: folder.dir().to_owned() })
    }

    #[allow(clippy::type_complexity)]
    fn data(
        &self,
        settings: &Settings<M, A, V, P, O, D>,
        places: &Places,
        encoder: &Arc<Encoder>,
        model_dir: &Path,
    ) -> Result<(TrainData<D>, Option<EvalData<D>>, Vec<String>), RecipeError> {
        let (train, reading) = (&settings.train, &settings.reading);
        let loader = LoaderSettings {
            workers: train.dataloader_num_workers,
            prefetch: train.dataloader_num_workers * train.dataloader_prefetch_factor,
            bad_record: reading.bad_record,
            padding: Padding {
                token: tools::pad_id(&encoder.tokenizer),
                side: PadSide::Right,
                multiple_of: PAD_MULTIPLE,
            },
        };
        let dataset = Arc::new(Dataset::open(settings.data.clone(), &places.data, &places.images)?);
        let checked = preflight::check_records(&dataset, encoder, reading.bad_record, false)?;
        let mut notes = preflight::describe("training data", &checked, dataset.len());
        let eval = match places.eval.is_empty() {
            true => None,
            false => {
                let dataset = Arc::new(Dataset::open(settings.data.clone(), &places.eval, &places.images)?);
                let checked = preflight::check_records(&dataset, encoder, reading.bad_record, false)?;
                notes.extend(preflight::describe("held-out data", &checked, dataset.len()));
                let stop = Stop {
                    end_tokens: tools::end_tokens(model_dir, &encoder.tokenizer),
                    max_new_tokens: train.max_new_tokens,
                };
                let batch_size = train.per_device_eval_batch_size;
                Some(EvalData { dataset, encoder: encoder.clone(), batch_size, loader, stop })
            }
        };
        let plan = Plan::new(train, sampler(train), &checked.signed_lengths);
        notes.push(format!("plan: {} steps of {} records", plan.total_steps, step_records(train)));
        Ok((TrainData { dataset, encoder: encoder.clone(), loader, plan }, eval, notes))
    }

    fn inputs(&self, places: &Places, data: &Dataset<D>, eval: Option<&EvalData<D>>) -> Inputs {
        let mut inputs = std::collections::BTreeMap::new();
        inputs.insert("recipe".to_owned(), json!(self.name));
        // A folder keeps its identity when it is named from elsewhere; what the recipe made moves with the run.
        let identity = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        let model = self.arguments.model.as_ref().map(|_| identity(&places.model));
        inputs.insert("model".to_owned(), model.map_or(json!("made"), |path| json!(path)));
        inputs.insert("adapter".to_owned(), json!(self.arguments.adapter.as_ref().map(identity)));
        inputs.insert("data".to_owned(), json!(data.fingerprint()));
        inputs.insert("eval_data".to_owned(), json!(eval.map(|e| e.dataset.fingerprint())));
        Inputs(inputs)
    }

    /// The language model's path inside transformers' class.
    fn prefix(sees: bool) -> &'static str {
        let layout = if sees { Layout::Composed } else { Layout::Plain };
        Vlm::<M::Model, V::Model, P::Model>::module_prefix(layout)
    }

    /// Puts the adapter on the model, fresh or from a folder, and sets what is trained.
    fn attach(
        &self,
        settings: &Settings<M, A, V, P, O, D>,
        mut loaded: Loaded<M, V, P>,
        device: &burn::tensor::Device,
    ) -> Result<(Loaded<M, V, P>, A), RecipeError> {
        let adapter = settings.adapter.clone();
        match &self.arguments.adapter {
            Some(dir) => loaded = adapter_file::load(loaded, &adapter, dir, device)?,
            None => {
                let prefix = Self::prefix(loaded.processor.is_some());
                let mut rng = ChaCha8Rng::seed_from_u64(settings.train.seed);
                let model = loaded.model.language_model;
                loaded.model.language_model = adapter.attach(model, prefix, &mut rng, device)?;
            }
        }
        loaded.model = params::set_trainable(loaded.model, |name| trainable(name, &settings.train));
        Ok((loaded, adapter))
    }

    /// An adapter's file decides its shape; a user who asks for another is refused, not ignored.
    fn take_from_file(&mut self, dir: &Path) -> Result<(), RecipeError> {
        let file: A = adapter_file::read_settings(dir)?;
        for (name, value) in Given::<A>::from_fields(&file).values() {
            let key = format!("adapter.{name}");
            let Some(setting) = self.resolved.setting(&key) else { continue };
            let asked = matches!(setting.origin, Origin::CommandLine | Origin::File(_));
            if asked && setting.value != *value {
                return Err(RecipeError::Usage(format!(
                    "{key} is {} ({}), but the adapter's own file says {value}; leave {key} out",
                    setting.value, setting.origin
                )));
            }
            self.resolved.derive(&key, value.clone(), "the adapter's own file")?;
        }
        Ok(())
    }
}

/// Rows are padded to a multiple of this, so that a few lengths recur and kernels tuned by shape are found again.
const PAD_MULTIPLE: usize = 8;

fn sampler(train: &Train) -> Sampler {
    match train.sampler.as_str() {
        "sequential" => Sampler::Sequential,
        "length" => Sampler::Length,
        "modality" => Sampler::Modality,
        _ => Sampler::Shuffled,
    }
}

fn step_records(train: &Train) -> usize {
    train.per_device_train_batch_size * train.gradient_accumulation_steps
}

/// Whether a step changes a parameter.
fn trainable(name: &str, train: &Train) -> bool {
    if name.contains(".adapter.") {
        return true;
    }
    match Part::of(name) {
        Part::VisionTower => train.vision_tower,
        Part::Projector => train.projector,
        Part::LanguageModel => train.language_model.unwrap_or(false),
    }
}

fn print_trained<M: LanguageModel, V: VisionEncoder, P: Projector>(loaded: &Loaded<M, V, P>, train: &Train) {
    let all = params::list(&loaded.model);
    let mut parts = Vec::new();
    for (label, part) in
        [("vision tower", Part::VisionTower), ("projector", Part::Projector), ("language model", Part::LanguageModel)]
    {
        let of = |adapter: bool| {
            all.iter()
                .filter(|p| Part::of(&p.name) == part && p.name.contains(".adapter.") == adapter)
                .filter(|p| trainable(&p.name, train))
                .map(|p| p.len())
                .sum::<usize>()
        };
        for (label, n) in [(label.to_owned(), of(false)), (format!("{label}'s adapter"), of(true))] {
            if n > 0 {
                let rate = part.learning_rate(train);
                parts.push(format!("{label} {n} (learning rate {rate:e})"));
            }
        }
    }
    let total: usize = all.iter().map(|p| p.len()).sum();
    let parts = if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") };
    println!("parameters: {total}; trained: {parts}");
}

/// The first Ctrl-C finishes the step; a second one ends the process at once.
fn on_interrupt(flag: &Arc<AtomicBool>) {
    let flag = flag.clone();
    let handler = move || {
        if flag.swap(true, Ordering::Relaxed) {
            std::process::exit(130);
        }
        eprintln!("interrupted: finishing the step and writing a checkpoint; once more to stop at once");
    };
    // A second experiment in one process keeps the first one's handler, which is the only way this can fail.
    if let Err(error) = ctrlc::set_handler(handler) {
        eprintln!("Ctrl-C will not write a checkpoint: {error}");
    }
}
