//! Tuners: what is trained instead of the language model's own weights. One folder each.

mod file;
pub mod ia3;
pub mod lora;
pub mod p_tuning;
pub mod prefix_tuning;
mod prompt_learning;
pub mod prompt_tuning;
mod target;

use crate::models::CausalLm;
use crate::nn::VirtualTokens;
use crate::settings::{Component, SettingError};
use crate::text::Tokenizer;
use burn::tensor::Device;

pub use ia3::Ia3;
pub use lora::Lora;
pub use p_tuning::PTuning;
pub use prefix_tuning::PrefixTuning;
pub use prompt_tuning::PromptTuning;
/// The generator that [`Adapter::attach`] draws from.
pub use rand_chacha::ChaCha8Rng;
pub use target::Targets;

/// What stands in a recipe's `adapter` slot.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an adapter",
    label = "the slot `adapter` takes an adapter, for example `Lora<r: 8>`",
    note = "write `adapter: Lora<r: 8>`, leave the slot out for full fine-tuning, or implement \
            `firebrick::adapters::Adapter` for `{Self}`"
)]
pub trait Adapter: Component {
    /// Whether the language model's own weights stay frozen unless the user asks otherwise.
    const FREEZES_LANGUAGE_MODEL: bool;

    /// Whether it can be merged into the model's weights; one that cannot is saved by itself or not at all.
    const MERGES: bool = true;

    /// Whether it puts virtual tokens in front of a row, which then cannot hold several texts.
    const IN_FRONT: bool = false;

    /// Puts the adapter's parameters, freshly initialised, beside the layers it targets; `prefix` is the path of the
    /// model inside transformers' class, which a regular expression in `target_modules` is matched against.
    ///
    /// # Errors
    /// [`AdapterError`] where nothing is targeted or a pattern is malformed.
    fn attach<M: CausalLm>(
        &self,
        model: M,
        prefix: &str,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Result<M, AdapterError>;

    /// The virtual tokens that it puts in front of every row; `None` for a tuner of layers.
    ///
    /// # Errors
    /// [`AdapterError`] where they cannot start as the settings say.
    fn virtual_tokens<M: CausalLm>(
        &self,
        _model: &M,
        _start: Start<'_>,
        _rng: &mut ChaCha8Rng,
        _device: &Device,
    ) -> Result<Option<VirtualTokens>, AdapterError> {
        Ok(None)
    }

    /// What `adapter_config.json` says of it in PEFT's layout; `None` where there is nothing to save beside the model.
    fn peft_config(&self, context: &PeftContext) -> Option<serde_json::Value>;

    /// Modules that are trained whole and saved with the adapter, by transformers' names; `None` where the adapter has no
    /// say in it.
    fn modules_to_save(&self) -> Option<&[String]> {
        None
    }

    /// Whether the projector is trained beside the adapter; `None` where the adapter has no say in it.
    fn trains_projector(&self) -> Option<bool> {
        Some(self.modules_to_save()?.iter().any(|module| module == PROJECTOR))
    }

    /// The settings that a PEFT `adapter_config.json` holds.
    ///
    /// # Errors
    /// [`AdapterError`] where the file is of another kind of tuner, or asks for what is not implemented.
    fn from_peft_config(config: &serde_json::Value) -> Result<Self, AdapterError>;
}

/// An adapter that can be taken off again, so that the base answers: every adapter but [`NoAdapter`].
///
/// `Vlm::without_adapters` takes it off.
#[diagnostic::on_unimplemented(
    message = "`AdapterOff` needs an adapter to switch off",
    label = "`{Self}` leaves nothing to switch off",
    note = "write `adapter: Lora<r: 8>` (or another adapter), or another `reference`; for an adapter of your own, implement \
            `firebrick::adapters::Removable` for it"
)]
pub trait Removable: Adapter {}

/// transformers' name of the projector.
pub const PROJECTOR: &str = "multi_modal_projector";

