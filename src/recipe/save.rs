//! `final/`: what training leaves, in Hugging Face's and PEFT's layouts.

use super::folder::Loaded;
use crate::adapters::{Adapter, PeftContext};
use crate::checkpoint::{CheckpointError, DirWriter, HostTensor, Manifest, Pending, bridge, write_model};
use crate::models::{CausalLm, LanguageModel};
use crate::nn::Linear;
use crate::nn::params;
use crate::projector::Projector;
use crate::text::TextError;
use crate::vision::{VisionEncoder, VisionTower};
use crate::vlm::{Layout, Vlm};
use burn::module::{Param, ParamId};
use burn::tensor::Tensor;
use serde_json::{Value, json};
use std::path::Path;

use super::RecipeError;

/// Shards are cut at this size, as Hugging Face's default has it since transformers 5.
const SHARD_BYTES: u64 = 50_000_000_000;

/// What `final/` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// A whole model.
    Model,
    /// An adapter, and the projector where it was trained.
    Adapter,
}

/// Writes `dir`: an adapter where nothing but it and the projector of a saved model was trained, else the whole model
/// with the adapter merged into it.
///
/// # Errors
/// [`RecipeError::Checkpoint`] where the folder cannot be written.
pub fn save_final<M: LanguageModel, A: Adapter, V: VisionEncoder, P: Projector>(
    dir: &Path,
    loaded: &Loaded<M, V, P>,
    adapter: &A,
) -> Result<Saved, RecipeError> {
    let trained = params::list_trainable(&loaded.model);
    let beside = |name: &str| name.contains(".adapter.") || name.starts_with("multi_modal_projector.");
    let has_adapter = trained.iter().any(|p| p.name.contains(".adapter."));
    // An adapter needs a base that a file holds; a model put together from parts is in none.
    let has_base = !loaded.folder.is_assembled();
    if has_base && has_adapter && trained.iter().all(|p| beside(&p.name)) {
        save_adapter(dir, loaded, adapter)?;
        Ok(Saved::Adapter)
    } else {
        save_model(dir, loaded)?;
        Ok(Saved::Model)
    }
}

/// Writes a folder that `from_pretrained` of transformers 4 and 5 loads; adapters are merged.
///
/// # Errors
/// [`RecipeError::Checkpoint`] where the folder cannot be written.
pub fn save_model<M: LanguageModel, V: VisionEncoder, P: Projector>(
    dir: &Path,
    loaded: &Loaded<M, V, P>,
) -> Result<(), RecipeError> {
    let mut model = loaded.model.clone();
    merge(&mut model);
    let vision = loaded.processor.is_some();
    let layout = if vision { Layout::Composed } else { Layout::Plain };
    let mut tensors = Vec::new();
    for (name, tensor) in bridge::to_host(&model, |name, _| !name.contains(".adapter.")) {
        let keep = vision || name.starts_with("language_model.");
        if let (true, Some(key)) = (keep, model.file_key(&name, layout)) {
            tensors.push(Pending::host(key, tensor));
        }
    }
    let mut folder = DirWriter::create(dir)?;
    write_model(&mut folder, "model", tensors, Some(SHARD_BYTES))?;
    folder.write_json("config.json", &config(loaded, &model))?;
    write_generation_config(&mut folder, loaded)?;
    write_processor(&mut folder, loaded)?;
    loaded.tokenizer.save(folder.path()).map_err(RecipeError::Text)?;
    folder.commit(Manifest::Omitted)?;
    Ok(())
}

fn config<M: LanguageModel, V: VisionEncoder, P: Projector>(
    loaded: &Loaded<M, V, P>,
    model: &Vlm<M::Model, V::Model, P::Model>,
) -> Value {
    loaded.folder.saved_config(
        loaded.processor.is_some().then_some(&model.vision_tower),
        V::MODEL_TYPES.first().copied().unwrap_or_default(),
        model.language_model.vocab_size(),
        loaded.image_token.as_ref().map(|(_, id)| *id),
        model.tokens_per_image(),
        loaded.tokenizer.pad(),
    )
}

fn write_generation_config<M: LanguageModel, V: VisionEncoder, P: Projector>(
    folder: &mut DirWriter,
    loaded: &Loaded<M, V, P>,
) -> Result<(), CheckpointError> {
    let source = loaded.folder.dir.join("generation_config.json");
    match std::fs::read(&source) {
        Ok(bytes) => folder.write("generation_config.json", &bytes),
        Err(_) => folder.write_json(
            "generation_config.json",
            &json!({
                "bos_token_id": loaded.tokenizer.bos(),
                "eos_token_id": loaded.tokenizer.eos(),
                "pad_token_id": loaded.tokenizer.pad(),
            }),
        ),
    }
}

