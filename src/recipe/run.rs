//! Running an experiment: settings, device, checks, weights, training, `final/`, report.

use super::configure::Configured;
use super::experiment::Experiment;
use super::opened::{Loaded, VlmOf};
use super::prepare::{Fingerprints, Preparation, Prepared, TEACHER, trainable};
use super::reference::{Making, store};
use super::run_folder::RunFolder;
use super::save::{Saved, check_savable, save_final};
use super::{Arguments, RecipeError, adapter_file, fetch, preflight, report};
use crate::adapters::{Adapter, Start};
use crate::checkpoint::bridge::Hold;
use crate::data::DataKind;
use crate::device::{Chosen, choose};
use crate::models::{CausalLm, LanguageModel};
use crate::nn::{PutRows, RateGroup, TRAINED_ROWS, is_flex, params};
use crate::objectives::Objective;
use crate::projector::Projector;
use crate::trainer::anchor::{AnchorPlan, Others};
use crate::trainer::state::counters;
use crate::trainer::track::{About, Keep, ReportTo, Status, Tracker, Trackers};
use crate::trainer::{Ended, Reference, Signal, Train, Trainer};
use crate::vision::VisionEncoder;
use crate::vlm::Part;
use burn::module::Module;
use burn::tensor::{DType, Device};
use clap::{CommandFactory, FromArgMatches};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Once, PoisonError, Weak};
use std::time::SystemTime;

/// The function that runs an experiment of one type.
pub(super) type Runner<E> = fn(&E, &Arguments, Task) -> anyhow::Result<Finished>;

/// What an experiment is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Task {
    /// To train.
    Train,
    /// To store what the model says of the data, as a reference for later runs.
    Store,
}

/// How an invocation of a recipe ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Finished {
    /// `--print-config` or `--dry-run`: nothing was trained.
    Checked,
    /// Log-probabilities were stored.
    Stored {
        /// The folder they are in.
        folder: PathBuf,
    },
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
        exit(self.run(&self.arguments()))
    }

    /// As [`main`](Self::main), for a program that trains nothing: it writes what the model says of every record into
    /// `--output`, where the reference policy `Stored` finds it.
    ///
    /// # Errors
    /// None: they are printed. The type is what `fn main` wants.
    pub fn preprocess_reference(self) -> anyhow::Result<()> {
        exit(self.store_reference(&self.arguments()))
    }

    fn arguments(&self) -> Arguments {
        let command = Arguments::command()
            .name(clap::builder::Str::from(&*Box::leak(self.parts().name.clone().into_boxed_str())))
            .about(format!("Recipe {}", self.parts().name));
        let matches = command.get_matches();
        Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }

    /// Runs as a library, with the options of a command line.
    ///
    /// The device's random generator belongs to the process: of two experiments that run at the same time in one process,
    /// neither is reproducible.
    ///
    /// # Errors
    /// A [`RecipeError`], as `anyhow::Error`.
    pub fn run(&self, arguments: &Arguments) -> anyhow::Result<Finished> {
        (self.runner())(self, arguments, Task::Train)
    }

    /// [`preprocess_reference`](Self::preprocess_reference) as a library, with the options of a command line.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn store_reference(&self, arguments: &Arguments) -> anyhow::Result<Finished> {
        (self.runner())(self, arguments, Task::Store)
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
    task: Task,
) -> anyhow::Result<Finished>
where
    M: LanguageModel,
    A: Adapter,
    V: VisionEncoder,
    P: Projector,
    O: Objective<Signal: Signal>,
    D: DataKind,
    R: Reference,
{
    let parts = experiment.parts();
    let here = fetch::arguments(arguments)?;
    let settings = Configured::new(parts, &here)?;
    let remote = arguments.model.as_deref().is_some_and(fetch::is_remote);
    if task == Task::Store && (arguments.resume || !<O::Signal as Signal>::STORES) {
        let text = match arguments.resume {
            true => {
                "storing log-probabilities cannot be resumed; leave --resume out and give a new --output".to_owned()
            }
            false => {
                format!("{} reads more of a reference than log-probabilities, and nothing else is stored", O::NAME)
            }
        };
        return Err(RecipeError::Usage(text).into());
    }
    Ok(Session { name: &parts.name, arguments: &here, settings, remote, task }.run()?)
}