/// What can be trained whole beside an adapter.
const SAVED_WHOLE: &[&str] = &[PROJECTOR, "score", "embed_tokens", "lm_head"];

/// Refuses other names in `modules_to_save`.
fn check_modules(modules: &[String]) -> Result<(), SettingError> {
    match modules.iter().find(|module| !SAVED_WHOLE.contains(&module.as_str())) {
        None => Ok(()),
        Some(other) => Err(SettingError::rule(format!(
            "`modules_to_save` names `{other}`, but only {} can be trained whole beside an adapter",
            SAVED_WHOLE.join(", ")
        ))),
    }
}

/// Refuses modules that `model` has none of, and a token table that is also the head: PEFT would train one of the two.
fn check_whole<M: CausalLm>(model: &mut M, modules: &[String]) -> Result<(), AdapterError> {
    let tied = model.head_mut().is_none();
    match modules.iter().find(|module| tied && ["embed_tokens", "lm_head"].contains(&module.as_str())) {
        None => Ok(()),
        Some(module) => Err(AdapterError::Tied { key: "modules_to_save", module: module.clone() }),
    }
}

/// How virtual tokens start.
#[derive(Clone, Copy, Debug)]
pub enum Start<'a> {
    /// As the settings say; the tokenizer is for a text among them.
    Fresh(&'a Tokenizer),
    /// As the table that a PEFT folder holds, which is loaded next: without a reparameterization, whose parameters no
    /// such folder has.
    Saved,
}

/// What a saved adapter must know of the model around it.
#[derive(Clone, Debug, Default)]
pub struct PeftContext {
    /// Folder or hub id of the base model.
    pub base_model: String,
    /// Modules saved whole beside the adapter, by transformers' names.
    pub modules_to_save: Vec<String>,
    /// Paths in transformers' class of the layers that carry the adapter.
    pub targets: Vec<String>,
    /// Sizes of the language model.
    pub sizes: ModelSizes,
}

impl PeftContext {
    /// PEFT's `task_type`: a head that yields scores makes a model one of sequence classification.
    pub fn task_type(&self) -> &'static str {
        if self.modules_to_save.iter().any(|module| module == "score") { "SEQ_CLS" } else { "CAUSAL_LM" }
    }
}

/// Sizes of a language model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelSizes {
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Number of decoder blocks.
    pub num_layers: usize,
    /// Query heads of a block.
    pub num_attention_heads: usize,
    /// Key-value heads of a block.
    pub num_key_value_heads: usize,
    /// Width of one attention head.
    pub head_dim: usize,
}

impl ModelSizes {
    /// Those of `model`.
    pub fn of<M: CausalLm>(model: &M) -> Self {
        Self {
            hidden_size: model.hidden_size(),
            num_layers: model.num_layers(),
            num_attention_heads: model.num_attention_heads(),
            num_key_value_heads: model.num_key_value_heads(),
            head_dim: model.head_dim(),
        }
    }
}

