//! `final/`: what training leaves, in Hugging Face's and PEFT's layouts.

use super::adapter_file::PROMPT_EMBEDDINGS;
use super::opened::{ACT, Loaded, SINGLE, VlmOf};
use super::shape::{Shape, WeightType};
use crate::adapters::{Adapter, AdapterError, ModelSizes, PeftContext};
use crate::checkpoint::{CheckpointError, DirWriter, HostTensor, JsonFile, Manifest, Pending, bridge, write_model};
use crate::image::AspectRatio;
use crate::models::{CausalLm, LanguageModel};
use crate::nn::{TRAINED_ROWS, params};
use crate::projector::{Identity, Linear as Linear1, Mlp, Projector};
use crate::text::TextError;
use crate::vision::{VisionEncoder, VisionTower};
use crate::vlm::{Layout, Original, Part, Vlm, for_original_code, module_to_save, to_original};
use serde_json::{Value, json};
use std::any::TypeId;
use std::path::Path;

use super::{RecipeError, head};

/// What `final/` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saved {
    /// A whole model.
    Model,
    /// An adapter, and the projector where it was trained.
    Adapter,
    /// The projector alone, as LLaVA's first stage leaves it.
    Projector,
}

/// Writes `dir`: the projector where nothing else was trained, an adapter where nothing but it and the projector of a saved
/// model was, else the whole model with the adapter merged into it.
///
/// # Errors
/// [`RecipeError::Checkpoint`] where the folder cannot be written, or a file of frozen weights was written during the run.
pub fn save_final<M: LanguageModel, A: Adapter, V: VisionEncoder, P: Projector>(
    dir: &Path,
    loaded: &Loaded<M, V, P>,
    adapter: &A,
) -> Result<Saved, RecipeError> {
    crate::checkpoint::unchanged()?;
    let saved = Saved::of(loaded);
    match saved {
        Saved::Projector => save_projector(dir, loaded)?,
        Saved::Adapter => save_adapter(dir, loaded, adapter)?,
        Saved::Model => save_model(dir, loaded, Shape::TRAINED)?,
    }
    Ok(saved)
}

impl Saved {
    /// What training will leave, as `loaded` stands before it.
    fn of<M: LanguageModel, V: VisionEncoder, P: Projector>(loaded: &Loaded<M, V, P>) -> Self {
        let trained = params::list_trainable(&loaded.model);
        let beside = |name: &str| name.contains(".adapter.") || module_to_save(name).is_some();
        let rows = |name: &str| name.ends_with(TRAINED_ROWS);
        let has_adapter = trained.iter().any(|p| p.name.contains(".adapter.") && !rows(&p.name));
        // An adapter needs a base that a file holds; a model put together from parts is in none, and neither are the rows
        // of new tokens; and no file says what the user's settings changed around it.
        let has_base =
            !loaded.folder.is_assembled() && loaded.new_tokens.is_empty() && loaded.added.is_empty() && !loaded.altered;
        let projector = |name: &str| Part::of(name) == Part::Projector;
        if trained.iter().any(|p| projector(&p.name)) && trained.iter().all(|p| projector(&p.name) || rows(&p.name)) {
            Self::Projector
        } else if has_base && has_adapter && trained.iter().all(|p| beside(&p.name)) {
            Self::Adapter
        } else {
            Self::Model
        }
    }
}

/// Refuses, before training, an adapter that could not be saved after it: a whole model is saved with the adapter merged.
///
/// # Errors
/// [`AdapterError::NotMergeable`] and [`AdapterError::VirtualTokens`].
pub fn check_savable<M: LanguageModel, V: VisionEncoder, P: Projector>(
    loaded: &Loaded<M, V, P>,
) -> Result<(), AdapterError> {
    if Saved::of(loaded) != Saved::Model {
        return Ok(());
    }
    if loaded.model.virtual_tokens.is_some() {
        return Err(AdapterError::VirtualTokens);
    }
    if let Some((info, weight)) = loaded.model.quantized_weights().first() {
        return Err(AdapterError::QuantizedBase { layer: info.name.clone(), format: weight.format() });
    }
    let mut model = loaded.model.clone();
    let mut checked = Ok(());
    let mut first = true;
    // One layer speaks for all: they carry the same kind of adapter.
    model.visit_linears(&mut |path, linear| {
        if linear.adapter.is_none() || !first {
            return;
        }
        first = false;
        if linear.plain().is_none() {
            checked = Err(AdapterError::NotMergeable { layer: path.to_owned() });
        }
    });
    checked
}

