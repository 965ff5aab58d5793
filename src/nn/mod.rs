//! Blocks that models share and that burn's own `nn` lacks or computes differently.
//!
//! Weights keep PyTorch's layout (`[out, in]`) so that files map onto memory without a transposition, and struct
//! fields are named after Hugging Face's modules, so that a parameter's path *is* its key in a checkpoint.
//!
//! Every operation has one door here. Behind it stands the fused CPU kernel of [`flex`] where the tensors live on the
//! CPU, and a composition of burn's operations with a gradient of its own everywhere else; both compute the same thing.

mod activation;
mod adamw;
mod adamw_8bit;
mod attention;
mod cache;
mod composed;
mod dropout;
mod embedding;
#[cfg(feature = "cpu")]
pub mod flex;
mod gradient;
mod linear;
mod loss;
mod mlp;
mod norm;
pub mod params;
mod quant;
pub mod recompute;
mod rope;
mod starts;
mod virtual_tokens;
mod weight;

pub use activation::{Activation, UnknownActivation};
pub(crate) use adamw::row_squares;
pub use adamw::{AdamWStep, AdamWTensors, adamw_step, sums_of_squares};
pub use adamw_8bit::{AdamW8Tensors, BLOCK, CodeMap, MIN_8BIT_ELEMENTS, Moment8, adamw_8bit_step};
pub use attention::{AttentionSpec, SequenceLayout, attention};
pub use cache::{KvCache, LayerCache};
pub use dropout::{acts_in_training, dropout, seed_dropout};
pub use embedding::{Embedding, PutRows, TRAINED_ROWS, TRAINED_ROWS_KEY, TrainedRows};
pub(crate) use linear::linear;
pub use linear::{AdapterSlot, FIXED, Linear, LinearAdapter, PlainMap, RateGroup};
pub use loss::{
    Asked, Contrast, Divergence, Predictor, Spread, TokenReadings, TokenStats, Weights, divergence, token_log_probs,
    token_readings, token_stats,
};
pub use mlp::gated_mlp;
pub use norm::{LayerNorm, RmsNorm};
pub(crate) use norm::{cast_to, to_f32};
pub use quant::{Blocks, CodeBytes, Levels, NESTED_BLOCK, QuantError, QuantFormat, Quantized, Scales};
pub use rope::{Rope, RopeConfig, RopeScaling};
pub use starts::Starts;
pub use virtual_tokens::{PlainTable, PromptEncoder, PromptRule, VirtualPlace, VirtualTokens, put_in_front};
pub use weight::{LowRank, Weight};

use burn::tensor::{Device, Tensor};
use std::sync::Arc;

/// Whether `device` runs the fused CPU kernels.
#[cfg(feature = "cpu")]
pub(crate) fn is_flex(device: &Device) -> bool {
    flex::is_flex(device)
}

/// Whether `device` runs the fused CPU kernels: never, in a build without the feature `cpu`.
#[cfg(not(feature = "cpu"))]
pub(crate) fn is_flex(_device: &Device) -> bool {
    false
}

/// A tensor's elements where they lie, row-major and shared, not copied; `None` where they are not f32 in this process's
/// memory.
pub(crate) fn memory_of<const D: usize>(tensor: &Tensor<D>) -> Option<Arc<dyn AsRef<[u8]> + Send + Sync>> {
    #[cfg(feature = "cpu")]
    if fused(tensor) {
        return Some(Arc::new(flex::Memory::of(tensor.clone())));
    }
    let _ = tensor;
    None
}

/// Whether the fused CPU kernels, which are f32 only, take this tensor.
pub(crate) fn fused<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == burn::tensor::DType::F32 && is_flex(&x.device())
}
