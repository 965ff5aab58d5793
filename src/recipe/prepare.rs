//! From settings to what is ready to be trained: where model and data lie, the model without its weights, every record
//! checked.

use super::configure::Configured;
use super::folder::ModelFolder;
use super::memory::Batching;
use super::opened::{Opened, has_vision};
use super::run_folder::{AUTO_BATCH, Inputs};
use super::sizing::{Sized, batched};
use super::{Arguments, RecipeError, making, memory, preflight, reference, tools};
use crate::adapters::{Adapter, PROJECTOR};
use crate::checkpoint::Shards;
use crate::checkpoint::hub::Wanted;
use crate::data::{Check, Checked, DataKind, Dataset, Encoder, Fill, Lines, LoaderSettings, PadSide, Padding, Sampler};
use crate::device::Chosen;
use crate::example::{Facts, Learns, Shape};
use crate::generation::Stop;
use crate::image::ImageProcessor;
use crate::models::LanguageModel;
use crate::nn::FIXED;
use crate::objectives::Objective;
use crate::projector::Projector;
use crate::text::check_end_of_turn;
use crate::trainer::anchor::AnchorPlan;
use crate::trainer::{EvalData, Plan, Reference, Signal, Train, TrainData, Watch};
use crate::vision::VisionEncoder;
use crate::vlm::{Part, SCORE, module_to_save};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows are padded to a multiple of this, so that a few lengths recur and kernels tuned by shape are found again.
pub(super) const PAD_MULTIPLE: usize = 8;

/// The folder of a made teacher.
pub(super) const TEACHER: &str = "teacher";

/// What has been checked and is ready to be trained with.
pub(super) struct Prepared<M: LanguageModel, V: VisionEncoder, P: Projector, D: DataKind> {
    pub opened: Opened<M, V, P>,
    pub data: TrainData<D>,
    pub eval: Option<EvalData<D>>,
    /// The numbers of the held-out records that every evaluation shows.
    pub picks: Vec<usize>,
    /// What evaluations compute besides.
    pub watch: Watch,
    /// What the training records say, where the objective wants to see it.
    pub facts: Vec<Facts>,
    /// What stored log-probabilities of the training data, and of the held-out data, must belong to.
    pub fingerprints: Fingerprints,
    /// What the preflight said, a line each.
    pub notes: Vec<String>,
    /// Records that the preflight took out of training, by reason.
    pub left_out: BTreeMap<String, usize>,
    /// What the run was started with besides its settings.
    pub inputs: Inputs,
    /// How the steps are cut, where the run chose it by itself.
    pub batching: Option<Batching>,
}

/// What log-probabilities of a reference depend on.
#[derive(Clone, Debug)]
pub(super) struct Fingerprints {
    /// Records, tokens and images of the training data.
    pub train: [String; 3],
    /// Of the held-out data.
    pub eval: Option<[String; 3]>,
}

/// Where model and data lie.
#[derive(Clone, Debug)]
struct Places {
    model: PathBuf,
    data: Vec<PathBuf>,
    eval: Vec<PathBuf>,
    images: Vec<PathBuf>,
}

/// Prepares one experiment.
pub(super) struct Preparation<'a, M, A, V, P, O, D, R> {
    /// The recipe.
    pub name: &'a str,
    pub arguments: &'a Arguments,
    pub settings: &'a Configured<M, A, V, P, O, D, R>,
    /// Whether the model is one of the hub.
    pub remote: bool,
    /// Whether log-probabilities are to be stored.
    pub stores: bool,
    /// How a resumed run, which chose it by itself, cuts its steps.
    pub recorded: Option<Batching>,
    pub chosen: &'a Chosen,
}