/// Writes a folder that `from_pretrained` of transformers 4 and 5 loads; adapters are merged.
///
/// # Errors
/// [`RecipeError::Checkpoint`] where the folder cannot be written.
pub fn save_model<M: LanguageModel, V: VisionEncoder, P: Projector>(
    dir: &Path,
    loaded: &Loaded<M, V, P>,
    shape: Shape,
) -> Result<(), RecipeError> {
    let (shard_bytes, dtype) = shape.like(&loaded.folder.dir)?;
    let mut model = loaded.model.clone();
    merge(&mut model)?;
    // Layers without an adapter are still as they were loaded.
    if let Some((info, weight)) = model.quantized_weights().first() {
        return Err(AdapterError::QuantizedBase { layer: info.name.clone(), format: weight.format() }.into());
    }
    let vision = loaded.processor.is_some();
    let layout = if vision { Layout::Composed } else { Layout::Plain };
    let wanted = |name: &str| vision || Part::of(name) == Part::LanguageModel;
    let mut folder = DirWriter::create(dir)?;
    let mut weights = tensors(&model, layout, dtype, wanted)?;
    let mut root = typed(config(loaded, &model), dtype);
    let mut tokenizer = loaded.tokenizer.clone();
    if let Some(head) = loaded.folder.head() {
        let pad = head::padding(&root, &tokenizer);
        // Who pads as the tokenizer says must pad with what the head reads past.
        if let Some((_, token)) = pad.as_ref().filter(|(id, _)| tokenizer.pad() != Some(*id)) {
            tokenizer.set_pad(token).map_err(RecipeError::Text)?;
        }
        head::write(&mut root, head, pad.map(|(id, _)| id));
        if vision {
            folder.write("README.md", head::ABOUT.as_bytes())?;
        }
    }
    if vision {
        let (act, second) = transformers_projector::<P>(&model.multi_modal_projector);
        root[ACT] = act.into();
        for (key, tensor) in second {
            weights.push(pending(key, tensor, dtype)?);
        }
    }
    write_model(&mut folder, "model", weights, Some(shard_bytes))?;
    folder.write_json("config.json", &root)?;
    write_generation_config(&mut folder, loaded)?;
    write_processor(&mut folder, loaded)?;
    tokenizer.save(folder.path()).map_err(RecipeError::Text)?;
    folder.commit(Manifest::Omitted)?;
    Ok(())
}

/// The weights that `wanted` picks, under a layout's names. Values are cast only when they are written.
///
/// # Errors
/// [`CheckpointError::Tensor`] for a value that float16 has no number for.
fn tensors<'a, L: CausalLm, T: VisionTower, P: crate::projector::ProjectorModel>(
    model: &Vlm<L, T, P>,
    layout: Layout,
    dtype: WeightType,
    wanted: impl Fn(&str) -> bool,
) -> Result<Vec<Pending<'a>>, CheckpointError> {
    let all = bridge::to_host(model, |name, _| !name.contains(".adapter.") && wanted(name));
    let named = all.into_iter().filter_map(|(name, tensor)| Some((model.file_key(&name, layout)?, tensor)));
    named.map(|(key, tensor)| pending(key, tensor, dtype)).collect()
}

fn pending<'a>(key: String, tensor: HostTensor, dtype: WeightType) -> Result<Pending<'a>, CheckpointError> {
    if dtype == WeightType::Float32 {
        return Ok(Pending::host(key, tensor));
    }
    let beyond = |value: &f32| value.abs() > half::f16::MAX.to_f32();
    let values = if dtype == WeightType::Float16 { tensor.to_f32() } else { None };
    if let Some(value) = values.as_deref().and_then(|values| values.iter().find(|value| beyond(value))) {
        let reason = format!("holds {value}, but float16 ends at 65504; take --dtype bfloat16 or float32");
        return Err(CheckpointError::tensor(Path::new("--dtype float16"), &key, reason));
    }
    let narrow = tensor.cast(dtype.dtype()).unwrap_or(tensor);
    Ok(Pending::host(key, narrow))
}

/// Both names of the element type: transformers 4 reads `torch_dtype`, 5 `dtype`.
fn typed(mut config: Value, dtype: WeightType) -> Value {
    for part in ["", "/text_config"] {
        if let Some(fields) = config.pointer_mut(part).and_then(Value::as_object_mut) {
            // What is written is whole.
            fields.remove("quantization_config");
        }
    }
    for key in ["dtype", "torch_dtype"] {
        config[key] = dtype.name().into();
        // transformers 4 builds each part in its own.
        for part in ["text_config", "vision_config"] {
            if config[part].is_object() {
                config[part][key] = dtype.name().into();
            }
        }
    }
    config
}

