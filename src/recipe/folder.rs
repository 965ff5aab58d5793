//! A model folder: what its `config.json` describes, and the model, tokenizer and image processor that come of it.

use super::RecipeError;
use crate::checkpoint::{CheckpointError, Fields, JsonFile, Rename, Shards, bridge};
use crate::image::ImageProcessor;
use crate::models::{CausalLm, LanguageModel};
use crate::projector::Projector;
use crate::text::Tokenizer;
use crate::vision::{NoVision, VisionEncoder, VisionTower};
use crate::vlm::{IGNORED, Layout, Vlm};
use burn::tensor::Device;
use serde_json::{Value, json};
use std::any::TypeId;
use std::path::{Path, PathBuf};

/// The type of a [`Vlm`] built from components.
pub type VlmOf<M, V, P> = Vlm<<M as LanguageModel>::Model, <V as VisionEncoder>::Model, <P as Projector>::Model>;

/// The text of the token that stands for an image.
const IMAGE_TOKEN: &str = "<image>";
/// The padding token that is added to a language model that gets to see.
const PAD_TOKEN: &str = "<pad>";

/// A folder whose `config.json` has been read.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    /// The folder.
    pub dir: PathBuf,
    /// Its `config.json`.
    pub config: JsonFile,
    /// Whether a language model stands alone in it.
    pub layout: Layout,
    /// The encoder's folder where it is another one.
    tower: Option<(PathBuf, JsonFile)>,
}

/// A model without its weights, and what turns text and images into its inputs.
#[derive(Debug)]
pub struct Opened<M: LanguageModel, V: VisionEncoder, P: Projector> {
    /// The folder.
    pub folder: ModelFolder,
    /// The model; its parameters are not loaded.
    pub model: VlmOf<M, V, P>,
    /// The tokenizer, image and padding tokens added where they were missing.
    pub tokenizer: Tokenizer,
    /// The image processor; `None` without vision.
    pub processor: Option<ImageProcessor>,
    /// The image token's text and id; `None` without vision.
    pub image_token: Option<(String, u32)>,
    /// Rows the token table must have after loading.
    vocab_rows: usize,
}

fn has_vision<V: VisionEncoder>() -> bool {
    TypeId::of::<V>() != TypeId::of::<NoVision>()
}

impl ModelFolder {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// [`CheckpointError`] where it is missing or malformed.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let config = JsonFile::read(&dir.join("config.json"))?;
        let layout = match config.value()["model_type"].as_str() {
            Some("llava") => Layout::Composed,
            _ => Layout::Plain,
        };
        Ok(Self { dir: dir.to_owned(), config, layout, tower: None })
    }

    /// Whether the model was put together from a language model's folder and an encoder's.
    pub fn is_assembled(&self) -> bool {
        self.tower.is_some()
    }

    /// `text_config` of a LLaVA folder, the whole file otherwise.
    fn text_config(&self) -> JsonFile {
        match self.layout {
            Layout::Plain => self.config.clone(),
            Layout::Composed => {
                let mut text = self.config.value()["text_config"].clone();
                if text.is_null() {
                    text = json!({});
                }
                // transformers 5 keeps the tie at the root, 4 in the part.
                let tied = &self.config.value()["tie_word_embeddings"];
                if text["tie_word_embeddings"].is_null() && !tied.is_null() {
                    text["tie_word_embeddings"] = tied.clone();
                }
                JsonFile::from_value(self.config.path(), text)
            }
        }
    }

    fn vision_config(&self) -> JsonFile {
        let (path, value) = match &self.tower {
            Some((_, config)) => (config.path(), config.value()),
            None => (self.config.path(), self.config.value()),
        };
        let inner = &value["vision_config"];
        let config = match (inner.is_null(), &self.tower) {
            (false, _) => inner.clone(),
            (true, Some(_)) => value.clone(),
            // LlavaConfig's own default where the file has no vision_config at all.
            (true, None) => json!({
                "model_type": "clip_vision_model", "hidden_size": 1024, "intermediate_size": 4096,
                "patch_size": 14, "image_size": 336, "num_hidden_layers": 24, "num_attention_heads": 16
            }),
        };
        JsonFile::from_value(path, config)
    }
}