impl<M, A, V, P, O, D, R> Preparation<'_, M, A, V, P, O, D, R>
where
    M: LanguageModel,
    A: Adapter,
    V: VisionEncoder,
    P: Projector,
    O: Objective<Signal: Signal>,
    D: DataKind,
    R: Reference,
{
    /// Everything that can be refused without the weights; what the recipe makes is put into `made_dir`.
    ///
    /// # Errors
    /// [`RecipeError`] of model folder, data or settings.
    pub fn prepare(&self, made_dir: &Path) -> Result<Prepared<M, V, P, D>, RecipeError> {
        let places = self.places(made_dir)?;
        let (opened, encoder) = self.open(&places)?;
        let encoder = Arc::new(encoder);
        let loader = self.loader(&encoder);
        let (dataset, checked, mut notes) = self.check("training data", &places.data, &places, &encoder)?;
        let mut eval = None;
        let (mut picks, mut watch) = (Vec::new(), Watch::default());
        let mut eval_checked = None;
        let mut fingerprints = Fingerprints { train: self.fingerprint(&dataset, &checked, &opened), eval: None };
        if !places.eval.is_empty() {
            let (dataset, checked, found) = self.check("held-out data", &places.eval, &places, &encoder)?;
            notes.extend(found);
            fingerprints.eval = Some(self.fingerprint(&dataset, &checked, &opened));
            let stop = Stop {
                end_tokens: tools::end_tokens(&opened.folder.dir, &encoder),
                max_new_tokens: self.settings.train.max_new_tokens,
            };
            let held_out = self.held_out(dataset, &checked, &encoder, stop)?;
            (picks, watch) = self.watched(&held_out)?;
            eval = Some(held_out);
            eval_checked = Some(checked);
        }
        let mut checked = checked;
        let facts = std::mem::take(&mut checked.facts);
        let (batching, sizes) = self.size(&opened, &checked, eval_checked.as_ref())?;
        let train = &batched(&self.settings.train, batching);
        let plan = self.plan(train, &checked);
        let before = notes.len();
        notes.extend(sizes);
        notes.push(self.describe(&plan, train, &checked));
        notes[before..].iter().for_each(|line| say!("{line}"));
        let batching = self.arguments.auto_batch.then_some(batching);
        let left_out = left_out(&checked, &dataset);
        let inputs = self.inputs(&places, &dataset, eval.as_ref(), batching);
        let data = TrainData { dataset, encoder, loader, plan };
        Ok(Prepared { opened, data, eval, picks, watch, facts, fingerprints, notes, left_out, inputs, batching })
    }

    /// Everything that can be checked without the weights, one record as the model sees it, steps and memory.
    ///
    /// # Errors
    /// [`RecipeError`] of model folder, data or settings.
    pub fn dry_run(&self) -> Result<(), RecipeError> {
        let scratch = making::Scratch::new()?;
        let places = self.places(scratch.path())?;
        let (opened, encoder) = self.open(&places)?;
        // Names, shapes and lengths stand in the headers; the adapter's targets in the model's own structure.
        // A model of the hub was fetched without its weights.
        if !self.remote {
            Shards::open(&opened.folder.dir)?;
        }
        self.check_reference(&opened)?;
        let (dataset, checked, _) = self.check("training data", &places.data, &places, &encoder)?;
        if let Some(sample) = preflight::show_sample(&dataset, &encoder, &checked) {
            say!("{sample}");
        }
        let mut eval = None;
        if !places.eval.is_empty() {
            let (dataset, checked, _) = self.check("held-out data", &places.eval, &places, &encoder)?;
            let stop = Stop { end_tokens: Vec::new(), max_new_tokens: self.settings.train.max_new_tokens };
            self.watched(&self.held_out(dataset, &checked, &Arc::new(encoder.clone()), stop)?)?;
            eval = Some(checked);
        }
        let (batching, sizes) = self.size(&opened, &checked, eval.as_ref())?;
        let train = batched(&self.settings.train, batching);
        sizes.iter().for_each(|line| say!("{line}"));
        say!("{}", self.describe(&self.plan(&train, &checked), &train, &checked));
        say!("everything that can be checked without the weights is in order");
        Ok(())
    }

    /// The held-out records, and how they are asked.
    fn held_out(
        &self,
        dataset: Arc<Dataset<D>>,
        checked: &Checked,
        encoder: &Arc<Encoder>,
        stop: Stop,
    ) -> Result<EvalData<D>, RecipeError> {
        Ok(EvalData {
            usable: (0..dataset.len()).filter(|&i| checked.signed_lengths[i] != 0).collect(),
            dataset,
            encoder: encoder.clone(),
            batch_size: self.settings.train.per_device_eval_batch_size,
            loader: self.loader(encoder),
            decoding: self.settings.decoding(&stop, encoder)?,
            stop,
        })
    }

    /// What evaluations show and compute of these records.
    fn watched(&self, data: &EvalData<D>) -> Result<(Vec<usize>, Watch), RecipeError> {
        self.settings.check_reward()?;
        Ok((self.settings.picks(data)?, self.settings.watch(data)?))
    }

    /// The user's model and data, or made ones in `made_dir`.
    fn places(&self, made_dir: &Path) -> Result<Places, RecipeError> {
        let (arguments, seed) = (self.arguments, self.settings.train.seed);
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
            let data = making::data(made_dir, &self.settings.data, seed, has_vision::<V>())?;
            let chance = match has_vision::<V>() {
                true => {
                    format!(" (answering from a wrong picture would be right {:.1}% of the time)", data.chance * 100.0)
                }
                false => String::new(),
            };
            say!(
                "data: made {} records, {} held out, in {}{chance}",
                making::train_records::<D>(),
                super::made::MadeTraining::EVAL_RECORDS,
                made_dir.display(),
            );
            places.data = vec![data.train_json];
            places.eval = vec![data.eval_json];
        }
        if arguments.model.is_none() {
            let texts = making::Texts { data: &places.data, images: &places.images };
            places.model =
                making::model(&made_dir.join("model"), &self.settings.data, &texts, seed, has_vision::<V>())?;
            if self.settings.makes_teacher(arguments) {
                let dir = made_dir.join(TEACHER);
                making::teacher(&dir, &self.settings.data, &texts, seed, has_vision::<V>())?;
                say!("teacher: made a random one that is surer of itself, in {}", dir.display());
            }
            say!("model: made a small random one, in {}", places.model.display());
            say!(
                "       a random model has nothing that is worth freezing, so here, and only here, more of it is trained: see \
                 `parameters` below"
            );
        }
        Ok(places)
    }

    fn open(&self, places: &Places) -> Result<(Opened<M, V, P>, Encoder), RecipeError> {
        let settings = self.settings;
        let device = self.chosen.device.clone().autodiff();
        device.seed(settings.train.seed);
        let folder = ModelFolder::open(&places.model)?;
        if !self.arguments.dry_run {
            prefetch(&folder.dir);
        }
        let folder = match &self.arguments.adapter {
            Some(adapter) => folder.beside(adapter)?,
            None => folder,
        };
        let folder = folder.with_head(settings.objective.head())?.with_tokens(settings.tokens.clone());
        let mut folder = folder.with_start_end(settings.image.start_end);
        if self.arguments.dry_run {
            folder.wanted = Wanted::ModelWithoutWeights;
        }
        let mut opened = Opened::of(folder, &settings.model, &settings.vision, &settings.projector, &device)?;
        let saved_whole = settings.adapter.modules_to_save().unwrap_or_default();
        opened.quantize(&settings.quantize, &|name| trainable(name, &settings.train, saved_whole))?;
        if let Some(processor) = &mut opened.processor {
            // An adapter was trained on images as its own settings make them; the user's words go before.
            let own = self.arguments.adapter.as_ref().filter(|dir| dir.join("preprocessor_config.json").is_file());
            if let Some(dir) = own {
                *processor = ImageProcessor::from_dir(dir)?;
            }
            settings.image.apply(processor);
        }
        let image_token = opened.image_token.as_ref().map(|(text, _)| text.as_str());
        let name = settings.reading.template.as_deref();
        let template = tools::template(&opened.folder, name, &opened.tokenizer, image_token)?;
        opened.added.notes.iter().for_each(|note| say!("tokens: {note}"));
        // Where no answer is learned, none is generated that had to end.
        if <D::Shape as Shape>::LEARNS == Learns::Answers {
            check_end_of_turn(&template, &opened.tokenizer)?;
        }
        let encoder = Encoder {
            tokenizer: opened.tokenizer.clone(),
            template,
            image: tools::image_encoding(&opened),
            max_length: settings.reading.max_tokens_count,
            overlong: settings.reading.overlong,
            options: (&settings.reading).into(),
        };
        Ok((opened, encoder))
    }

    /// Reads and checks the records of some files, and says what was found.
    #[allow(clippy::type_complexity)]
    fn check(
        &self,
        label: &str,
        files: &[PathBuf],
        places: &Places,
        encoder: &Encoder,
    ) -> Result<(Arc<Dataset<D>>, Checked, Vec<String>), RecipeError> {
        let dataset = Dataset::open_with(self.settings.data.clone(), files, &places.images, self.settings.train.seed)?;
        let bad_record = self.settings.reading.bad_record;
        let objective = &self.settings.objective;
        let how = Check {
            decode: self.arguments.decode,
            keeps_facts: objective.wants_facts(),
            hashes_images: self.stores || matches!(self.settings.anchor(), AnchorPlan::Stored { .. }),
            accepts: &|facts| objective.accepts(facts),
        };
        let checked = preflight::check_records(&dataset, encoder, bad_record, &how)?;
        let mut notes = preflight::describe(label, &checked, dataset.len());
        notes.extend(dataset.source_lines().into_iter().map(|line| format!("  {line}")));
        for line in &notes {
            say!("{line}");
        }
        Ok((Arc::new(dataset), checked, notes))
    }

    fn loader(&self, encoder: &Encoder) -> LoaderSettings {
        let train = &self.settings.train;
        LoaderSettings {
            workers: train.dataloader_num_workers,
            prefetch: train.dataloader_num_workers * train.dataloader_prefetch_factor,
            bad_record: self.settings.reading.bad_record,
            padding: Padding {
                token: tools::pad_id(&encoder.tokenizer),
                side: PadSide::Right,
                multiple_of: PAD_MULTIPLE,
            },
            mismatched: self.settings.objective.compares_mismatched(),
        }
    }

    /// What log-probabilities of these records depend on, the weights aside.
    fn fingerprint(&self, data: &Dataset<D>, checked: &Checked, opened: &Opened<M, V, P>) -> [String; 3] {
        let settings = self.settings;
        let mut images = Sha256::new();
        images.update(opened.processor.as_ref().map(|processor| processor.to_json().to_string()).unwrap_or_default());
        for part in [json!(settings.vision), json!(settings.projector), json!(settings.tokens), json!(settings.image)] {
            images.update(part.to_string());
        }
        if settings.quantize.format().is_some() {
            images.update(json!(settings.quantize).to_string());
        }
        images.update(checked.images_hash().to_le_bytes());
        let images = images.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        [data.fingerprint(), checked.encoding(), images]
    }

    /// The order of the steps, cut as `train` says.
    pub(super) fn plan(&self, train: &Train, checked: &Checked) -> Plan {
        let sampler = sampler(train);
        if train.packing {
            let capacity = self.settings.reading.max_tokens_count;
            return Plan::packed(train, sampler == Sampler::Shuffled, &checked.lengths, capacity);
        }
        match sampler {
            Sampler::Bucketed => {
                Plan::new(train, sampler, &checked.lengths.iter().map(|&n| n as i64).collect::<Vec<_>>())
            }
            _ => Plan::new(train, sampler, &checked.signed_lengths),
        }
    }

    /// The steps, and of records of one row how much of their batches is padding.
    fn describe(&self, plan: &Plan, train: &Train, checked: &Checked) -> String {
        let rows = train.per_device_train_batch_size * train.gradient_accumulation_steps;
        let batches = plan.epoch(0);
        let mut line = match train.packing {
            false => format!("plan: {} steps of {rows} records", plan.total_steps),
            true => format!(
                "plan: {} steps of {rows} rows, into {} of which {} records are packed",
                plan.total_steps,
                batches.iter().map(|batch| batch.len()).sum::<usize>(),
                checked.ok
            ),
        };
        if <D::Shape as Shape>::ROWS == 1 {
            let padding = |batches: &[Lines]| 100.0 * (1.0 - Fill::of(batches, &checked.lengths, PAD_MULTIPLE).share());
            line += &format!("; {:.1}% padding", padding(&batches));
            if train.packing || sampler(train) == Sampler::Bucketed {
                // With as many records to a step.
                let lines: usize = batches.iter().map(|batch| batch.len()).sum();
                let batch = train.per_device_train_batch_size * checked.ok.div_ceil(lines.max(1));
                let even = Train { per_device_train_batch_size: batch, ..train.clone() };
                let shuffled = Plan::new(&even, Sampler::Shuffled, &checked.signed_lengths).epoch(0);
                line += &format!(" ({:.1}% without)", padding(&shuffled));
            }
        }
        line
    }

    /// How the steps are cut, and what the memory plan says.
    fn size(
        &self,
        opened: &Opened<M, V, P>,
        checked: &Checked,
        eval: Option<&Checked>,
    ) -> Result<(Batching, Vec<String>), RecipeError> {
        self.batching(&Sized {
            checked,
            eval,
            parameters: &self.parameters(opened)?,
            hints: self.hints(opened),
            others: self.others(),
            quant: &opened.quant,
            base: memory::resident(),
        })
    }

    /// What can be said of a reference, and of a model that is only logged, without weights.
    fn check_reference(&self, opened: &Opened<M, V, P>) -> Result<(), RecipeError> {
        let settings = self.settings;
        let device = self.chosen.device.clone().autodiff();
        let beside = reference::BesideIt {
            model: &settings.model,
            vision: &settings.vision,
            projector: &settings.projector,
            tokenizer: &opened.tokenizer,
            processor: &opened.processor,
            tokens_per_image: opened.model.tokens_per_image(),
            device: &device,
            wanted: Wanted::ModelWithoutWeights,
        };
        if let Some(from) = &settings.train.metrics_model {
            beside.open(Path::new(from))?;
        }
        match settings.anchor() {
            AnchorPlan::Copy { from: Some(dir) } => beside.open(&dir).map(drop),
            AnchorPlan::Stored { path } => reference::check_stored(&path),
            _ => Ok(()),
        }
    }

    fn inputs(
        &self,
        places: &Places,
        data: &Dataset<D>,
        eval: Option<&EvalData<D>>,
        batching: Option<Batching>,
    ) -> Inputs {
        // A folder keeps its identity when it is named from elsewhere; what the recipe made moves with the run.
        let identity = |path: &PathBuf| path.canonicalize().unwrap_or_else(|_| path.clone());
        let model = self.arguments.model.as_ref().map(|_| identity(&places.model));
        let weights = self.arguments.model.as_ref().map(|_| weight_files(&places.model));
        let images: Vec<PathBuf> = self.arguments.images.iter().map(identity).collect();
        let template = self.settings.reading.template.as_ref().map(PathBuf::from).filter(|path| path.is_file());
        let template = template.and_then(|path| std::fs::read(path).ok()).map(|bytes| short_hash(&bytes));
        Inputs(BTreeMap::from(
            [
                ("template", json!(template)),
                ("recipe", json!(self.name)),
                ("model", model.map_or(json!("made"), |path| json!(path))),
                ("model_files", json!(weights)),
                ("adapter", json!(self.arguments.adapter.as_ref().map(identity))),
                ("adapter_files", json!(self.arguments.adapter.as_ref().map(|dir| weight_files(dir)))),
                ("data", json!(data.fingerprint())),
                ("eval_data", json!(eval.map(|e| e.dataset.fingerprint()))),
                ("images", json!(images)),
                (AUTO_BATCH, json!(batching)),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        ))
    }
}

