//! The reference policy of a run, from its settings; and the recipe that stores what one says.

use super::fetch;
use super::folder::ModelFolder;
use super::opened::{Loaded, Opened, VlmOf};
use super::prepare::Fingerprints;
use super::{Arguments, RecipeError};
use crate::checkpoint::bridge::Hold;
use crate::checkpoint::hub::Wanted;
use crate::data::{DataKind, Dataset, Encoder, Loader, LoaderSettings};
use crate::example::Shape;
use crate::image::ImageProcessor;
use crate::models::LanguageModel;
use crate::projector::Projector;
use crate::text::Tokenizer;
use crate::trainer::anchor::{AnchorPlan, Fingerprint, StoredError, StoredLogProbs, StoredWriter};
use crate::trainer::progress::Progress;
use crate::trainer::{Anchor, EvalData, Policy, TrainData};
use crate::vision::VisionEncoder;
use burn::module::Module;
use burn::tensor::Device;
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The parts of a folder of stored log-probabilities.
const TRAIN: &str = "train";
const EVAL: &str = "eval";
/// Piece of a file that is hashed by one thread.
const HASH_PIECE: usize = 16 << 20;

/// What a reference is made with.
pub(super) struct Making<'a, M, V, P> {
    pub model: &'a M,
    pub vision: &'a V,
    pub projector: &'a P,
    pub arguments: &'a Arguments,
    pub fingerprints: &'a Fingerprints,
    /// With gradients.
    pub device: &'a Device,
}

impl<M: LanguageModel, V: VisionEncoder, P: Projector> Making<'_, M, V, P> {
    /// The reference that `plan` asks for, as it is before the first step of the run.
    ///
    /// # Errors
    /// [`RecipeError`] of a folder that does not fit.
    pub fn anchor(&self, plan: AnchorPlan, loaded: &Loaded<M, V, P>) -> Result<Anchor<VlmOf<M, V, P>>, RecipeError> {
        Ok(match plan {
            AnchorPlan::None => Anchor::None,
            AnchorPlan::Copy { from: None } => Anchor::Model(loaded.model.valid(), None),
            AnchorPlan::Copy { from: Some(dir) } => Anchor::Model(self.other(&dir, loaded)?, None),
            AnchorPlan::AdapterOff => Anchor::Model(loaded.model.without_adapters().valid(), None),
            AnchorPlan::Synced(sync) => Anchor::Model(loaded.model.valid(), Some(sync)),
            AnchorPlan::Stored { path } => self.stored(&path, &loaded.folder)?,
        })
    }

    /// Another model, which must read the same tokens.
    pub fn other(&self, dir: &Path, run: &Loaded<M, V, P>) -> Result<VlmOf<M, V, P>, RecipeError> {
        let beside = BesideIt {
            model: self.model,
            vision: self.vision,
            projector: self.projector,
            tokenizer: &run.tokenizer,
            processor: &run.processor,
            tokens_per_image: run.model.tokens_per_image(),
            device: self.device,
            wanted: Wanted::Model,
        };
        let loaded = beside.open(dir)?.load(self.projector, &|_| Hold::Frozen, self.device)?;
        Ok(loaded.model.valid())
    }

    fn stored(&self, path: &Path, model: &ModelFolder) -> Result<Anchor<VlmOf<M, V, P>>, RecipeError> {
        check_stored(path)?;
        let weights = weights(&folders(model, self.arguments.adapter.as_deref()))?;
        let open =
            |part: &str, now: &[String; 3]| StoredLogProbs::open(&path.join(part), &fingerprint(weights.clone(), now));
        let train = open(TRAIN, &self.fingerprints.train)?;
        let eval = match &self.fingerprints.eval {
            Some(_) if !path.join(EVAL).is_dir() => return Err(StoredError::NoEvaluation.into()),
            Some(now) => Some(open(EVAL, now)?),
            None => None,
        };
        Ok(Anchor::Stored { train, eval })
    }
}

