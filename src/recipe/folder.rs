//! A model folder: what its `config.json`, and the files beside it, say of the model.

use super::opened::has_vision;
use super::parts::{PROJECTOR_FILES, local_tower, tower_folder};
use super::{RecipeError, fetch, head};
use crate::checkpoint::bnb::QuantizedFolder;
use crate::checkpoint::hub::Wanted;
use crate::checkpoint::{CheckpointError, JsonFile};
use crate::data::SpecialTokens;
use crate::image::{AspectRatio, ImageProcessor};
use crate::objectives::Head;
use crate::projector::Projector;
use crate::text::Tokenizer;
use crate::vision::{VisionEncoder, VisionTower};
use crate::vlm::{APART, Layout, Original, is_original};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// The text of the token that stands for an image.
const IMAGE_TOKEN: &str = "<image>";
/// The field of `config.json` that asks for tokens around each image.
const START_END: &str = "mm_use_im_start_end";
/// The fields of transformers' `config.json` that say which of the tower's features are taken.
const FEATURES: [&str; 2] = ["vision_feature_layer", "vision_feature_select_strategy"];
/// The padding token that is added to a language model that gets to see.
const PAD_TOKEN: &str = "<pad>";

/// A folder whose `config.json` has been read.
#[derive(Clone, Debug)]
pub struct ModelFolder {
    /// The folder.
    pub dir: PathBuf,
    /// Its `config.json`; that of LLaVA's original code in transformers' form.
    pub config: JsonFile,
    /// Who wrote it, and whether a language model stands alone in it.
    pub layout: Layout,
    /// What LLaVA's original configuration says of the parts.
    pub(super) original: Option<Original>,
    /// The encoder's folder where it is another one.
    pub(super) tower: Option<(PathBuf, JsonFile)>,
    /// The file or folder of the projector where it is another one.
    pub(super) projector: Option<PathBuf>,
    /// Whether the text between two images is tokenized by itself.
    apart: bool,
    /// Whether a configuration asks for tokens around each image.
    start_end: bool,
    /// What the user asks for instead.
    start_end_asked: Option<bool>,
    /// What is fetched of parts that lie on the hub.
    pub(super) wanted: Wanted,
    /// Whether the tower was named by the user, and is another one than the folder's own.
    pub(super) other_tower: bool,
    /// Special tokens that the user wants the tokenizer to have.
    pub(super) tokens: SpecialTokens,
    /// The head that yields scores which the folder has.
    own_head: Option<Head>,
    /// Whether that head's weights lie in an adapter's folder and not in this one.
    head_in_adapter: bool,
    /// The head that the recipe asks for, where it has a say.
    head_asked: Option<Option<Head>>,
    /// What a projector from elsewhere was trained on: fields of `config.json` that say which features.
    pub(super) trained_on: Map<String, Value>,
}

impl ModelFolder {
    /// Reads `config.json`.
    ///
    /// # Errors
    /// [`RecipeError::Structure`] where there is no folder, [`RecipeError::Checkpoint`] where the file is missing or
    /// malformed.
    pub fn open(dir: &Path) -> Result<Self, RecipeError> {
        if !dir.is_dir() {
            return Err(RecipeError::Structure {
                dir: dir.to_owned(),
                problem: "is not a folder".to_owned(),
                advice: "--model takes a checkpoint's folder, or its id on the Hugging Face hub: owner/name".to_owned(),
            });
        }
        let config = JsonFile::read(&dir.join("config.json"))?;
        let fields = config.fields()?;
        // The parts are taken out of the file and looked at one by one: what is no object must be refused here.
        fields.opt_object("text_config")?;
        fields.opt_object("vision_config")?;
        let mut folder = Self {
            dir: dir.to_owned(),
            // Fields of the original code, which this library writes into transformers' folders too.
            start_end: fields.bool_or(START_END, false)?,
            apart: fields.bool_or(APART, false)?,
            tokens: SpecialTokens::default(),
            own_head: head::of_config(config.value()),
            head_in_adapter: false,
            head_asked: None,
            layout: match config.value()["model_type"].as_str() {
                Some("llava") => Layout::Composed,
                _ => Layout::Plain,
            },
            config,
            original: None,
            tower: None,
            projector: None,
            start_end_asked: None,
            wanted: Wanted::Model,
            other_tower: false,
            trained_on: Map::new(),
        };
        if is_original(folder.config.value()) {
            let (original, config) = Original::read(&folder.config)?;
            folder.layout = Layout::Original;
            folder.config = config;
            folder.take(original);
        }
        Ok(folder)
    }

