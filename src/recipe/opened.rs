//! A model folder on the types of a recipe: first without its weights, then with them.

use super::folder::ModelFolder;
use super::parts::{load_projector, load_tower};
use super::quantize::QuantPlan;
use super::{RecipeError, head, quantize, start_end};
use crate::checkpoint::bnb::QuantizedFile;
use crate::checkpoint::bridge::{self, Hold};
use crate::checkpoint::{CheckpointError, Fields, Rename, Shards};
use crate::image::ImageProcessor;
use crate::models::{CausalLm, LanguageModel};
use crate::nn::Embedding;
use crate::projector::Projector;
use crate::text::{AddedTokens, NewToken, Tokenizer};
use crate::vision::{NoVision, VisionEncoder, VisionTower};
use crate::vlm::{IGNORED, Layout, Part, SCORE, Vlm};
use burn::tensor::Device;
use std::any::TypeId;
use std::path::Path;

/// The type of a [`Vlm`] built from components.
pub type VlmOf<M, V, P> = Vlm<<M as LanguageModel>::Model, <V as VisionEncoder>::Model, <P as Projector>::Model>;

/// Rows by which a tokenizer may make the token table grow: tokens are added by the dozen, and one damaged id must not
/// take the memory of a table that reaches up to it.
const MOST_NEW_ROWS: usize = 1 << 16;

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
    /// The tokens around images, where the checkpoint had none: their rows are fresh.
    pub new_tokens: Vec<u32>,
    /// The special tokens that the user's settings added.
    pub added: AddedTokens,
    /// Whether the user's settings put other things around the language model than the folder says.
    altered: bool,
    /// Rows the token table must have after loading.
    vocab_rows: usize,
    /// Which weights are held in fewer bits.
    pub(super) quant: QuantPlan,
}

/// Whether the slot `vision` is filled.
pub(super) fn has_vision<V: VisionEncoder>() -> bool {
    TypeId::of::<V>() != TypeId::of::<NoVision>()
}

impl<M: LanguageModel, V: VisionEncoder, P: Projector> Opened<M, V, P> {
    /// Reads everything but the weights.
    ///
    /// # Errors
    /// [`RecipeError`] where the folder does not fit the recipe's types, saying which types would.
    pub fn new(dir: &Path, model: &M, vision: &V, projector: &P, device: &Device) -> Result<Self, RecipeError> {
        Self::of(ModelFolder::open(dir)?, model, vision, projector, device)
    }

