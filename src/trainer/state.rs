//! What a run checkpoint holds: trained weights, moments, counters.

use super::optimizer::{AdamW, Moments, flat};
use crate::checkpoint::{self, CheckpointError, HostTensor, Pending, Shards, bridge, run};
use burn::module::Module;
use burn::tensor::Device;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

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
    /// Seconds of training, evaluation and checkpoints aside.
    #[serde(with = "exact")]
    pub train_seconds: f64,
    /// Records left out so far, by reason.
    pub skipped: BTreeMap<String, usize>,
    /// The best evaluation so far: step and value.
    pub best: Option<(usize, f64)>,
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
/// [`CheckpointError::Io`].
pub fn save<M: Module>(
    run_dir: &Path,
    model: &M,
    optimizer: &AdamW,
    counters: &Counters,
) -> Result<PathBuf, CheckpointError> {
    let weights = bridge::to_host(model, |_, trainable| trainable);
    let mut moments = Vec::new();
    for (name, held) in &optimizer.moments {
        moments.push(Pending::host(format!("{name}/first"), bridge::host(held.first.clone())));
        moments.push(Pending::host(format!("{name}/second"), bridge::host(held.second.clone())));
        let steps = (held.steps as u64).to_le_bytes().to_vec();
        moments.push(Pending::owned(format!("{name}/steps"), vec![1], checkpoint::Dtype::U64, steps));
    }
    let weights = weights.into_iter().map(|(name, tensor)| Pending::host(name, tensor)).collect();
    let files = vec![
        (WEIGHTS.to_owned(), run::Content::Tensors(weights)),
        (OPTIMIZER.to_owned(), run::Content::Tensors(moments)),
    ];
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

/// Puts a checkpoint's weights into `model` and reads the optimizer and the counters.
///
/// # Errors
/// [`CheckpointError`] where the checkpoint does not belong to this model.
pub fn restore<M: Module>(
    found: &run::Found,
    model: M,
    device: &Device,
) -> Result<(M, AdamW, Counters), CheckpointError> {
    let counters = counters(found)?;
    let model = restore_weights(&found.path, model, device)?;
    let shards = Shards::open_file(&found.path.join(OPTIMIZER))?;
    let mut optimizer = AdamW::default();
    for view in shards.iter() {
        let Some(name) = view.name.strip_suffix("/first") else { continue };
        let second = shards.get(&format!("{name}/second"));
        let steps = shards.get(&format!("{name}/steps")).and_then(|v| v.bytes.try_into().ok()).map(u64::from_le_bytes);
        let (Some(second), Some(steps)) = (second, steps) else {
            return Err(CheckpointError::tensor(view.file, name, "has a first moment, but no second or no step count"));
        };
        let plain = device.clone().inner();
        let moments = Moments {
            first: flat(view.to_f32()?, &plain),
            second: flat(second.to_f32()?, &plain),
            steps: steps as usize,
        };
        optimizer.moments.insert(name.to_owned(), moments);
    }
    Ok((model, optimizer, counters))
}

/// Puts a checkpoint's weights into `model`.
///
/// # Errors
/// [`CheckpointError`] where the checkpoint does not belong to this model.
pub fn restore_weights<M: Module>(checkpoint: &Path, model: M, device: &Device) -> Result<M, CheckpointError> {
    let shards = Shards::open_file(&checkpoint.join(WEIGHTS))?;
    let expected: Vec<checkpoint::Expected> = crate::nn::params::list_trainable(&model)
        .into_iter()
        .map(|p| checkpoint::Expected::required(p.name, p.shape))
        .collect();
    let resolved = checkpoint::resolve(&expected, &shards, checkpoint::Rename::default(), &[])?;
    let tensors: HashMap<String, HostTensor> =
        resolved.into_iter().map(|r| (r.expected.name, r.view.to_host())).collect();
    Ok(bridge::assign(model, tensors, device))
}