    /// What an original configuration says of the parts around the language model.
    fn take(&mut self, original: Original) {
        self.start_end = original.start_end;
        self.apart = original.apart;
        self.original = Some(original);
    }

    /// Makes a folder the base of an adapter of LLaVA's original code, whose own folder says what stands around the language
    /// model and holds the projector.
    ///
    /// # Errors
    /// [`CheckpointError`] where the adapter's `config.json` is malformed.
    pub fn beside(mut self, adapter: &Path) -> Result<Self, CheckpointError> {
        if let Some(own) = head::of_adapter(adapter)?.filter(|_| self.own_head.is_none()) {
            self.own_head = Some(own);
            self.head_in_adapter = true;
        }
        let path = adapter.join("config.json");
        let projector = PROJECTOR_FILES.iter().map(|(file, _)| adapter.join(file)).find(|file| file.is_file());
        if projector.is_some() {
            self.projector = projector;
        }
        if !path.is_file() {
            return Ok(self);
        }
        let config = JsonFile::read(&path)?;
        if !is_original(config.value()) {
            return Ok(self);
        }
        // As the original code loads it: the adapter's configuration around the base's weights.
        let (original, translated) = Original::read(&config)?;
        let mut root = translated.value().clone();
        match self.layout {
            Layout::Plain => root["text_config"] = self.config.value().clone(),
            Layout::Composed | Layout::Original => {
                root = self.config.value().clone();
                for key in FEATURES {
                    root[key] = translated.value()[key].clone();
                }
            }
        }
        self.config = JsonFile::from_value(self.config.path(), root);
        if self.layout == Layout::Plain {
            self.layout = Layout::Original;
        }
        self.take(original);
        Ok(self)
    }

    /// Gives the model the head that an objective reads, or none; what the folder has must agree.
    ///
    /// # Errors
    /// [`RecipeError::Structure`] with both heads.
    pub fn with_head(mut self, asked: Option<Head>) -> Result<Self, RecipeError> {
        head::agree(&self.dir, self.own_head, asked)?;
        self.head_asked = Some(asked);
        Ok(self)
    }

    /// Gives the tokenizer these special tokens.
    pub fn with_tokens(mut self, tokens: SpecialTokens) -> Self {
        self.tokens = tokens;
        self
    }

    /// The head that yields scores which the model gets.
    pub fn head(&self) -> Option<Head> {
        self.head_asked.unwrap_or(self.own_head)
    }

    /// Whether the folder holds the head's weights.
    pub(super) fn holds_head(&self) -> bool {
        self.own_head.is_some() && !self.head_in_adapter
    }

    /// What its configuration says of quantized weights.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] where they are of a kind that cannot be read.
    pub fn quantized(&self) -> Result<Option<QuantizedFolder>, CheckpointError> {
        match QuantizedFolder::read(&self.config.fields()?)? {
            None => QuantizedFolder::read(&self.text_config().fields()?),
            found => Ok(found),
        }
    }

    /// Whether the model was put together from several folders, so that none of them alone is its base.
    pub fn is_assembled(&self) -> bool {
        self.projector.is_some() || (self.layout == Layout::Plain && self.tower.is_some())
    }

