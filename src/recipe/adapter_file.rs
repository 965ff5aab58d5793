//! Reading a PEFT adapter folder onto a model.

use super::RecipeError;
use super::opened::{Loaded, VlmOf};
use crate::adapters::{Adapter, AdapterError, PROJECTOR, Start};
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
    let keys = keys_of(&loaded, layout, adapter.modules_to_save().unwrap_or_default());
    let expected: Vec<Expected> = keys
        .iter()
        .map(|(key, known)| match known.required {
            true => Expected::required(key.clone(), known.file_shape.clone()),
            false => Expected::optional(key.clone(), known.file_shape.clone()),
        })
        .collect();
    let resolved = resolve(&expected, &shards, peft_rename(layout), BASE)?;
    let tensors: HashMap<String, HostTensor> = resolved
        .into_iter()
        .filter_map(|r| Some((keys.get(&r.expected.name)?.parameter.clone(), r.view)))
        .map(|(name, view)| Ok((name, finite(view)?)))
        .collect::<Result<_, CheckpointError>>()?;
    loaded.model = bridge::assign(loaded.model, tensors, device);
    Ok(loaded)
}

/// Tables of the base that PEFT saves beside some adapters, though nothing trains them.
const BASE: &[&str] = &["*.embed_tokens.token_adapter.base_layer.weight", "*lm_head.token_adapter.base_layer.weight"];

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

/// A parameter that the file may hold.
struct Known {
    parameter: String,
    file_shape: Vec<usize>,
    required: bool,
}

/// By PEFT's keys.
fn keys_of<M: LanguageModel, V: VisionEncoder, P: Projector>(
    loaded: &Loaded<M, V, P>,
    layout: Layout,
    modules_to_save: &[String],
) -> HashMap<String, Known> {
    let mut keys = HashMap::new();
    for matrix in loaded.model.adapter_matrices(layout) {
        let known = Known { parameter: matrix.parameter, file_shape: matrix.file_shape, required: true };
        keys.insert(matrix.key, known);
    }
    if let Some(virtual_tokens) = &loaded.model.virtual_tokens {
        let file_shape = virtual_tokens.adapter.matrices[0].lazy_shape().to_vec();
        let parameter = "virtual_tokens.adapter.matrices.0".to_owned();
        keys.insert(PROMPT_EMBEDDINGS.to_owned(), Known { parameter, file_shape, required: true });
    }
    for parameter in params::list(&loaded.model) {
        let Some((key, module)) = loaded.model.peft_module_key(&parameter.name, layout) else { continue };
        // What LLaVA's original code trained beside a LoRA may lie in a file of its own.
        let required = module != PROJECTOR && modules_to_save.iter().any(|saved| saved == module);
        let optional = [PROJECTOR, "score"].contains(&module);
        if required || optional {
            keys.insert(key, Known { parameter: parameter.name, file_shape: parameter.shape, required });
        }
    }
    keys
}