/// One invocation, its settings known.
struct Session<'a, M, A, V, P, O, D, R> {
    name: &'a str,
    arguments: &'a Arguments,
    settings: Configured<M, A, V, P, O, D, R>,
    /// Whether the model is one of the hub.
    remote: bool,
    task: Task,
}

impl<M, A, V, P, O, D, R> Session<'_, M, A, V, P, O, D, R>
where
    M: LanguageModel,
    A: Adapter,
    V: VisionEncoder,
    P: Projector,
    O: Objective<Signal: Signal>,
    D: DataKind,
    R: Reference,
{
    fn run(mut self) -> Result<Finished, RecipeError> {
        let (arguments, settings) = (self.arguments, &self.settings);
        if arguments.print_config {
            print!("{}", settings.resolved.table());
            return Ok(Finished::Checked);
        }
        let chosen = choose(arguments.device)?;
        say!("device: {} ({})", chosen.name, chosen.reason);
        if settings.train.bf16 && is_flex(&chosen.device) {
            return Err(RecipeError::Usage(
                "train.bf16 is for GPUs: the CPU converts whole operands on every product and is slower with it; leave it out".to_owned(),
            ));
        }
        if let Err(error) = settings.train.check_device(is_flex(&chosen.device)) {
            return Err(RecipeError::Usage(format!("train: {error}")));
        }
        let (name, remote) = (self.name, self.remote);
        let stores = self.task == Task::Store;
        let preparation = Preparation { name, arguments, settings, remote, stores, recorded: None, chosen: &chosen };
        if arguments.dry_run {
            preparation.dry_run()?;
            return Ok(Finished::Checked);
        }
        let folder = RunFolder::open(arguments, self.name)?;
        for note in &folder.notes {
            say!("{note}");
        }
        if let Err(error) = folder.check_made(arguments.model.is_some()) {
            folder.abandon();
            return Err(error);
        }
        let preparation = Preparation { recorded: folder.batching(), ..preparation };
        let prepared = preparation.prepare(&folder.dir().join("made")).and_then(|prepared| {
            if let Some(batching) = prepared.batching {
                self.settings.cut_by(batching)?;
            }
            folder.agree(&self.settings.resolved, &prepared.inputs)?;
            Ok(prepared)
        });
        match prepared {
            Ok(prepared) if self.task == Task::Store => self.store(prepared, folder, chosen),
            Ok(prepared) => self.train(prepared, folder, chosen),
            Err(error) => {
                folder.abandon();
                Err(error)
            }
        }
    }

    /// Writes what the model says of every record, with the adapter that the user gives and no fresh one.
    fn store(
        &self,
        prepared: Prepared<M, V, P, D>,
        folder: RunFolder,
        chosen: Chosen,
    ) -> Result<Finished, RecipeError> {
        let device = chosen.device.clone().autodiff();
        let settings = &self.settings;
        let Prepared { opened, data, eval, fingerprints, .. } = prepared;
        let loaded = opened.load(&settings.projector, &|_| Hold::Frozen, &device).and_then(|loaded| {
            match &self.arguments.adapter {
                Some(dir) => adapter_file::load(loaded, &settings.adapter, dir, &device),
                None => Ok(loaded),
            }
        });
        let loaded = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                folder.retract();
                return Err(error);
            }
        };
        let weights_of = (&loaded.folder, self.arguments.adapter.as_deref());
        let model = loaded.model.valid();
        store(folder.dir(), &model, weights_of, (&data, eval.as_ref()), &fingerprints, &chosen.device)?;
        say!("reference: {}", folder.dir().display());
        say!("to train with it: --set reference.kind=stored --set reference.path={}", folder.dir().display());
        Ok(Finished::Stored { folder: folder.dir().to_owned() })
    }

    fn train(
        &self,
        prepared: Prepared<M, V, P, D>,
        folder: RunFolder,
        chosen: Chosen,
    ) -> Result<Finished, RecipeError> {
        let started = SystemTime::now();
        let device = chosen.device.clone().autodiff();
        let settings = &self.settings;
        let Prepared { opened, data, eval, picks, mut watch, facts, fingerprints, notes, left_out, .. } = prepared;
        if folder.is_finished() {
            say!("the run in {} is finished", folder.dir().display());
            return Ok(Finished::Trained { run: folder.dir().to_owned() });
        }
        let saved_whole = settings.adapter.modules_to_save().unwrap_or_default();
        let hold = |name: &str| match (trainable(name, &settings.train, saved_whole), settings.train.bf16) {
            (true, _) => Hold::Trained,
            (false, true) => Hold::Narrow,
            (false, false) => Hold::Frozen,
        };
        let loaded = opened
            .load(&settings.projector, &hold, &device)
            .map(|mut loaded| {
                // Whatever its table is held in: one that is trained stays f32.
                let table = loaded.model.language_model.token_table_mut();
                table.activations = settings.train.bf16.then_some(DType::BF16);
                loaded
            })
            .and_then(|loaded| self.attach(loaded, &device))
            .and_then(|(loaded, adapter)| {
                let others = self.others(&loaded, &fingerprints, &device)?;
                watch.reward = settings.reward(self.arguments)?;
                Ok((loaded, adapter, others))
            });
        let (loaded, adapter, others) = match loaded {
            Ok(loaded) => loaded,
            Err(error) => {
                folder.retract();
                return Err(error);
            }
        };
        print_trained(&loaded, &settings.train, saved_whole);
        let interrupt = Arc::new(AtomicBool::new(false));
        on_interrupt(&interrupt);
        let samples =
            report::Samples::new(eval.as_ref(), picks, settings.generates(), settings.judges(), settings.reading());
        let before =
            samples.before::<O::Signal, _>(folder.dir(), folder.resume.is_some(), &loaded.model, &chosen.device)?;
        let mut trackers = self.trackers(&folder, &chosen, started)?;
        samples.track(&mut trackers, 0, &before)?;
        let trainer = Trainer {
            objective: &settings.objective,
            settings: &settings.train,
            data,
            facts,
            eval,
            picks: samples.indices().to_vec(),
            watch,
            before: before.clone(),
            device,
            run_dir: folder.dir(),
            interrupt: &interrupt,
        };
        let Loaded { folder: source, model, tokenizer, processor, image_token, new_tokens, added, altered } = loaded;
        let trained = match trainer.run(model, others, folder.resume.as_ref(), &mut trackers) {
            Ok(trained) => trained,
            Err(error) => {
                // The run's own error is the one to report.
                let _ = trackers.end(0, Status::Failed);
                return Err(error.into());
            }
        };
        if trained.ended == Ended::Interrupted {
            trackers.end(trained.counters.step, Status::Interrupted)?;
            say!(
                "interrupted after step {}; to continue, repeat the command with --resume --output {}",
                trained.counters.step,
                folder.dir().display()
            );
            return Ok(Finished::Interrupted { run: folder.dir().to_owned() });
        }
        let loaded: Loaded<M, V, P> = Loaded {
            folder: source,
            model: trained.model,
            tokenizer,
            processor,
            image_token,
            new_tokens,
            added,
            altered,
        };
        let after = samples.ask::<O::Signal, _>(&loaded.model, &chosen.device)?;
        samples.track(&mut trackers, trained.counters.step, &after)?;
        let saved = save_final(&folder.dir().join("final"), &loaded, &adapter)?;
        let page = report::Page {
            name: self.name,
            chosen: &chosen,
            resolved: &settings.resolved,
            started,
            notes: &notes,
            left_out: &left_out,
            counters: &trained.counters,
            metrics: &trained.metrics,
        };
        page.write(folder.dir(), &samples, &before, &after)?;
        trackers.end(trained.counters.step, Status::Finished)?;
        for (reason, n) in &trained.counters.skipped {
            say!("left out {n} times in training: {reason}");
        }
        let kind = match saved {
            Saved::Adapter => "adapter",
            Saved::Model => "model",
            Saved::Projector => "projector",
        };
        say!("{kind}: {}", folder.dir().join("final").display());
        say!("report: {}", folder.dir().join("report.html").display());
        Ok(Finished::Trained { run: folder.dir().to_owned() })
    }

    /// The reference policy, from the model as it is now, and the model that is only logged.
    fn others(
        &self,
        loaded: &Loaded<M, V, P>,
        fingerprints: &Fingerprints,
        device: &Device,
    ) -> Result<Others<VlmOf<M, V, P>>, RecipeError> {
        let settings = &self.settings;
        let making = Making {
            model: &settings.model,
            vision: &settings.vision,
            projector: &settings.projector,
            arguments: self.arguments,
            fingerprints,
            device,
        };
        let plan = match settings.makes_teacher(self.arguments) {
            true => AnchorPlan::Copy { from: loaded.folder.dir.parent().map(|made| made.join(TEACHER)) },
            false => settings.anchor(),
        };
        let observer = match &settings.train.metrics_model {
            Some(from) => Some(making.other(Path::new(from), loaded)?),
            None => None,
        };
        Ok(Others { anchor: making.anchor(plan, loaded)?, observer })
    }

    /// The logs that the user wants besides `metrics.jsonl`.
    fn trackers(&self, folder: &RunFolder, chosen: &Chosen, started: SystemTime) -> Result<Trackers, RecipeError> {
        let wanted =
            ReportTo::parse(&self.settings.train.report_to).map_err(|error| RecipeError::Usage(error.to_string()))?;
        let keep = folder.resume.as_ref().map(|found| counters(found).map(|c| Keep::of(&c))).transpose()?;
        let name = folder.dir().file_name().map_or(self.name.to_owned(), |name| name.to_string_lossy().into_owned());
        let about = About {
            name: &name,
            command: &report::command(),
            device: &chosen.name,
            started,
            settings: &report::table(&self.settings.resolved),
        };
        Ok(Trackers::open(folder.dir(), &wanted, &about, keep)?)
    }

    /// Puts the adapter on the model, fresh or from a folder, and sets what is trained.
    fn attach(&self, mut loaded: Loaded<M, V, P>, device: &Device) -> Result<(Loaded<M, V, P>, A), RecipeError> {
        let settings = &self.settings;
        let adapter = settings.adapter.clone();
        match &self.arguments.adapter {
            Some(dir) => loaded = adapter_file::load(loaded, &adapter, dir, device)?,
            None => {
                let mut rng = ChaCha8Rng::seed_from_u64(settings.train.seed);
                let (layout, start) = (loaded.layout(), Start::Fresh(&loaded.tokenizer));
                adapter_file::attach::<M, A, V, P>(&mut loaded.model, &adapter, layout, start, &mut rng, device)?;
            }
        }
        // A language model that is trained whole trains these rows with all others.
        let rows: Vec<u32> = loaded.new_tokens.iter().chain(&loaded.added).copied().collect();
        if !rows.is_empty() && !settings.train.language_model.unwrap_or(false) {
            loaded.model.language_model.token_table_mut().train_rows(&rows);
            if let Some(head) = loaded.model.language_model.head_mut().filter(|_| !loaded.added.is_empty()) {
                if head.adapter.is_some() {
                    return Err(RecipeError::Usage(
                        "tokens.* adds tokens whose rows of lm_head are trained, and the adapter trains other rows of it; add the \
                         tokens in a run of its own, or leave lm_head out of adapter.trainable_token_indices"
                            .to_owned(),
                    ));
                }
                head.adapter = Some(PutRows::on(head, &loaded.added));
            }
        }
        let saved_whole = adapter.modules_to_save().unwrap_or_default();
        loaded.model = params::set_trainable(loaded.model, |name| trainable(name, &settings.train, saved_whole));
        check_savable(&loaded)?;
        let raised = || loaded.model.rate_groups().values().any(|group| *group == RateGroup::Raised);
        if settings.train.loraplus_lr_ratio.is_some() && !raised() {
            return Err(RecipeError::Usage(
                "train.loraplus_lr_ratio would do nothing: this adapter has no parameters that LoRA+ trains at another rate; \
                 take Lora, or leave it out"
                    .to_owned(),
            ));
        }
        Ok((loaded, adapter))
    }
}