impl<M: LanguageModel, V: VisionEncoder, P: Projector> Opened<M, V, P> {
    /// Reads everything but the weights.
    ///
    /// # Errors
    /// [`RecipeError`] where the folder does not fit the recipe's types, saying which types would.
    pub fn new(dir: &Path, model: &M, vision: &V, projector: &P, device: &Device) -> Result<Self, RecipeError> {
        if !dir.is_dir() {
            return Err(RecipeError::Structure {
                dir: dir.to_owned(),
                problem: "is not a folder".to_owned(),
                advice: "--model takes a checkpoint's folder; `hf download NAME --local-dir DIR` fetches one"
                    .to_owned(),
            });
        }
        let mut folder = ModelFolder::open(dir)?;
        folder.check_composition::<V>(vision)?;
        refuse_projector(&folder.config.fields()?)?;
        let text = folder.text_config();
        check_type::<M>(&text.fields()?)?;
        let language_model = model.build(&text.fields()?, device)?;
        let vision_config = folder.vision_config();
        if has_vision::<V>() {
            check_tower::<V>(&vision_config.fields()?)?;
        }
        let tower = vision.build(&vision_config.fields()?, &folder.config.fields()?, device)?;
        let head = projector.build(tower.width(), language_model.hidden_size(), device)?;
        let mut tokenizer = Tokenizer::from_dir(dir)?;
        let image_token = match has_vision::<V>() {
            true => Some(folder.image_token(&mut tokenizer)?),
            false => None,
        };
        let processor = folder.processor::<V>(&tower)?;
        let vocab_rows = language_model.vocab_size().max(tokenizer.vocab_size());
        Ok(Self {
            model: Vlm { vision_tower: tower, multi_modal_projector: head, language_model },
            tokenizer,
            processor,
            image_token,
            vocab_rows,
            folder,
        })
    }

    /// Loads the weights; `narrow` picks, by name, the parameters that are held in bf16.
    ///
    /// # Errors
    /// [`CheckpointError`] naming every tensor that is missing, unexpected or misshapen.
    pub fn load(
        self,
        projector: &P,
        narrow: &dyn Fn(&str) -> bool,
        device: &Device,
    ) -> Result<Loaded<M, V, P>, RecipeError> {
        let Self { folder, model, tokenizer, processor, image_token, vocab_rows } = self;
        let shards = Shards::open(&folder.dir)?;
        let layout = folder.layout;
        if layout == Layout::Composed {
            let keys: Vec<String> = shards
                .names()
                .filter_map(|n| n.split_once("multi_modal_projector.").map(|(_, key)| key.to_owned()))
                .collect();
            projector.check_keys(&keys)?;
        }
        let rules = model.renaming(layout);
        let pairs = rules.pairs();
        let mut ignore: Vec<&str> = IGNORED.to_vec();
        if folder.text_config().value()["tie_word_embeddings"] == true {
            ignore.extend(["lm_head.weight", "language_model.lm_head.weight"]);
        }
        let key = |name: &str| match layout {
            Layout::Composed => model.file_key(name, layout),
            // The tower and the projector come from elsewhere.
            Layout::Plain if !name.starts_with("language_model.") => None,
            Layout::Plain => model.file_key(name, layout),
        };
        let names = bridge::FileNames { key: &key, rename: Rename(&pairs), ignore: &ignore };
        let mut loaded = bridge::load(model.clone(), &shards, &names, narrow, device)?;
        if let Some((dir, _)) = &folder.tower {
            loaded.vision_tower = load_tower(loaded.vision_tower, dir, narrow, device)?;
        }
        let rows = loaded.language_model.vocab_size().max(vocab_rows);
        loaded.language_model = loaded.language_model.grow_vocabulary(rows);
        Ok(Loaded { folder, model: loaded, tokenizer, processor, image_token })
    }
}

/// A model with its weights, and what turns text and images into its inputs.
#[derive(Debug)]
pub struct Loaded<M: LanguageModel, V: VisionEncoder, P: Projector> {
    /// The folder.
    pub folder: ModelFolder,
    /// The model.
    pub model: VlmOf<M, V, P>,
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// The image processor; `None` without vision.
    pub processor: Option<ImageProcessor>,
    /// The image token's text and id; `None` without vision.
    pub image_token: Option<(String, u32)>,
}