/// What a transformers folder says of a projector, and the weights that it needs besides. transformers has one class, of
/// two layers: a single layer gets a second that does nothing, and for the others the field names a function that
/// transformers does not know, so that it refuses the folder instead of drawing random weights.
fn transformers_projector<P: Projector>(model: &P::Model) -> (String, Vec<(String, HostTensor)>) {
    let listed = params::list(model);
    let weights: Vec<_> = listed.iter().filter(|p| p.name.ends_with("weight")).collect();
    let stack = [TypeId::of::<Mlp>(), TypeId::of::<Linear1>(), TypeId::of::<Identity>()].contains(&TypeId::of::<P>());
    match (stack, weights.as_slice()) {
        (false, _) => (P::NAME.to_owned(), Vec::new()),
        (true, []) => ("identity".to_owned(), Vec::new()),
        (true, [only]) => {
            let width = only.shape[0];
            let mut identity = vec![0.0; width * width];
            (0..width).for_each(|i| identity[i * (width + 1)] = 1.0);
            let layer = [("weight", vec![width, width], identity), ("bias", vec![width], vec![0.0; width])];
            let tensor = |(name, shape, values)| {
                Some((format!("multi_modal_projector.linear_2.{name}"), HostTensor::from_f32(shape, values)?))
            };
            (SINGLE.to_owned(), layer.into_iter().filter_map(tensor).collect())
        }
        (true, [_, _]) => ("gelu".to_owned(), Vec::new()),
        (true, more) => (format!("mlp{}x_gelu", more.len()), Vec::new()),
    }
}

/// Whether transformers has a class for the model's projector.
pub fn suits_transformers<M: LanguageModel, V: VisionEncoder, P: Projector>(loaded: &Loaded<M, V, P>) -> bool {
    let (act, _) = transformers_projector::<P>(&loaded.model.multi_modal_projector);
    loaded.processor.is_none() || ["gelu", SINGLE].contains(&act.as_str())
}

/// Writes a folder that LLaVA's original code loads: one flat `config.json`, the projector below `model.mm_projector.`, and
/// the vision tower in a folder of its own, `vision_tower/`, which the configuration names.
///
/// # Errors
/// [`RecipeError::Checkpoint`] where the folder cannot be written, or the model is of a family that the original code has
/// no class for.
pub fn save_original<M: LanguageModel, V: VisionEncoder, P: Projector>(
    dir: &Path,
    loaded: &Loaded<M, V, P>,
    shape: Shape,
) -> Result<(), RecipeError> {
    const TOWER: &str = "vision_tower";
    let (shard_bytes, dtype) = shape.like(&loaded.folder.dir)?;
    let mut model = loaded.model.clone();
    merge(&mut model)?;
    let root = JsonFile::from_value(loaded.folder.config.path(), config(loaded, &model));
    let processor = loaded.processor.as_ref();
    // The original code seeks it from its own working directory.
    let tower_dir = std::path::absolute(dir).map_err(RecipeError::io(dir))?.join(TOWER);
    let parts = Original { vision_tower: tower_dir.display().to_string(), ..original_parts(loaded) };
    let flat = for_original_code(to_original(&root.fields()?, &parts)?, root.path())?;
    let mut folder = DirWriter::create(dir)?;
    let beside = |name: &str| Part::of(name) != Part::VisionTower;
    write_model(&mut folder, "model", tensors(&model, Layout::Original, dtype, beside)?, Some(shard_bytes))?;
    folder.write_json("config.json", &typed(flat, dtype))?;
    write_generation_config(&mut folder, loaded)?;
    loaded.tokenizer.save(folder.path()).map_err(RecipeError::Text)?;
    // The original code reads no other form of the tokenizer.
    if let Ok(bytes) = std::fs::read(loaded.folder.dir.join(SENTENCEPIECE)) {
        folder.write(SENTENCEPIECE, &bytes)?;
    }
    std::fs::create_dir(folder.path().join(TOWER)).map_err(RecipeError::io(folder.path()))?;
    let tower = bridge::to_host(&model.vision_tower, |_, _| true)
        .into_iter()
        .map(|(name, tensor)| pending(model.vision_tower.file_key(&name), tensor, dtype));
    write_model(&mut folder, &format!("{TOWER}/model"), tower.collect::<Result<_, _>>()?, None)?;
    let mut tower_config = typed(root.value()["vision_config"].clone(), dtype);
    tower_config["architectures"] = json!(["CLIPVisionModel"]);
    folder.write_json(&format!("{TOWER}/config.json"), &tower_config)?;
    if let Some(processor) = processor {
        // The padding is LLaVA's own step, which its configuration asks for.
        let cropped = processor.clone().with_aspect_ratio(AspectRatio::Crop);
        folder.write_json(&format!("{TOWER}/preprocessor_config.json"), &cropped.to_json())?;
    }
    folder.commit(Manifest::Omitted)?;
    Ok(())
}

/// SentencePiece's file.
pub(super) const SENTENCEPIECE: &str = "tokenizer.model";

/// The original code's name for the rows of new tokens beside a projector.
const TOKEN_TABLE: &str = "model.embed_tokens.weight";