/// An adapter that cannot be attached or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdapterError {
    /// `target_modules` matches no layer.
    #[error("adapter.target_modules = {pattern} matches no linear layer; the model has, for example, {examples}")]
    NoTarget {
        /// What was asked for.
        pattern: String,
        /// Some layers that exist.
        examples: String,
    },
    /// A regular expression that does not parse.
    #[error("adapter.target_modules = {pattern:?} is not a regular expression: {reason}")]
    Pattern {
        /// What was asked for.
        pattern: String,
        /// The parser's complaint.
        reason: String,
    },
    /// An adapter file of another kind.
    #[error("adapter_config.json: peft_type is {found}, but the recipe says `adapter: {expected}`")]
    Kind {
        /// The file's tuner.
        found: String,
        /// The recipe's tuner.
        expected: &'static str,
    },
    /// An adapter that must be merged to be saved, and cannot be.
    #[error(
        "{layer}: the adapter cannot be merged into this layer's weight, and what is trained beside it asks for a whole \
         model to be saved; train the adapter alone, on a model that one folder holds"
    )]
    NotMergeable {
        /// A layer that carries it.
        layer: String,
    },
    /// A token table and a head that are one, of which one alone was named.
    #[error(
        "adapter.{key} names {module}, but in this model token table and head are one; name the tokens' rows in \
             adapter.trainable_token_indices, which trains them in both"
    )]
    Tied {
        /// The setting.
        key: &'static str,
        /// What it names.
        module: String,
    },
    /// A token that the table has no row for.
    #[error("adapter.trainable_token_indices names token {id}, but the model has {rows}, the last of which is {}", rows - 1)]
    Token {
        /// The token.
        id: u32,
        /// Rows of the table.
        rows: usize,
    },
    /// A rank that a layer does not have.
    #[error("{layer}: adapter.init_lora_weights = pissa takes {rank} singular values, but the weight {outputs} × {inputs} has \
             {}; lower adapter.r", outputs.min(inputs))]
    Rank {
        /// The layer.
        layer: String,
        /// The rank that was asked for.
        rank: usize,
        /// Rows of its weight.
        outputs: usize,
        /// Columns of its weight.
        inputs: usize,
    },
    /// A whole model that would have to be saved, of which layers are quantized.
    #[error(
        "{layer} is held in {format}, and what is trained asks for a whole model to be saved, which would need whole weights: \
         train the adapter alone, on a model that one folder holds, or take unquantized weights (`--dequantize` of `merge` and \
         `convert` makes them)"
    )]
    QuantizedBase {
        /// A layer.
        layer: String,
        /// Its weight's format.
        format: crate::nn::QuantFormat,
    },
    /// Singular values of a weight that is no longer whole.
    #[error(
        "{layer}: adapter.init_lora_weights = pissa takes what is largest out of the base's weight, but that is quantized \
         ({format}) and cannot be changed; take default or gaussian, or an unquantized base"
    )]
    Quantized {
        /// The layer.
        layer: String,
        /// Its weight's format.
        format: crate::nn::QuantFormat,
    },
    /// A kind of model that PEFT has no default targets for.
    #[error(
        "adapter.target_modules is left open, but there is no default for a model of type {model_type}; name the layers"
    )]
    NoDefault {
        /// transformers' `model_type`.
        model_type: String,
    },
    /// Virtual tokens where a whole model would have to be saved.
    #[error(
        "virtual tokens cannot be merged into a model's weights: they stand in front of every row. Keep the folder that they \
         were saved in beside its base, and train nothing with them but the adapter and the projector, on a model that one \
         folder holds"
    )]
    VirtualTokens,
    /// A text that virtual tokens cannot start from.
    #[error("adapter.prompt_tuning_init_text = {text:?} {reason}")]
    InitText {
        /// The text.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A setting that changes the arithmetic and is not implemented.
    #[error("adapter_config.json: {key} = {value} is not implemented; {advice}")]
    Unsupported {
        /// The setting.
        key: String,
        /// Its value.
        value: String,
        /// What to do.
        advice: String,
    },
    /// A value that is missing or of the wrong type.
    #[error("adapter_config.json: {key} is {value}, expected {expected}")]
    Value {
        /// The setting.
        key: String,
        /// Its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
}

crate::component! {
    /// The empty `adapter` slot: full fine-tuning.
    pub struct NoAdapter, NoAdapterBuilder {}
}

impl Adapter for NoAdapter {
    const FREEZES_LANGUAGE_MODEL: bool = false;

    fn attach<M: CausalLm>(
        &self,
        model: M,
        _prefix: &str,
        _rng: &mut ChaCha8Rng,
        _device: &Device,
    ) -> Result<M, AdapterError> {
        Ok(model)
    }

    fn peft_config(&self, _context: &PeftContext) -> Option<serde_json::Value> {
        None
    }

    fn from_peft_config(config: &serde_json::Value) -> Result<Self, AdapterError> {
        Err(AdapterError::Kind { found: config["peft_type"].to_string(), expected: "NoAdapter" })
    }
}