/// A model beside the one that is trained, and what it must agree with.
pub(super) struct BesideIt<'a, M, V, P> {
    pub model: &'a M,
    pub vision: &'a V,
    pub projector: &'a P,
    /// Of the model that is trained, as the two that follow.
    pub tokenizer: &'a Tokenizer,
    pub processor: &'a Option<ImageProcessor>,
    pub tokens_per_image: usize,
    /// With gradients.
    pub device: &'a Device,
    /// What is fetched of a model of the hub.
    pub wanted: Wanted,
}

impl<M: LanguageModel, V: VisionEncoder, P: Projector> BesideIt<'_, M, V, P> {
    /// Opens it without its weights.
    ///
    /// # Errors
    /// [`RecipeError::Structure`] where it reads other tokens or images.
    pub fn open(&self, dir: &Path) -> Result<Opened<M, V, P>, RecipeError> {
        let dir = match dir.is_dir() {
            true => dir.to_owned(),
            false => fetch::folder(dir, self.wanted)?,
        };
        let folder = ModelFolder::open(&dir)?.with_head(None)?;
        let opened = Opened::of(folder, self.model, self.vision, self.projector, self.device)?;
        if let Some(id) = first_difference(self.tokenizer, &opened.tokenizer) {
            return Err(RecipeError::Structure {
                dir,
                problem: format!(
                    "reads other tokens than the model that is trained: id {id} is {:?} there and {:?} here",
                    opened.tokenizer.token(id).unwrap_or_default(),
                    self.tokenizer.token(id).unwrap_or_default()
                ),
                advice: "a reference policy must have the tokenizer of the model that is trained".to_owned(),
            });
        }
        let images = |processor: &Option<ImageProcessor>| processor.as_ref().map(|p| p.to_json());
        let (ours, theirs) = (self.tokens_per_image, opened.model.tokens_per_image());
        if ours != theirs || images(self.processor) != images(&opened.processor) {
            return Err(RecipeError::Structure {
                dir,
                problem: format!(
                    "sees other images than the model that is trained: {theirs} tokens an image there and {ours} here, or other \
                     sizes, means and deviations"
                ),
                advice: "a model beside the one that is trained must read the same images".to_owned(),
            });
        }
        Ok(opened)
    }
}

/// That a folder holds stored log-probabilities, without reading them.
///
/// # Errors
/// [`RecipeError::Structure`].
pub(super) fn check_stored(path: &Path) -> Result<(), RecipeError> {
    match path.join(TRAIN).is_dir() {
        true => Ok(()),
        false => Err(RecipeError::Structure {
            dir: path.to_owned(),
            problem: "holds no log-probabilities".to_owned(),
            advice: "reference.path takes the --output of the recipe preprocess_reference".to_owned(),
        }),
    }
}

/// The first id that two tokenizers read as different tokens.
fn first_difference(a: &Tokenizer, b: &Tokenizer) -> Option<u32> {
    let ids = a.vocab_size().max(b.vocab_size()) as u32;
    (0..ids).find(|&id| a.token(id) != b.token(id))
}

fn fingerprint(model: String, [data, encoding, images]: &[String; 3]) -> Fingerprint {
    Fingerprint { model, data: data.clone(), encoding: encoding.clone(), images: images.clone() }
}

/// Every file or folder that weights come from.
fn folders(model: &ModelFolder, adapter: Option<&Path>) -> Vec<PathBuf> {
    let tower = model.tower.as_ref().map(|(dir, _)| dir.clone());
    let others = tower.into_iter().chain(model.projector.clone()).chain(adapter.map(Path::to_owned));
    std::iter::once(model.dir.clone()).chain(others).collect()
}