    /// Takes the vision tower of an original folder from elsewhere than its configuration says.
    ///
    /// # Errors
    /// [`RecipeError::Structure`] where the folder's own tower would not give way, [`RecipeError::Checkpoint`] where there
    /// is no tower.
    pub fn with_tower(mut self, dir: &Path) -> Result<Self, RecipeError> {
        if self.layout != Layout::Original {
            return Err(RecipeError::Structure {
                dir: self.dir,
                problem: format!("takes no vision tower from elsewhere, but {} was given", dir.display()),
                advice: "leave the option out; it is for folders of LLaVA's original code".to_owned(),
            });
        }
        self.use_tower(dir.to_owned())?;
        Ok(self)
    }

    /// Takes a tower that the user named.
    fn use_tower(&mut self, path: PathBuf) -> Result<(), RecipeError> {
        let config = JsonFile::read(&path.join("config.json"))?;
        let own = self.original.as_ref().and_then(|original| local_tower(&self.dir, &original.vision_tower));
        let same = |own: PathBuf| own.canonicalize().ok() == path.canonicalize().ok();
        self.other_tower = !own.is_none_or(same);
        self.tower = Some((path, config));
        Ok(())
    }

    /// The folder that holds the encoder.
    pub(super) fn tower_dir(&self) -> PathBuf {
        self.tower.as_ref().map_or_else(|| self.dir.clone(), |(dir, _)| dir.clone())
    }

    /// Puts each image between start and end tokens, or does not, whatever the folder says; `None` leaves it to the folder.
    pub fn with_start_end(mut self, asked: Option<bool>) -> Self {
        self.start_end_asked = asked;
        self
    }

    /// Whether the text between two images is tokenized by itself, as LLaVA's original code does. What this library writes
    /// says how it was trained.
    pub fn encodes_apart(&self) -> bool {
        self.apart
    }

    /// Whether each image stands between start and end tokens.
    pub fn start_end(&self) -> bool {
        self.start_end_asked.unwrap_or(self.start_end)
    }

    /// Takes the projector from elsewhere, and with it what the configuration beside it says: tokens around images, and
    /// which features it was trained on.
    fn use_projector(&mut self, path: PathBuf) -> Result<(), CheckpointError> {
        let folder = if path.is_dir() { Some(path.as_path()) } else { path.parent() };
        let config = folder.map(|folder| folder.join("config.json")).filter(|config| config.is_file());
        if let Some(config) = config {
            let mut config = JsonFile::read(&config)?;
            self.start_end |= config.fields()?.bool_or(START_END, false)?;
            if is_original(config.value()) {
                config = Original::read(&config)?.1;
            }
            for key in FEATURES {
                let value = &config.value()[key];
                if !value.is_null() {
                    self.trained_on.insert(key.to_owned(), value.clone());
                }
            }
        }
        self.projector = Some(path);
        Ok(())
    }

    /// The configuration that says which of the tower's features are taken: the folder's; for a language model alone that
    /// of the projector's own training, where it is known.
    pub(super) fn root(&self) -> JsonFile {
        let mut root = self.config.value().clone();
        if self.layout == Layout::Plain {
            for (key, value) in &self.trained_on {
                root[key] = value.clone();
            }
        }
        JsonFile::from_value(self.config.path(), root)
    }

    /// Refuses a projector that was trained on other features than the tower will give.
    pub(super) fn check_features(&self, tower: &impl VisionTower) -> Result<(), RecipeError> {
        let given: Map<String, Value> = tower.root_config().into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        let other = self.trained_on.iter().find(|(key, value)| given.get(*key).is_some_and(|given| given != *value));
        let (Some((key, trained)), Some(path)) = (other, &self.projector) else { return Ok(()) };
        Err(RecipeError::Structure {
            dir: path.clone(),
            problem: format!("is a projector trained with {key} = {trained}, but here it is {}", given[key]),
            advice: "set vision.select_layer and vision.select_feature as it was trained with".to_owned(),
        })
    }

    /// Whether the user asks for something around the language model that the folder says otherwise.
    pub(super) fn is_altered(&self) -> bool {
        self.other_tower || self.start_end_asked.is_some_and(|asked| asked != self.start_end)
    }