fn load_tower<T: VisionTower>(
    tower: T,
    dir: &Path,
    narrow: &dyn Fn(&str) -> bool,
    device: &Device,
) -> Result<T, RecipeError> {
    let shards = Shards::open(dir)?;
    let inner = tower.file_key("");
    // A whole CLIP prefixes its image half; the tower saved alone may not.
    let prefixed = shards.names().any(|name| !inner.is_empty() && name.starts_with(&inner));
    let rules: Vec<(&str, &str)> = if prefixed { Vec::new() } else { vec![("", inner.as_str())] };
    let ignore: Vec<&str> = IGNORED.iter().chain(T::BESIDE).copied().collect();
    let key = |name: &str| Some(tower.file_key(name));
    let names = bridge::FileNames { key: &key, rename: Rename(&rules), ignore: &ignore };
    let narrow = |name: &str| narrow(&format!("vision_tower.{name}"));
    Ok(bridge::load(tower.clone(), &shards, &names, &narrow, device)?)
}

impl ModelFolder {
    /// Where the encoder comes from, and whether the recipe's slots and the folder agree that there is one.
    fn check_composition<V: VisionEncoder>(&mut self, vision: &V) -> Result<(), RecipeError> {
        let from = vision.source();
        match (self.layout, has_vision::<V>(), from) {
            (Layout::Composed, false, _) => Err(RecipeError::Structure {
                dir: self.dir.clone(),
                problem: "is a LLaVA model, but the recipe has no `vision` slot".to_owned(),
                advice: "write `vision: Clip, projector: Mlp2xGelu` in the recipe".to_owned(),
            }),
            (Layout::Plain, true, None) => Err(RecipeError::Structure {
                dir: self.dir.clone(),
                problem: "is a language model alone, but the recipe has a `vision` slot".to_owned(),
                advice: "give an encoder's folder with --set vision.from=DIR, or a LLaVA folder as --model".to_owned(),
            }),
            (Layout::Composed, true, Some(path)) => Err(RecipeError::Structure {
                dir: self.dir.clone(),
                problem: format!("has a vision tower of its own, but vision.from is {}", path.display()),
                advice: "leave vision.from out".to_owned(),
            }),
            (Layout::Plain, true, Some(path)) => {
                let config = JsonFile::read(&path.join("config.json"))?;
                self.tower = Some((path, config));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn image_token(&self, tokenizer: &mut Tokenizer) -> Result<(String, u32), RecipeError> {
        let fields = self.config.fields()?;
        if self.layout == Layout::Composed {
            let id = match fields.first_of(&["image_token_index", "image_token_id"]) {
                Some(key) => fields.usize(key)? as u32,
                None => 32_000,
            };
            return match tokenizer.token(id) {
                Some(text) => Ok((text, id)),
                None => Err(fields.error("image_token_index", "the id of a token of the tokenizer").into()),
            };
        }
        tokenizer.add_special_tokens(&[IMAGE_TOKEN]);
        if tokenizer.pad().is_none() {
            tokenizer.set_pad(PAD_TOKEN)?;
        }
        match tokenizer.token_id(IMAGE_TOKEN) {
            Some(id) => Ok((IMAGE_TOKEN.to_owned(), id)),
            None => Err(fields.error("vocab_size", "room for the image token").into()),
        }
    }

    fn processor<V: VisionEncoder>(&self, tower: &V::Model) -> Result<Option<ImageProcessor>, RecipeError> {
        if !has_vision::<V>() {
            return Ok(None);
        }
        let dir = self.tower.as_ref().map_or(self.dir.as_path(), |(dir, _)| dir.as_path());
        let there = ["preprocessor_config.json", "processor_config.json"].iter().any(|f| dir.join(f).is_file());
        let (height, width) = tower.image_size();
        let processor = if there { ImageProcessor::from_dir(dir)? } else { ImageProcessor::clip(height) };
        let yields = processor.crop_size();
        if yields != (height, width) {
            return Err(RecipeError::Structure {
                dir: dir.to_owned(),
                problem: format!(
                    "the image processor yields {}x{} pixels, but the tower takes {height}x{width}",
                    yields.0, yields.1
                ),
                advice: "set crop_size in preprocessor_config.json to the tower's image_size".to_owned(),
            });
        }
        Ok(Some(processor))
    }

    /// Side of a patch in pixels, where the encoder's configuration has it.
    pub fn patch_size(&self) -> Value {
        self.vision_config().value()["patch_size"].clone()
    }

    /// The `config.json` of this model after loading: composed, with the vocabulary grown.
    pub fn saved_config<T: VisionTower>(
        &self,
        tower: Option<&T>,
        tower_type: &str,
        vocab_size: usize,
        image_token_id: Option<u32>,
        tokens_per_image: usize,
        pad: Option<u32>,
    ) -> Value {
        let mut text = self.text_config().value().clone();
        text["vocab_size"] = vocab_size.into();
        both_rope_forms(&mut text);
        let Some(tower) = tower else {
            text["dtype"] = "float32".into();
            text["torch_dtype"] = "float32".into();
            return text;
        };
        let mut root = match self.layout {
            Layout::Composed => self.config.value().clone(),
            Layout::Plain => json!({
                "architectures": ["LlavaForConditionalGeneration"],
                "model_type": "llava",
                "projector_hidden_act": "gelu",
                "multimodal_projector_bias": true,
            }),
        };
        if text["model_type"].is_null() {
            text["model_type"] = "llama".into();
        }
        let tied = text["tie_word_embeddings"] == true;
        let mut vision = self.vision_config().value().clone();
        if vision["model_type"].is_null() || self.tower.is_some() {
            vision["model_type"] = tower_type.into();
        }
        root["text_config"] = text;
        root["vision_config"] = vision;
        root["tie_word_embeddings"] = tied.into();
        root["image_token_index"] = image_token_id.into();
        root["image_seq_length"] = tokens_per_image.into();
        if root["pad_token_id"].is_null() {
            root["pad_token_id"] = pad.into();
        }
        root["dtype"] = "float32".into();
        root["torch_dtype"] = "float32".into();
        for (key, value) in tower.root_config() {
            root[key] = value;
        }
        root
    }
}

/// transformers 4 reads `rope_theta` and `rope_scaling`, 5 reads `rope_parameters`: what we write has both.
fn both_rope_forms(text: &mut Value) {
    if let Some(parameters) = text["rope_parameters"].as_object().cloned() {
        if let Some(theta) = parameters.get("rope_theta") {
            text["rope_theta"] = theta.clone();
        }
        if text["rope_scaling"].is_null() && parameters.get("rope_type").is_some_and(|t| t != "default") {
            let scaling: serde_json::Map<String, Value> =
                parameters.into_iter().filter(|(key, _)| key != "rope_theta").collect();
            text["rope_scaling"] = scaling.into();
        }
    }
}

/// Settings of a LLaVA configuration that would change the projector's arithmetic and are not implemented.
fn refuse_projector(root: &Fields<'_>) -> Result<(), CheckpointError> {
    if root.string_or("projector_hidden_act", "gelu")? != "gelu" {
        return Err(root.error("projector_hidden_act", "gelu: other activations are not implemented"));
    }
    if !root.bool_or("multimodal_projector_bias", true)? {
        return Err(root.error("multimodal_projector_bias", "true: projectors without biases are not implemented"));
    }
    Ok(())
}

fn check_type<M: LanguageModel>(fields: &Fields<'_>) -> Result<(), RecipeError> {
    let found = fields.string_or("model_type", "llama")?;
    if M::MODEL_TYPES.contains(&found.as_str()) {
        return Ok(());
    }
    Err(RecipeError::Family {
        file: fields.file().to_owned(),
        slot: "model",
        component: M::NAME,
        found: found.clone(),
        reads: M::MODEL_TYPES.join(", "),
        advice: super::zoo::model_advice(&found),
    })
}

fn check_tower<V: VisionEncoder>(fields: &Fields<'_>) -> Result<(), RecipeError> {
    let found = fields.string_or("model_type", "clip_vision_model")?;
    if V::MODEL_TYPES.contains(&found.as_str()) {
        return Ok(());
    }
    Err(RecipeError::Family {
        file: fields.file().to_owned(),
        slot: "vision",
        component: V::NAME,
        found: found.clone(),
        reads: V::MODEL_TYPES.join(", "),
        advice: super::zoo::vision_advice(&found),
    })
}