/// Has a model's weights fetched from the disk while tokenizer and records are read; what is wrong with them is said when
/// they are loaded.
fn prefetch(dir: &Path) {
    let dir = dir.to_owned();
    std::thread::spawn(move || {
        let Ok(shards) = Shards::open(&dir) else { return };
        // More than fits would drive out what is read first.
        if memory::available().is_none_or(|room| shards.byte_len() < room / 2) {
            shards.prefetch();
        }
    });
}

fn short_hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// Name and size of each weight file of a folder, enough to notice that another model lies there, without reading it; and a
/// hash of each small file that says how to read it.
fn weight_files(dir: &Path) -> BTreeMap<String, Value> {
    let describe = |entry: std::fs::DirEntry| {
        let (name, path) = (entry.file_name().into_string().ok()?, entry.path());
        let value = match path.extension()?.to_str()? {
            "safetensors" | "bin" => json!(std::fs::metadata(&path).ok()?.len()),
            "json" | "jinja" | "model" => json!(short_hash(&std::fs::read(&path).ok()?)),
            _ => return None,
        };
        Some((name, value))
    };
    std::fs::read_dir(dir).into_iter().flatten().flatten().filter_map(describe).collect()
}

/// Records that are not trained on, by reason.
fn left_out<K: DataKind>(checked: &Checked, dataset: &Dataset<K>) -> BTreeMap<String, usize> {
    let mut reasons = dataset.left_out();
    for (reason, n) in checked.problem_counts.iter().chain(&checked.skipped) {
        *reasons.entry(reason).or_default() += n;
    }
    reasons.into_iter().map(|(reason, n)| (reason.to_owned(), n)).collect()
}

fn sampler(train: &Train) -> Sampler {
    match train.sampler.as_str() {
        "sequential" => Sampler::Sequential,
        "length" => Sampler::Length,
        "modality" => Sampler::Modality,
        "bucketed" => Sampler::Bucketed,
        _ => Sampler::Shuffled,
    }
}

/// Whether a step changes a parameter; `saved_whole` are the modules that an adapter's settings train whole.
pub(super) fn trainable(name: &str, train: &Train, saved_whole: &[String]) -> bool {
    if name.contains(FIXED) {
        return false;
    }
    if name.contains(".adapter.") || name.starts_with(SCORE) {
        return true;
    }
    let whole = module_to_save(name).filter(|module| *module != PROJECTOR);
    if whole.is_some_and(|module| saved_whole.iter().any(|saved| saved == module)) {
        return true;
    }
    match Part::of(name) {
        Part::VisionTower => train.vision_tower,
        Part::Projector => train.projector,
        Part::LanguageModel => train.language_model.unwrap_or(false),
    }
}
