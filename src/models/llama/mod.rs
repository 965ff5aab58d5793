//! Llama, and the families that differ from it by configuration only: Mistral and Qwen2.

mod config;
mod model;
#[cfg(all(test, feature = "cpu"))]
mod tests;

pub use config::LlamaConfig;
pub use model::{DecoderLayer, LlamaForCausalLm, Mlp, SelfAttention};

use super::LanguageModel;
use crate::checkpoint::{CheckpointError, Fields};
use burn::tensor::Device;

crate::component! {
    /// `model: Llama`.
    pub struct Llama, LlamaBuilder {}
}

impl LanguageModel for Llama {
    type Model = LlamaForCausalLm;
    const MODEL_TYPES: &'static [&'static str] = &["llama", "mistral", "qwen2"];

    fn build(&self, config: &Fields<'_>, device: &Device) -> Result<LlamaForCausalLm, CheckpointError> {
        Ok(LlamaForCausalLm::new(&LlamaConfig::read(config)?, device))
    }
}