/// Writes what LLaVA's first stage leaves: the projector under the original code's names, and a `config.json` that says
/// what it stands between. `projector.from` and the tools' `--adapter` take the folder.
///
/// # Errors
/// [`RecipeError::Checkpoint`] where the folder cannot be written.
fn save_projector<M: LanguageModel, V: VisionEncoder, P: Projector>(
    dir: &Path,
    loaded: &Loaded<M, V, P>,
) -> Result<(), RecipeError> {
    let model = &loaded.model;
    let root = JsonFile::from_value(loaded.folder.config.path(), config(loaded, model));
    let tower = loaded.folder.tower_dir();
    let parts = Original {
        vision_tower: tower.canonicalize().unwrap_or(tower).display().to_string(),
        ..original_parts(loaded)
    };
    let flat = to_original(&root.fields()?, &parts)?;
    let mut folder = DirWriter::create(dir)?;
    let projector = |name: &str| Part::of(name) == Part::Projector;
    let mut tensors = tensors(model, Layout::Original, WeightType::Float32, projector)?;
    if !loaded.new_tokens.is_empty() {
        let rows = model.language_model.clone().token_table_mut().rows(&loaded.new_tokens);
        tensors.push(Pending::host(TOKEN_TABLE.to_owned(), bridge::host(rows.inner())));
    }
    write_model(&mut folder, "mm_projector", tensors, None)?;
    folder.write_json("config.json", &typed(flat, WeightType::Float32))?;
    write_processor(&mut folder, loaded)?;
    loaded.tokenizer.save(folder.path()).map_err(RecipeError::Text)?;
    folder.commit(Manifest::Omitted)?;
    Ok(())
}

/// What an original configuration says of a model's parts, the tower's place aside.
fn original_parts<M: LanguageModel, V: VisionEncoder, P: Projector>(loaded: &Loaded<M, V, P>) -> Original {
    let model = &loaded.model;
    let projector = params::list(&model.multi_modal_projector);
    Original {
        vision_tower: String::new(),
        projector_depth: projector.iter().filter(|p| p.name.ends_with("weight")).count(),
        mm_hidden_size: Some(model.vision_tower.width()),
        start_end: loaded.folder.start_end(),
        apart: loaded.folder.encodes_apart(),
        patch_token: loaded.folder.has_patch_token(),
        pad: loaded.processor.as_ref().is_some_and(|p| p.aspect_ratio == AspectRatio::Pad),
    }
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

/// Writes every adapter into the weights it stands beside, and takes it off.
///
/// # Errors
/// [`AdapterError::NotMergeable`] where an adapter has no plain map that does what it does,
/// [`AdapterError::VirtualTokens`] where there are some.
pub fn merge<L: CausalLm, T: VisionTower, P: crate::projector::ProjectorModel>(
    model: &mut Vlm<L, T, P>,
) -> Result<(), AdapterError> {
    if model.virtual_tokens.is_some() {
        return Err(AdapterError::VirtualTokens);
    }
    model.merge_adapters().map_err(|layer| AdapterError::NotMergeable { layer })
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
    let layout = loaded.layout();
    let model = &loaded.model;
    let mut tensors = Vec::new();
    for (key, shape, tensor) in model.adapter_tensors(layout) {
        let host = match shape[..] {
            [values] => bridge::host(tensor.reshape([values])),
            _ => bridge::host(tensor),
        };
        tensors.push(Pending::host(key, host));
    }
    let mut modules_to_save: Vec<String> = Vec::new();
    let whole = |name: &str, trainable: bool| trainable && module_to_save(name).is_some();
    for (name, tensor) in bridge::to_host(model, whole) {
        if let Some((key, module)) = model.peft_module_key(&name, layout) {
            tensors.push(Pending::host(model.peft_written_key(key), tensor));
            if !modules_to_save.iter().any(|known| known == module) {
                modules_to_save.push(module.to_owned());
            }
        }
    }
    let mut targets = Vec::new();
    let prefix = VlmOf::<M, V, P>::module_prefix(layout);
    model.clone().visit_linears(&mut |path, linear| {
        if linear.adapter.is_some() {
            targets.push(format!("{prefix}{path}"));
        }
    });
    if let Some(virtual_tokens) = &loaded.model.virtual_tokens {
        // Evaluated, as PEFT saves it: whatever acts in training only does not act here.
        let frozen = params::set_trainable(virtual_tokens.clone(), |_| false);
        tensors.push(Pending::host(PROMPT_EMBEDDINGS.to_owned(), bridge::host(frozen.table())));
    }
    let base_model = base_path(&loaded.folder.dir);
    let sizes = ModelSizes::of(&loaded.model.language_model);
    let context = PeftContext { base_model, modules_to_save, targets, sizes };
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