fn print_trained<M: LanguageModel, V: VisionEncoder, P: Projector>(
    loaded: &Loaded<M, V, P>,
    train: &Train,
    saved_whole: &[String],
) {
    let all = params::list(&loaded.model);
    let mut parts = Vec::new();
    for (label, part) in
        [("vision tower", Part::VisionTower), ("projector", Part::Projector), ("language model", Part::LanguageModel)]
    {
        let of = |kind: &str| {
            all.iter()
                .filter(|p| Part::of(&p.name) == part && kind_of(&p.name) == kind)
                .filter(|p| trainable(&p.name, train, saved_whole))
                .map(|p| p.len())
                .sum::<usize>()
        };
        for (label, n) in ["", "'s adapter", "'s start and end tokens"].map(|kind| (format!("{label}{kind}"), of(kind)))
        {
            if n > 0 {
                let rate = part.learning_rate(train);
                let raised = train.loraplus_lr_ratio.filter(|_| label.ends_with("'s adapter"));
                let raised = raised.map_or_else(String::new, |ratio| format!(", {:e} for B", rate * ratio));
                parts.push(format!("{label} {n} (learning rate {rate:e}{raised})"));
            }
        }
    }
    let quantized = loaded.model.quantized_weights();
    let frozen: usize = quantized.iter().map(|(info, _)| info.len()).sum();
    let total: usize = all.iter().map(|p| p.len()).sum::<usize>() + frozen;
    if let Some((_, first)) = quantized.first() {
        let held = preflight::bytes(quantized.iter().map(|(_, weight)| weight.bytes_held()).sum());
        say!("quantized: {frozen} of {total} parameters, {}, in {held}", first.format());
    }
    let parts = if parts.is_empty() { "nothing".to_owned() } else { parts.join(", ") };
    say!("parameters: {total}; trained: {parts}");
}

/// What is said of a parameter beside the name of its part.
fn kind_of(parameter: &str) -> &'static str {
    if parameter.ends_with(TRAINED_ROWS) {
        "'s start and end tokens"
    } else if parameter.contains(".adapter.") {
        "'s adapter"
    } else {
        ""
    }
}

/// The first Ctrl-C finishes the step; a second one ends the process at once.
///
/// A process has one handler; it speaks to the experiment that began last.
fn on_interrupt(flag: &Arc<AtomicBool>) {
    static CURRENT: Mutex<Weak<AtomicBool>> = Mutex::new(Weak::new());
    static HANDLER: Once = Once::new();
    let current = || CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    *current() = Arc::downgrade(flag);
    let handler = move || {
        // None is left where no experiment is running any more.
        let running = current().upgrade();
        if running.is_none_or(|flag| flag.swap(true, Ordering::Relaxed)) {
            std::process::exit(130);
        }
        eprintln!("interrupted: finishing the step and writing a checkpoint; once more to stop at once");
    };
    HANDLER.call_once(|| {
        // It fails where the program that uses this library has a handler of its own.
        if let Err(error) = ctrlc::set_handler(handler) {
            eprintln!("Ctrl-C will not write a checkpoint: {error}");
        }
    });
}
