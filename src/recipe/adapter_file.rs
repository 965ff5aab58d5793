//! Reading a PEFT adapter folder onto a model.

use super::RecipeError;
use super::opened::{Loaded, VlmOf};
use crate::adapters::{Adapter, AdapterError, Start};
use crate::checkpoint::{CheckpointError, Expected, HostTensor, Shards, TensorView, bridge, read_json, resolve};
use crate::models::LanguageModel;
use crate::nn::params;
use crate::projector::Projector;
use crate::vision::VisionEncoder;
use crate::vlm::{Layout, Vlm, peft_rename};
use burn::tensor::Device;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::collections::HashMap;
use std::path::Path;

/// The settings in a folder's `adapter_config.json`.
///
/// # Errors
/// [`RecipeError::Adapter`] where it is of another kind.
pub fn read_settings<A: Adapter>(dir: &Path) -> Result<A, RecipeError> {
    let config = read_json(&dir.join("adapter_config.json"))?;
    A::from_peft_config(&config).map_err(|source| RecipeError::AdapterFolder { dir: dir.to_owned(), source })
}

/// Puts an adapter on a model: beside its layers, or in front of every row.
///
/// # Errors
/// [`AdapterError`] of an adapter that does not suit the model.
pub fn attach<M: LanguageModel, A: Adapter, V: VisionEncoder, P: Projector>(
    model: &mut VlmOf<M, V, P>,
    adapter: &A,
    layout: Layout,
    start: Start<'_>,
    rng: &mut ChaCha8Rng,
    device: &Device,
) -> Result<(), AdapterError> {
    let prefix = Vlm::<M::Model, V::Model, P::Model>::module_prefix(layout);
    model.language_model = adapter.attach(model.language_model.clone(), prefix, rng, device)?;
    model.virtual_tokens = adapter.virtual_tokens(&model.language_model, start, rng, device)?;
    Ok(())
}

/// Attaches the adapter in `dir` and gives it, and the projector where it was saved beside it, the folder's weights.
///
/// # Errors
/// [`RecipeError::Checkpoint`] naming every tensor that is missing, unexpected or misshapen.
pub fn load<M: LanguageModel, A: Adapter, V: VisionEncoder, P: Projector>(
    mut loaded: Loaded<M, V, P>,
    adapter: &A,
    dir: &Path,
    device: &Device,
) -> Result<Loaded<M, V, P>, RecipeError> {
    let layout = loaded.layout();
    // Every value drawn here is replaced by the folder's.
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    attach::<M, A, V, P>(&mut loaded.model, adapter, layout, Start::Saved, &mut rng, device)
        .map_err(|source| RecipeError::AdapterFolder { dir: dir.to_owned(), source })?;
    let shards = open(dir)?;
    let keys = keys_of(&mut loaded, layout);
    let expected: Vec<Expected> = keys
        .iter()
        .map(|(key, (_, shape, required))| match required {
            true => Expected::required(key.clone(), shape.clone()),
            false => Expected::optional(key.clone(), shape.clone()),
        })
        .collect();
    let resolved = resolve(&expected, &shards, peft_rename(layout), &[])?;
    let tensors: HashMap<String, HostTensor> = resolved
        .into_iter()
        .filter_map(|r| Some((keys.get(&r.expected.name)?.0.clone(), r.view)))
        .map(|(name, view)| Ok((name, finite(view)?)))
        .collect::<Result<_, CheckpointError>>()?;
    loaded.model = bridge::assign(loaded.model, tensors, device);
    Ok(loaded)
}

/// The tensor in f32; integers and what is not finite are refused.
fn finite(view: TensorView<'_>) -> Result<HostTensor, CheckpointError> {
    match HostTensor::from_f32(view.shape.to_vec(), view.to_finite_f32()?) {
        Some(tensor) => Ok(tensor),
        None => unreachable!("a view has as many elements as its shape"),
    }
}

fn open(dir: &Path) -> Result<Shards, CheckpointError> {
    Shards::open_stem(dir, "adapter_model")
}

/// PEFT's key of a table of virtual tokens, whichever tuner made it.
pub(super) const PROMPT_EMBEDDINGS: &str = "prompt_embeddings";

type Keys = HashMap<String, (String, Vec<usize>, bool)>;

/// PEFT's key -> parameter, shape, whether the file must have it.
fn keys_of<M: LanguageModel, V: VisionEncoder, P: Projector>(loaded: &mut Loaded<M, V, P>, layout: Layout) -> Keys {
    let mut keys = Keys::new();
    loaded.model.visit_linears(&mut |path, linear| {
        let Some(slot) = &linear.adapter else { return };
        for (index, matrix) in slot.rule.names().iter().enumerate() {
            let key = Vlm::<M::Model, V::Model, P::Model>::peft_adapter_key(path, matrix, layout);
            let name = format!("language_model.{path}.adapter.params.{index}");
            keys.insert(key, (name, slot.params[index].lazy_shape().to_vec(), true));
        }
    });
    if let Some(virtual_tokens) = &loaded.model.virtual_tokens {
        let shape = virtual_tokens.adapter.matrices[0].lazy_shape().to_vec();
        keys.insert(PROMPT_EMBEDDINGS.to_owned(), ("virtual_tokens.adapter.matrices.0".to_owned(), shape, true));
    }
    for parameter in params::list(&loaded.model) {
        if let Some(key) = loaded.model.peft_projector_key(&parameter.name) {
            keys.insert(key, (parameter.name, parameter.shape, false));
        }
    }
    keys
}
