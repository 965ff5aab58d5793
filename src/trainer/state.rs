//! What a run checkpoint holds: trained weights, moments, counters.

use super::anchor::Anchor;
use super::moments::{Moments, Optim};
use super::optimizer::AdamW;
use super::policy::Policy;
use crate::checkpoint::{self, CheckpointError, HostTensor, Pending, Shards, bridge, run};
use crate::nn::params::{ParamInfo, list_trainable};
use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

const REFERENCE: &str = "reference.safetensors";
const WEIGHTS: &str = "trainable.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";

/// The counters of a run; everything else follows from them and the settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    /// Optimizer steps done.
    pub step: usize,
    /// Whether an interrupt came before an evaluation that was due.
    pub pending_evaluation: bool,
    /// Tokens seen, padding aside.
    pub num_tokens: usize,
    /// Sum of the losses since the last log line.
    #[serde(with = "exact")]
    pub window_loss: f64,
    /// Steps since the last log line.
    pub window_steps: usize,
    /// The objective's metrics since the last log line.
    #[serde(default)]
    pub window_metrics: BTreeMap<String, Mean>,
    /// What the objective carries from step to step.
    #[serde(default)]
    pub objective: crate::objectives::State,
    /// Seconds of training, evaluation and checkpoints aside.
    #[serde(with = "exact")]
    pub train_seconds: f64,
    /// Records left out so far, by reason.
    pub skipped: BTreeMap<String, usize>,
    /// The best evaluation so far: step and value.
    #[serde(with = "exact_best")]
    pub best: Option<(usize, f64)>,
    /// Evaluations in a row that were no improvement.
    #[serde(default)]
    pub stale_evaluations: usize,
    /// Whether that were so many that the run stopped.
    #[serde(default)]
    pub stopped_early: bool,
}

/// A weighted mean that is still being added to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mean {
    /// Sum of the values, each times its weight.
    #[serde(with = "exact")]
    pub sum: f64,
    /// Sum of the weights.
    #[serde(with = "exact")]
    pub weight: f64,
}

impl Mean {
    /// Adds a sum of values and their weight.
    pub fn add(&mut self, sum: f64, weight: f64) {
        self.sum += sum;
        self.weight += weight;
    }

    /// The mean; not a number where nothing was added.
    pub fn value(&self) -> f64 {
        self.sum / self.weight
    }
}

/// The best evaluation, its number as its bits.
mod exact_best {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(best: &Option<(usize, f64)>, serializer: S) -> Result<S::Ok, S::Error> {
        best.map(|(step, value)| (step, value.to_bits())).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<(usize, f64)>, D::Error> {
        let best: Option<(usize, u64)> = Option::deserialize(deserializer)?;
        Ok(best.map(|(step, bits)| (step, f64::from_bits(bits))))
    }
}

/// A number as its bits: decimal text may come back one bit off.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(value.to_bits())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        u64::deserialize(deserializer).map(f64::from_bits)
    }
}

/// Writes `checkpoint-<step>`.
///
/// # Errors
/// [`CheckpointError::Io`]; [`CheckpointError::Changed`] where a file of frozen weights was written during the run.
pub fn save<M: Policy>(
    run_dir: &Path,
    model: &M,
    anchor: &Anchor<M>,
    optimizer: &AdamW,
    counters: &Counters,
) -> Result<PathBuf, CheckpointError> {
    checkpoint::unchanged()?;
    let weights = bridge::to_host(model, |_, trainable| trainable);
    let mut moments = Vec::new();
    for (name, held) in &optimizer.moments {
        moments.extend(held.pending(name));
    }
    let weights = weights.into_iter().map(|(name, tensor)| Pending::host(name, tensor)).collect();
    let mut files = vec![
        (WEIGHTS.to_owned(), run::Content::Tensors(weights)),
        (OPTIMIZER.to_owned(), run::Content::Tensors(moments)),
    ];
    if let Some(reference) = anchor.changing() {
        let trained: HashSet<String> = list_trainable(model).into_iter().map(|p| p.name).collect();
        let weights = bridge::to_host(reference, |name, _| trained.contains(name));
        let weights = weights.into_iter().map(|(name, tensor)| Pending::host(name, tensor)).collect();
        files.push((REFERENCE.to_owned(), run::Content::Tensors(weights)));
    }
    let state = serde_json::to_value(counters).map_err(|error| {
        let path = run_dir.join("state.json");
        CheckpointError::Json { path, line: 0, column: 0, message: error.to_string() }
    })?;
    run::save(run_dir, counters.step, files, &state)
}

/// A checkpoint's counters.
///
/// # Errors
/// [`CheckpointError::Json`] where they are of another form.
pub fn counters(found: &run::Found) -> Result<Counters, CheckpointError> {
    serde_json::from_value(found.state.clone()).map_err(|error| {
        let path = found.path.join("state.json");
        CheckpointError::Json { path, line: error.line(), column: error.column(), message: error.to_string() }
    })
}

/// What a checkpoint brings back.
#[derive(Debug)]
pub struct Saved<M> {
    /// The model.
    pub model: M,
    /// The reference.
    pub anchor: Anchor<M>,
    /// The moments.
    pub optimizer: AdamW,
    /// The counters.
    pub counters: Counters,
}

/// Puts a checkpoint's weights into `model`, and into a reference that changes, and reads the optimizer and the counters.
///
/// # Errors
/// [`CheckpointError`] where the checkpoint does not belong to this model, or its moments are held otherwise than `optim`
/// says.
pub fn restore<M: Policy>(
    found: &run::Found,
    model: M,
    anchor: Anchor<M>,
    optim: Optim,
    device: &Device,
) -> Result<Saved<M>, CheckpointError> {
    let counters = counters(found)?;
    let model = restore_weights(&found.path, model, device)?;
    let anchor = match anchor {
        Anchor::Model(reference, Some(sync)) => {
            let trained = list_trainable(&model);
            let plain = device.clone().inner();
            Anchor::Model(assign(&found.path.join(REFERENCE), reference, trained, &plain)?, Some(sync))
        }
        other => other,
    };
    let shards = Shards::open_file(&found.path.join(OPTIMIZER))?;
    let mut optimizer = AdamW { optim, ..AdamW::default() };
    let plain = device.clone().inner();
    for view in shards.iter() {
        optimizer.moments.extend(Moments::read(&shards, &view, optim, &plain)?);
    }
    Ok(Saved { model, anchor, optimizer, counters })
}

/// Puts a checkpoint's weights into `model`.
///
/// # Errors
/// [`CheckpointError`] where the checkpoint does not belong to this model.
pub fn restore_weights<M: Module>(checkpoint: &Path, model: M, device: &Device) -> Result<M, CheckpointError> {
    let trained = list_trainable(&model);
    assign(&checkpoint.join(WEIGHTS), model, trained, device)
}

/// Gives a model the parameters in `file`, which must be exactly these.
fn assign<M: Module>(file: &Path, model: M, parameters: Vec<ParamInfo>, device: &Device) -> Result<M, CheckpointError> {
    let shards = Shards::open_file(file)?;
    let expected: Vec<checkpoint::Expected> =
        parameters.into_iter().map(|p| checkpoint::Expected::required(p.name, p.shape)).collect();
    let resolved = checkpoint::resolve(&expected, &shards, checkpoint::Rename::default(), &[])?;
    let tensors: HashMap<String, HostTensor> =
        resolved.into_iter().map(|r| (r.expected.name, r.view.to_host())).collect();
    Ok(bridge::assign(model, tensors, device))
}