    /// As [`new`](Self::new), for a folder that is open.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of(
        mut folder: ModelFolder,
        model: &M,
        vision: &V,
        projector: &P,
        device: &Device,
    ) -> Result<Self, RecipeError> {
        folder.check_composition::<V>(vision)?;
        folder.take_projector(projector)?;
        refuse_projector::<P>(&folder.config.fields()?)?;
        let text = folder.text_config();
        check_type::<M>(&text.fields()?)?;
        let mut language_model = model.build(&text.fields()?, device)?;
        let score = folder.head().map(|asked| {
            let range = if text.value()["initializer_range"].is_null() { folder.config.value() } else { text.value() };
            head::fresh(asked, language_model.hidden_size(), range, device)
        });
        if score.is_some() {
            language_model = language_model.without_head();
        }
        let vision_config = folder.vision_config();
        if has_vision::<V>() {
            check_tower::<V>(&vision_config.fields()?)?;
        }
        let tower = vision.build(&vision_config.fields()?, &folder.root().fields()?, device)?;
        folder.check_features(&tower)?;
        let own = V::default().build(&vision_config.fields()?, &folder.root().fields()?, device)?;
        let altered = folder.is_altered() || own.root_config() != tower.root_config();
        let projector_model = projector.build(tower.width(), language_model.hidden_size(), device)?;
        if let Some(width) = folder.original.as_ref().and_then(|o| o.mm_hidden_size).filter(|w| *w != tower.width()) {
            return Err(RecipeError::Structure {
                dir: folder.dir.clone(),
                problem: format!(
                    "has mm_hidden_size {width}, but the tower yields features of width {}",
                    tower.width()
                ),
                advice: "give the tower it was trained with: --set vision.from=DIR".to_owned(),
            });
        }
        let mut tokenizer = Tokenizer::from_dir(&folder.dir)?;
        // Before any template is made of it: templates name special tokens.
        let added = folder.tokens.add_to(&mut tokenizer)?;
        if let (Layout::Original, Some(original)) = (folder.layout, &folder.original) {
            start_end::complete(&mut tokenizer, original, language_model.vocab_size())?;
        }
        let image_token = match has_vision::<V>() {
            true => Some(folder.image_token(&mut tokenizer)?),
            false => None,
        };
        let new_tokens = match has_vision::<V>() && folder.start_end() {
            true => start_end::add(&mut tokenizer, folder.layout, language_model.vocab_size())?,
            false => Vec::new(),
        };
        let processor = folder.processor::<V>(&tower)?;
        let (rows, ids) = (language_model.vocab_size(), tokenizer.vocab_size());
        if ids > rows + MOST_NEW_ROWS {
            return Err(RecipeError::Structure {
                dir: folder.dir.clone(),
                problem: format!("has a tokenizer with ids up to {}, but its model knows {rows} tokens", ids - 1),
                advice: "take the tokenizer and the model of one checkpoint".to_owned(),
            });
        }
        let vocab_rows = folder.tokens.table_rows(&tokenizer, rows);
        let model = Vlm {
            vision_tower: tower,
            multi_modal_projector: projector_model,
            language_model,
            score,
            virtual_tokens: None,
        };
        Ok(Self {
            quant: QuantPlan::of_folder::<M, V, P>(folder.quantized()?, &model),
            model,
            tokenizer,
            processor,
            image_token,
            new_tokens,
            added,
            altered,
            vocab_rows,
            folder,
        })
    }

    /// Loads the weights; `hold` says, by name, how a parameter is held.
    ///
    /// # Errors
    /// [`CheckpointError`] naming every tensor that is missing, unexpected or misshapen.
    pub fn load(
        self,
        projector: &P,
        hold: &dyn Fn(&str) -> Hold,
        device: &Device,
    ) -> Result<Loaded<M, V, P>, RecipeError> {
        let Self {
            folder,
            mut model,
            tokenizer,
            processor,
            image_token,
            new_tokens,
            added,
            altered,
            vocab_rows,
            quant,
        } = self;
        let shards = Shards::open(&folder.dir)?;
        let layout = folder.layout;
        let single = is_single_layer(folder.config.value());
        match (layout, folder.original_projector_depth()) {
            (Layout::Composed, _) if folder.projector.is_none() => {
                let key = |name: &str| name.split_once("multi_modal_projector.").map(|(_, key)| key.to_owned());
                let mut keys: Vec<String> = shards.names().filter_map(key).collect();
                if single {
                    keys.retain(|key| !key.starts_with("linear_2."));
                    check_identity(&shards)?;
                }
                projector.check_keys(&keys)?;
            }
            (_, Some(depth)) => {
                let keys: Vec<String> = (1..=depth).map(|i| format!("linear_{i}.weight")).collect();
                projector.check_keys(&keys)?;
            }
            _ => {}
        }
        let tower_inside = match layout {
            Layout::Plain => false,
            Layout::Composed => true,
            Layout::Original => {
                !folder.other_tower && shards.names().any(|name| name.starts_with("model.vision_tower."))
            }
        };
        let rules = model.renaming(layout);
        let pairs = rules.pairs();
        let mut ignore: Vec<&str> = IGNORED.to_vec();
        if folder.text_config().value()["tie_word_embeddings"] == true || folder.head().is_some() {
            ignore.extend(["lm_head.weight", "language_model.lm_head.weight"]);
        }
        if folder.other_tower {
            ignore.push("model.vision_tower.*");
        }
        if single {
            ignore.extend(["multi_modal_projector.linear_2.*", "model.multi_modal_projector.linear_2.*"]);
        }
        if folder.projector.is_some() {
            ignore.extend(["multi_modal_projector.*", "model.mm_projector.*"]);
        }
        let key_of = |model: &VlmOf<M, V, P>, name: &str| match Part::of(name) {
            Part::VisionTower if !tower_inside => None,
            _ if name.starts_with(SCORE) && !folder.holds_head() => None,
            Part::Projector if layout == Layout::Plain || folder.projector.is_some() => None,
            _ => model.file_key(name, layout),
        };
        let taken = {
            let shape = model.clone();
            let key = |name: &str| key_of(&shape, name);
            let file = QuantizedFile::new(&shards, Rename(&pairs));
            quantize::take::<M, V, P>(&mut model, &file, &quant, &key, hold, device)?
        };
        ignore.extend(taken.tensors.iter().map(String::as_str));
        let key = |name: &str| key_of(&model, name).filter(|_| !taken.parameters.contains(name));
        let names = bridge::FileNames { key: &key, rename: Rename(&pairs), ignore: &ignore };
        let mut loaded = bridge::load(model.clone(), &shards, &names, hold, device)?;
        if let (Some((dir, _)), false) = (&folder.tower, tower_inside) {
            loaded.vision_tower = load_tower(loaded.vision_tower, dir, hold, device)?;
        }
        if let Some(path) = &folder.projector {
            loaded = load_projector(loaded, path, hold, device)?;
        }
        quantize::take_rest::<M, V, P>(&mut loaded, &quant, device);
        let known = loaded.language_model.vocab_size();
        loaded.language_model = loaded.language_model.grow_vocabulary(known.max(vocab_rows));
        start_new_rows(&mut loaded.language_model, &added.new, known);
        if let Some(path) = &folder.projector {
            start_end::refuse_rows_without_tokens(path, folder.start_end())?;
        }
        let mut altered = altered;
        if folder.start_end() {
            let table = loaded.language_model.token_table_mut();
            altered |= start_end::fill(table, &tokenizer, &new_tokens, folder.projector.as_deref(), device)?;
        }
        let added = added.new.iter().map(|token| token.id).collect();
        Ok(Loaded { folder, model: loaded, tokenizer, processor, image_token, new_tokens, added, altered })
    }
}

