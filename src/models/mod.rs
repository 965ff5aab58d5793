//! Language models: one folder each.

pub mod llama;

use crate::checkpoint::{CheckpointError, Fields};
use crate::nn::{Embedding, KvCache, Linear, SequenceLayout};
use crate::settings::Component;
use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Int, Tensor};

pub use llama::Llama;

/// What stands in a recipe's `model` slot: a family of decoders.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a language model",
    label = "the slot `model` takes a language model, for example `Llama`",
    note = "write `model: Llama`, or implement `firebrick::models::LanguageModel` for `{Self}`"
)]
pub trait LanguageModel: Component {
    /// The decoder that is built from a checkpoint's configuration.
    type Model: CausalLm;

    /// The values of `model_type` in `config.json` that this family reads.
    const MODEL_TYPES: &'static [&'static str];

    /// Builds the decoder that a `config.json` (or its `text_config`) describes, without its weights.
    ///
    /// # Errors
    /// [`CheckpointError`] names a field that is missing, of the wrong type, or that asks for what is not implemented.
    fn build(&self, config: &Fields<'_>, device: &Device) -> Result<Self::Model, CheckpointError>;
}

/// A decoder that maps token embeddings to hidden states, and hidden states to a vocabulary.
pub trait CausalLm: Module + ModuleDisplay + Sync {
    /// Token embeddings.
    ///
    /// # Shapes
    /// `[b, t]` to `[b, t, d]`.
    fn embed(&self, ids_bt: Tensor<2, Int>) -> Tensor<3>;

    /// Final hidden states, normed, ready for the head. With a cache, `layout.past` is what the cache holds.
    ///
    /// # Shapes
    /// `[b, t, d]` to the same.
    fn hidden(&self, x_btd: Tensor<3>, layout: &SequenceLayout, cache: Option<&mut KvCache>) -> Tensor<3>;

    /// The head's weight as it acts, `[v, d]`.
    fn head(&self) -> Tensor<2>;

    /// An empty key-value cache.
    fn new_cache(&self) -> KvCache;

    /// Whether a token's key and value depend on nothing that comes after it, so that a longer sequence goes on from a
    /// shorter one's cache. Not where rotations depend on the length.
    fn keys_stay(&self) -> bool {
        true
    }

    /// Width of the hidden states.
    fn hidden_size(&self) -> usize;

    /// Number of decoder blocks.
    fn num_layers(&self) -> usize;

    /// Query heads of a block.
    fn num_attention_heads(&self) -> usize;

    /// Key-value heads of a block.
    fn num_key_value_heads(&self) -> usize;

    /// Width of one attention head.
    fn head_dim(&self) -> usize;

    /// Rows of the head, padding rows included.
    fn vocab_size(&self) -> usize;

    /// Every linear layer of the blocks (not the head), with its path inside the model, for adapters.
    fn visit_linears(&mut self, visit: &mut dyn FnMut(&str, &mut Linear));

    /// The head, a field called `lm_head`; `None` where it is the token table.
    fn head_mut(&mut self) -> Option<&mut Linear>;

    /// transformers' `model_type`, by which PEFT knows what to target.
    fn model_type(&self) -> &str;

    /// The token table, a field called `embed_tokens`.
    fn token_table_mut(&mut self) -> &mut Embedding;

    /// The same model without its language-model head, for one that yields scores. [`head`](Self::head) is then not asked.
    fn without_head(self) -> Self {
        self
    }

    /// Adds rows to the token table and the head until they have `rows`; new rows are the mean of the old ones.
    fn grow_vocabulary(self, rows: usize) -> Self;

    /// The key of a parameter in a Hugging Face checkpoint of this model alone.
    fn file_key(&self, parameter: &str) -> String;
}