/// Both forms: transformers 4 reads `preprocessor_config.json`, 5 reads either.
fn write_processor<M: LanguageModel, V: VisionEncoder, P: Projector>(
    folder: &mut DirWriter,
    loaded: &Loaded<M, V, P>,
) -> Result<(), CheckpointError> {
    let (Some(processor), Some((token, _))) = (&loaded.processor, &loaded.image_token) else { return Ok(()) };
    folder.write_json("preprocessor_config.json", &processor.to_json())?;
    let strategy = loaded.model.vision_tower.root_config();
    let strategy = strategy.iter().find(|(key, _)| *key == "vision_feature_select_strategy");
    let mut value = json!({
        "processor_class": "LlavaProcessor",
        "image_token": token,
        // The class token is one more than the patches; the reference adds it and, under `default`, takes it off again.
        "num_additional_image_tokens": 1,
        "patch_size": loaded.folder.patch_size(),
    });
    if let Some((key, strategy)) = strategy {
        value[*key] = strategy.clone();
    }
    folder.write_json("processor_config.json", &value)
}

/// Adds every adapter's update to the weight it stands beside, and takes it off.
pub fn merge<L: CausalLm, T: VisionTower, P: crate::projector::ProjectorModel>(model: &mut Vlm<L, T, P>) {
    model.visit_linears(&mut |_, linear: &mut Linear| {
        let Some(slot) = linear.adapter.take() else { return };
        let params: Vec<Tensor<2>> = slot.params.iter().map(|p| p.val().inner()).collect();
        let weight = linear.weight.val().inner();
        match slot.rule.merged(weight, &params) {
            Some(merged) => linear.weight = Param::initialized(ParamId::new(), merged),
            // A tuner that does not merge stays beside the weight.
            None => linear.adapter = Some(slot),
        }
    });
}

/// Writes a folder that `PeftModel.from_pretrained` loads on top of the base model.
///
/// # Errors
/// [`RecipeError::Checkpoint`] where the folder cannot be written.
pub fn save_adapter<M: LanguageModel, A: Adapter, V: VisionEncoder, P: Projector>(
    dir: &Path,
    loaded: &Loaded<M, V, P>,
    adapter: &A,
) -> Result<(), RecipeError> {
    let layout = if loaded.processor.is_some() { Layout::Composed } else { Layout::Plain };
    let (mut tensors, targets) = adapter_tensors(loaded, layout);
    let mut modules_to_save = Vec::new();
    let trained = |name: &str, trainable: bool| trainable && name.starts_with("multi_modal_projector.");
    for (name, tensor) in bridge::to_host(&loaded.model, trained) {
        if let Some(key) = loaded.model.peft_projector_key(&name) {
            tensors.push(Pending::host(key, tensor));
            modules_to_save = vec!["multi_modal_projector".to_owned()];
        }
    }
    let context = PeftContext { base_model: base_path(&loaded.folder.dir), modules_to_save, targets };
    let mut folder = DirWriter::create(dir)?;
    write_model(&mut folder, "adapter_model", tensors, None)?;
    if let Some(config) = adapter.peft_config(&context) {
        folder.write_json("adapter_config.json", &config)?;
    }
    // What is needed to use the adapter without the run: the tokenizer with its template, and the image settings.
    write_processor(&mut folder, loaded)?;
    let save = |e: TextError| RecipeError::Text(e);
    loaded.tokenizer.save(folder.path()).map_err(save)?;
    folder.commit(Manifest::Omitted)?;
    Ok(())
}

/// Absolute, so that PEFT finds the base from anywhere.
fn base_path(dir: &Path) -> String {
    dir.canonicalize().unwrap_or_else(|_| dir.to_owned()).display().to_string()
}

fn adapter_tensors<'a, M: LanguageModel, V: VisionEncoder, P: Projector>(
    loaded: &Loaded<M, V, P>,
    layout: Layout,
) -> (Vec<Pending<'a>>, Vec<String>) {
    let (mut tensors, mut targets) = (Vec::new(), Vec::new());
    let mut model = loaded.model.clone();
    model.visit_linears(&mut |path, linear| {
        let Some(slot) = &linear.adapter else { return };
        for (param, matrix) in slot.params.iter().zip(slot.rule.names()) {
            let host: HostTensor = bridge::host(param.val());
            let key = Vlm::<M::Model, V::Model, P::Model>::peft_adapter_key(path, matrix, layout);
            tensors.push(Pending::host(key, host));
        }
        targets.push(format!("{}{path}", Vlm::<M::Model, V::Model, P::Model>::module_prefix(layout)));
    });
    (tensors, targets)
}