/// SHA-256 over the weights, and over the files that say how to read them.
///
/// # Errors
/// [`RecipeError::Io`].
pub(super) fn weights(folders: &[PathBuf]) -> Result<String, RecipeError> {
    const SAY: [&str; 2] = ["config.json", "adapter_config.json"];
    let mut whole = Sha256::new();
    for place in folders {
        let mut files = vec![place.clone()];
        if place.is_dir() {
            let entries = std::fs::read_dir(place).map_err(RecipeError::io(place))?.flatten();
            let wanted = |path: &PathBuf| {
                let name = path.file_name().is_some_and(|name| SAY.iter().any(|say| name == *say));
                name || path.extension().is_some_and(|e| e == "safetensors" || e == "bin")
            };
            files = entries.map(|entry| entry.path()).filter(wanted).collect();
            files.sort();
        }
        for path in files {
            let file = std::fs::File::open(&path).map_err(RecipeError::io(&path))?;
            // SAFETY: the map is read-only and dropped here; whoever changes the weights while they are hashed changes
            // the model under a run that reads them, too.
            let bytes = unsafe { memmap2::Mmap::map(&file) }.map_err(RecipeError::io(&path))?;
            whole.update((bytes.len() as u64).to_le_bytes());
            let pieces: Vec<_> = bytes.par_chunks(HASH_PIECE).map(Sha256::digest).collect();
            pieces.iter().for_each(|piece| whole.update(piece));
        }
    }
    Ok(whole.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Computes what `model` says of every record and writes it into `dir`.
///
/// # Errors
/// [`RecipeError`] of a record that cannot be read, or where the folder cannot be written.
pub(super) fn store<P: Policy, K: DataKind>(
    dir: &Path,
    model: &P,
    weights_of: (&ModelFolder, Option<&Path>),
    data: (&TrainData<K>, Option<&EvalData<K>>),
    fingerprints: &Fingerprints,
    device: &Device,
) -> Result<(), RecipeError> {
    // What was stored of weights that changed meanwhile would be found and believed.
    let unchanged = crate::checkpoint::unchanged;
    let model_hash = weights(&folders(weights_of.0, weights_of.1))?;
    let (train, eval) = data;
    let mut parts =
        vec![(TRAIN, &train.dataset, &train.encoder, train.loader, train.plan.batch(), &fingerprints.train)];
    if let (Some(eval), Some(fingerprint)) = (eval, &fingerprints.eval) {
        parts.push((EVAL, &eval.dataset, &eval.encoder, eval.loader, eval.batch_size, fingerprint));
    }
    for (part, dataset, encoder, loader, batch, now) in parts {
        let stored = log_probs(model, dataset, encoder, loader, batch, device)?;
        unchanged()?;
        stored.write(&dir.join(part), fingerprint(model_hash.clone(), now))?;
    }
    Ok(())
}

fn log_probs<P: Policy, K: DataKind>(
    model: &P,
    dataset: &Arc<Dataset<K>>,
    encoder: &Arc<Encoder>,
    loader: LoaderSettings,
    batch: usize,
    device: &Device,
) -> Result<StoredWriter, RecipeError> {
    let mut stored = StoredWriter::new(dataset.len(), K::Shape::ROWS);
    let order: Vec<usize> = (0..dataset.len()).collect();
    let batches = order.chunks(batch.max(1)).map(<[usize]>::to_vec).collect();
    let settings = LoaderSettings { mismatched: false, ..loader };
    let mut skipped = 0;
    let progress = Progress::work(dataset.len() as u64, "computing log-probabilities");
    for loaded in Loader::new(dataset.clone(), encoder.clone(), batches, 0, settings)? {
        let loaded = loaded?;
        skipped += loaded.skipped.len();
        progress.inc((loaded.skipped.len() + loaded.batch.as_ref().map_or(0, |b| b.examples())) as u64);
        let Some(batch) = loaded.batch else { continue };
        let scored = model.score(&batch, device);
        stored.add(&batch, scored.log_probs);
    }
    progress.finish();
    if skipped > 0 {
        say!("  {skipped} records left out: they have no log-probabilities here");
    }
    Ok(stored)
}
