//! The reference policy of a run, from its settings; and the recipe that stores what one says.

use super::fetch;
use super::folder::ModelFolder;
use super::opened::{Loaded, Opened, VlmOf};
use super::prepare::Fingerprints;
use super::{Arguments, RecipeError};
use crate::checkpoint::hub::Wanted;
use crate::data::{BadRecord, DataKind, Dataset, Encoder, Loader, LoaderSettings};
use crate::example::Shape;
use crate::models::LanguageModel;
use crate::projector::Projector;
use crate::text::Tokenizer;
use crate::trainer::anchor::{AnchorPlan, Fingerprint, StoredLogProbs, StoredWriter};
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
            AnchorPlan::Copy { from: Some(dir) } => Anchor::Model(self.other(&dir, &loaded.tokenizer)?, None),
            AnchorPlan::AdapterOff => Anchor::Model(loaded.model.without_adapters().valid(), None),
            AnchorPlan::Synced(sync) => Anchor::Model(loaded.model.valid(), Some(sync)),
            AnchorPlan::Stored { path } => self.stored(&path, &loaded.folder.dir)?,
        })
    }

    /// Another model, which must read the same tokens.
    pub fn other(&self, dir: &Path, tokenizer: &Tokenizer) -> Result<VlmOf<M, V, P>, RecipeError> {
        let dir = match dir.is_dir() {
            true => dir.to_owned(),
            false => fetch::folder(dir, Wanted::Model)?,
        };
        let folder = ModelFolder::open(&dir)?.with_head(None)?;
        let opened = Opened::of(folder, self.model, self.vision, self.projector, self.device)?;
        if let Some(id) = first_difference(tokenizer, &opened.tokenizer) {
            return Err(RecipeError::Structure {
                dir,
                problem: format!(
                    "reads other tokens than the model that is trained: id {id} is {:?} there and {:?} here",
                    opened.tokenizer.token(id).unwrap_or_default(),
                    tokenizer.token(id).unwrap_or_default()
                ),
                advice: "a reference policy must have the tokenizer of the model that is trained".to_owned(),
            });
        }
        let loaded = opened.load(self.projector, &|_| false, self.device)?;
        Ok(loaded.model.valid())
    }

    fn stored(&self, path: &Path, model: &Path) -> Result<Anchor<VlmOf<M, V, P>>, RecipeError> {
        let weights = weights(model, self.arguments.adapter.as_deref())?;
        let open = |part: &str, (data, encoding): &(String, String)| {
            let (model, data, encoding) = (weights.clone(), data.clone(), encoding.clone());
            StoredLogProbs::open(&path.join(part), &Fingerprint { model, data, encoding })
        };
        let train = open(TRAIN, &self.fingerprints.train)?;
        let there = path.join(EVAL).is_dir();
        let eval = match &self.fingerprints.eval {
            Some(now) if there => Some(open(EVAL, now)?),
            _ => None,
        };
        Ok(Anchor::Stored { train, eval })
    }
}

/// The first id that two tokenizers read as different tokens.
fn first_difference(a: &Tokenizer, b: &Tokenizer) -> Option<u32> {
    let ids = a.vocab_size().max(b.vocab_size()) as u32;
    (0..ids).find(|&id| a.token(id) != b.token(id))
}

/// SHA-256 over the weight files of a model and its adapter.
///
/// # Errors
/// [`RecipeError::Io`].
fn weights(model: &Path, adapter: Option<&Path>) -> Result<String, RecipeError> {
    let mut whole = Sha256::new();
    for dir in std::iter::once(model).chain(adapter) {
        let entries = std::fs::read_dir(dir).map_err(RecipeError::io(dir))?.flatten();
        let mut files: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|e| e == "safetensors" || e == "bin"))
            .collect();
        files.sort();
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
    weights_of: (&Path, Option<&Path>),
    data: (&TrainData<K>, Option<&EvalData<K>>),
    fingerprints: &Fingerprints,
    device: &Device,
) -> Result<(), RecipeError> {
    let model_hash = weights(weights_of.0, weights_of.1)?;
    let (train, eval) = data;
    let mut parts =
        vec![(TRAIN, &train.dataset, &train.encoder, train.loader, train.plan.batch(), &fingerprints.train)];
    if let (Some(eval), Some(fingerprint)) = (eval, &fingerprints.eval) {
        parts.push((EVAL, &eval.dataset, &eval.encoder, eval.loader, eval.batch_size, fingerprint));
    }
    for (part, dataset, encoder, loader, batch, (data, encoding)) in parts {
        let stored = log_probs(model, dataset, encoder, loader, batch, device)?;
        let fingerprint = Fingerprint { model: model_hash.clone(), data: data.clone(), encoding: encoding.clone() };
        stored.write(&dir.join(part), fingerprint)?;
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
    // What the run would leave out is left out here: it was told already.
    let settings = LoaderSettings { mismatched: false, bad_record: BadRecord::Skip, ..loader };
    let progress = Progress::work(dataset.len() as u64, "computing log-probabilities");
    for loaded in Loader::new(dataset.clone(), encoder.clone(), batches, 0, settings)? {
        let loaded = loaded?;
        progress.inc((loaded.skipped.len() + loaded.batch.as_ref().map_or(0, |b| b.examples())) as u64);
        let Some(batch) = loaded.batch else { continue };
        let scored = model.score(&batch, device);
        stored.add(&batch, scored.log_probs);
    }
    progress.finish();
    Ok(stored)
}