/// A model with its weights, and what turns text and images into its inputs.
#[derive(Clone, Debug)]
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
    /// The tokens around images, where the checkpoint had none: no folder but this model's own has their rows.
    pub new_tokens: Vec<u32>,
    /// The special tokens that the user's settings added: their rows of both tables are trained.
    pub added: Vec<u32>,
    /// Whether something around the language model is other than its folder says, so that the folder is no base for an
    /// adapter.
    pub altered: bool,
}

impl<M: LanguageModel, V: VisionEncoder, P: Projector> Loaded<M, V, P> {
    /// How the model's parameters are named in the files of transformers and PEFT.
    pub fn layout(&self) -> Layout {
        if self.processor.is_some() { Layout::Composed } else { Layout::Plain }
    }
}

/// Gives new tokens the rows they begin with, in the input and the output embeddings: the mean of their origins' rows.
/// Those without origins have the mean of all `known` rows already, where the tables grew for them.
fn start_new_rows<L: CausalLm>(model: &mut L, tokens: &[NewToken], known: usize) {
    let all: Vec<u32> = (0..known as u32).collect();
    for token in tokens {
        // An id below the old table's end is a row that no token had.
        let from = if token.from.is_empty() { &all } else { &token.from };
        let table = model.token_table_mut();
        let mean = table.rows(from).mean_dim(0);
        table.set_rows(&[token.id], mean);
        if let Some(head) = model.head_mut() {
            head.weight = head.weight.clone().map_param(|weight| {
                let mut rows = Embedding { weight, adapter: None, activations: None };
                let mean = rows.rows(from).mean_dim(0);
                rows.set_rows(&[token.id], mean);
                rows.weight
            });
        }
    }
}

/// Settings of a LLaVA configuration that would change the projector's arithmetic and are not implemented. What this library
/// writes for a projector that transformers has no class for is the recipe's own name for it.
fn refuse_projector<P: Projector>(root: &Fields<'_>) -> Result<(), CheckpointError> {
    let act = root.string_or(ACT, "gelu")?;
    let ours = act == "identity" || act == P::NAME || (act.starts_with("mlp") && act.ends_with("x_gelu"));
    if act != "gelu" && act != SINGLE && !ours {
        return Err(root.error(ACT, "gelu: other activations are not implemented"));
    }
    if !root.bool_or("multimodal_projector_bias", true)? {
        return Err(root.error("multimodal_projector_bias", "true: projectors without biases are not implemented"));
    }
    Ok(())
}

/// The field of transformers' `config.json` that names the function between the projector's two layers.
pub(super) const ACT: &str = "projector_hidden_act";
/// Its value where a projector of one layer is written as two, the second of which does nothing.
pub(super) const SINGLE: &str = "linear";

/// Whether a transformers folder holds a projector of one layer in its two.
pub(super) fn is_single_layer(config: &serde_json::Value) -> bool {
    config[ACT] == SINGLE
}

/// The second layer of such a folder must do nothing.
fn check_identity(shards: &Shards) -> Result<(), CheckpointError> {
    for view in shards.iter().filter(|view| view.name.contains("multi_modal_projector.linear_2.")) {
        let width = view.shape.last().copied().unwrap_or(0);
        let matrix = view.shape.len() == 2;
        let expected = |at: usize| if matrix && at.is_multiple_of(width + 1) { 1.0 } else { 0.0 };
        if view.to_f32()?.iter().enumerate().any(|(at, value)| *value != expected(at)) {
            let reason =
                "is not the identity; with projector_hidden_act = linear two layers that both act are not implemented";
            return Err(CheckpointError::tensor(view.file, view.name, reason.to_owned()));
        }
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