    /// Whether the original code would add `<im_patch>`, its default, to this folder's tokenizer.
    pub(super) fn has_patch_token(&self) -> bool {
        self.original.as_ref().is_some_and(|original| original.patch_token)
    }

    /// Linear layers of the projector of an original folder.
    pub(super) fn original_projector_depth(&self) -> Option<usize> {
        self.original.as_ref().map(|original| original.projector_depth)
    }

    /// `text_config` of a LLaVA folder, the whole file otherwise.
    pub(super) fn text_config(&self) -> JsonFile {
        match self.layout {
            Layout::Plain => self.config.clone(),
            Layout::Composed | Layout::Original => {
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

    pub(super) fn vision_config(&self) -> JsonFile {
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

impl ModelFolder {
    /// Where the encoder comes from, and whether the recipe's slots and the folder agree that there is one.
    pub(super) fn check_composition<V: VisionEncoder>(&mut self, vision: &V) -> Result<(), RecipeError> {
        let from = vision.source();
        match (self.layout, has_vision::<V>(), from) {
            (Layout::Composed | Layout::Original, false, _) => Err(RecipeError::Structure {
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
            // Already chosen.
            (_, true, None) if self.tower.is_some() => Ok(()),
            (Layout::Plain | Layout::Original, true, Some(path)) => {
                let path = fetch::folder(&path, self.wanted)?;
                self.use_tower(path)
            }
            (Layout::Original, true, None) => {
                let Some(original) = &self.original else { return Ok(()) };
                let path = tower_folder(&self.dir, &original.vision_tower, self.wanted)?;
                let config = JsonFile::read(&path.join("config.json"))?;
                self.tower = Some((path, config));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A projector from elsewhere takes the place of the folder's own.
    pub(super) fn take_projector(&mut self, projector: &impl Projector) -> Result<(), RecipeError> {
        // Of two, the one that the user names.
        let Some(mut path) = projector.source() else { return Ok(()) };
        if !path.exists() && fetch::is_remote(&path) {
            path = fetch::folder(&path, self.wanted)?;
        }
        if !path.exists() {
            return Err(RecipeError::Structure {
                dir: path,
                problem: "is not there".to_owned(),
                advice: "projector.from takes a file such as mm_projector.bin, the folder of a run or a checkpoint, or an id \
                         on the Hugging Face hub"
                    .to_owned(),
            });
        }
        self.use_projector(path)?;
        Ok(())
    }

    pub(super) fn image_token(&self, tokenizer: &mut Tokenizer) -> Result<(String, u32), RecipeError> {
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

    pub(super) fn processor<V: VisionEncoder>(&self, tower: &V::Model) -> Result<Option<ImageProcessor>, RecipeError> {
        if !has_vision::<V>() {
            return Ok(None);
        }
        let dir = self.tower.as_ref().map_or(self.dir.as_path(), |(dir, _)| dir.as_path());
        let there = ["preprocessor_config.json", "processor_config.json"].iter().any(|f| dir.join(f).is_file());
        let (height, width) = tower.image_size();
        let mut processor = if there { ImageProcessor::from_dir(dir)? } else { ImageProcessor::clip(height) };
        if let Some(original) = &self.original {
            processor.aspect_ratio = if original.pad { AspectRatio::Pad } else { AspectRatio::Crop };
        }
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
        if self.tokens.pad_token.is_some() && text["pad_token_id"].is_null() {
            text["pad_token_id"] = pad.into();
        }
        let Some(tower) = tower else {
            text["dtype"] = "float32".into();
            text["torch_dtype"] = "float32".into();
            return text;
        };
        let mut root = match self.layout {
            Layout::Composed | Layout::Original => self.config.value().clone(),
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
        if self.start_end() || !root[START_END].is_null() {
            root[START_END] = self.start_end().into();
        }
        if self.apart || !root[APART].is_null() {
            root[APART] = self.apart.into();
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
