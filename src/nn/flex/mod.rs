//! Fused operations for burn's CPU backend (`flex`), with hand-written gradients.
//!
//! burn's flex backend runs element-wise operations on one thread with a scalar `exp`, and its
//! attention and cross-entropy hold every score and every logit. These operations are parallel,
//! vectorised for the processor at run time, and keep little memory for the backward pass.
//!
//! # Contract
//! - Tensors are **f32** and live on the flex device, with or without autodiff: ask [`is_flex`]
//!   first and compose the operation from burn's own on other devices. Operands without autodiff
//!   beside others with it are constants. Anything else is a fault of the caller and panics.
//! - Any strides are accepted; those that are not row-major are copied, except that attention
//!   reads slices of a cache in place.
//! - Results and gradients have the **same bits** for any scheduling and any number of threads:
//!   work is split by size alone and partial sums are added in order.
//! - Parallel work runs on the current rayon pool. A caller that runs a whole training step or
//!   decoding step inside `rayon::scope` saves the wake-ups of each operation.
//!
//! # Layout
//! `kernels` holds the shared arithmetic, `gemm` and `project` matrix products, `buffer` memory;
//! `quant` products with quantized weights and `quant_linear` their operation;
//! `rows`, `norm`, `activation`, `linear`, `attention` (with `attention_parts` and `attention_backward`), `adamw` and
//! `adamw_8bit` one operation each on flex's own tensors; `extension` registers them with burn, and `steps` are their
//! steps on the autodiff tape. `token_nll` and `divergence`, which yield more than one result, bring steps of their own.

mod activation;
mod adamw;
mod adamw_8bit;
mod attention;
mod attention_backward;
mod attention_parts;
mod buffer;
mod divergence;
mod extension;
mod few;
mod gemm;
mod kernels;
mod linear;
mod memory;
mod norm;
mod project;
mod quant;
mod quant_linear;
mod rows;
mod steps;
#[cfg(test)]
mod tests;
mod token_nll;

pub use adamw::{adamw_step, row_squares, sum_of_squares};
pub use adamw_8bit::adamw_8bit_step;
pub(super) use divergence::divergence;
pub use memory::Memory;
pub(super) use token_nll::token_pass;

use crate::nn::{Asked, AttentionSpec, Blocks, Weights};
use activation::Gelu;
use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{Device, Int, Tensor};
use extension::FusedOps;
use norm::Norm;
use quant_linear::{Base, QuantizedOps};
use std::sync::Arc;

/// Whether a device is burn's CPU backend, with or without autodiff.
pub fn is_flex(device: &Device) -> bool {
    match device.as_dispatch() {
        DispatchDevice::Flex(_) => true,
        DispatchDevice::Autodiff(inner) => matches!(**inner, DispatchDevice::Flex(_)),
        #[allow(unreachable_patterns)]
        _ => false,
    }
}

/// A tensor that stands for a missing one.
fn none<const D: usize>(like: &Tensor<D>) -> Tensor<1> {
    // Constant whatever `like` is: it must not be tracked.
    let device = like.device();
    Tensor::empty([0], &if device.is_autodiff() { device.inner() } else { device })
}

/// `x / √(mean(x²) + eps) · weight` over the last axis.
///
/// # Shapes
/// `x` `[.., d]`, `weight` `[d]`.
pub fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f32) -> Tensor<D> {
    let bias = none(&x).into_dispatch();
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_norm(x, weight, bias, Norm::Rms, eps))
}

/// `(x - mean) / √(var + eps) · weight + bias` over the last axis, with the biased variance.
///
/// # Shapes
/// `x` `[.., d]`, `weight` and `bias` `[d]`.
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, eps: f32) -> Tensor<D> {
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_norm(x, weight, bias, Norm::Layer, eps))
}

/// `silu(gate)·up`, both of one shape.
pub fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::fused_swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// `x·Φ(x)`, the error-function form of GELU, accurate to about 1e-7.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::fused_gelu(x.into_dispatch(), Gelu::Erf))
}

/// `x·σ(1.702·x)`, CLIP's approximation of GELU.
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::fused_gelu(x.into_dispatch(), Gelu::Quick))
}

/// `x·weightᵀ + bias`.
///
/// # Shapes
/// `x` `[.., in]`, `weight` `[out, in]` as checkpoints store it, `bias` `[out]`.
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let bias = bias.unwrap_or_else(|| none(&x)).into_dispatch();
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_linear(x, weight, bias))
}

/// The two projections of a low-rank adapter.
#[derive(Debug, Clone)]
pub struct LoraFactors {
    /// Down, `[rank, in]`.
    pub a: Tensor<2>,
    /// Up, `[out, rank]`.
    pub b: Tensor<2>,
    /// Factor of the adapter's output, usually `lora_alpha / r`.
    pub scale: f32,
}

/// `x·weightᵀ + bias + scale·(x·aᵀ)·bᵀ`; keeps the narrow activation `x·aᵀ` and never builds the
/// dense update.
///
/// # Shapes
/// As for [`linear`] and [`LoraFactors`].
pub fn lora_linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    factors: LoraFactors,
) -> Tensor<D> {
    let bias = bias.unwrap_or_else(|| none(&x)).into_dispatch();
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let (a, b) = (factors.a.into_dispatch(), factors.b.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_lora_linear(x, weight, bias, a, b, factors.scale))
}

/// As [`linear`] or, with factors, [`lora_linear`], for a quantized weight: it is dequantized tile by tile, right before each
/// tile is multiplied, in the forward and in the backward pass.
///
/// # Shapes
/// As for [`lora_linear`].
pub fn quantized_linear<const D: usize>(
    x: Tensor<D>,
    weight: &Arc<Blocks>,
    bias: Option<Tensor<1>>,
    factors: Option<LoraFactors>,
) -> Tensor<D> {
    let empty = || none(&x).into_dispatch();
    let bias = bias.map_or_else(empty, Tensor::into_dispatch);
    let (a, b, scale) = match factors {
        Some(factors) => (factors.a.into_dispatch(), factors.b.into_dispatch(), factors.scale),
        None => (empty(), empty(), 0.0),
    };
    let base = Base { weight: weight.clone(), scale };
    Tensor::from_dispatch(Dispatch::quantized_linear(x.into_dispatch(), base, bias, a, b))
}

/// The whole of a quantized weight in f32, row-major.
pub fn dequantize(weight: &Blocks) -> Vec<f32> {
    quant::dequantize(weight)
}

/// The weights of a SwiGLU block, as checkpoints store them.
#[derive(Debug, Clone)]
pub struct SwigluWeights {
    /// `[hidden, in]`.
    pub gate: Tensor<2>,
    /// `[hidden, in]`.
    pub up: Tensor<2>,
    /// `[out, hidden]`.
    pub down: Tensor<2>,
}

/// `(silu(x·gateᵀ)·(x·upᵀ))·downᵀ`; keeps the two projections and computes the activation again in
/// the backward pass.
///
/// # Shapes
/// `x` `[.., in]`, result `[.., out]`.
pub fn swiglu_mlp<const D: usize>(x: Tensor<D>, weights: SwigluWeights) -> Tensor<D> {
    let SwigluWeights { gate, up, down } = weights;
    let (gate, up, down) = (gate.into_dispatch(), up.into_dispatch(), down.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_swiglu_mlp(x.into_dispatch(), gate, up, down))
}

/// Softmax attention; queries that see no key give zeros.
///
/// # Shapes
/// `q` `[b, t, heads·head_dim]`, `k` and `v` `[b, past + t, kv_heads·head_dim]`, `rope`
/// `[positions, head_dim]` with the cosines of a position in the first half of its row and the
/// sines in the second. Result as `q`.
///
/// With `rope`, queries and keys are rotated inside (first half against second half); the key or
/// query at index `j` of batch row `b` has position `max(0, j - starts[b])`, and `past` must be 0.
/// No gradient flows to `rope`.
/// # Panics
/// Where shapes and specification disagree.
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, rope: Option<Tensor<2>>, spec: AttentionSpec) -> Tensor<3> {
    let rope = rope.map_or_else(|| none(&q).into_dispatch(), Tensor::into_dispatch);
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(Dispatch::fused_attention(q, k, v, rope, spec))
}

/// Row `ids[i]` of `table` at `i`; the gradient of the table is made by all threads.
///
/// # Shapes
/// `table` `[v, d]`, `ids` `[n]`; result `[n, d]`.
/// # Panics
/// Where an index lies outside `0..v`.
pub fn rows(table: Tensor<2>, ids: Tensor<1, Int>) -> Tensor<2> {
    Tensor::from_dispatch(Dispatch::fused_rows(table.into_dispatch(), ids.into_dispatch()))
}

/// `-log softmax(hidden·headᵀ)[target]` per row, in nats, over chunks of rows.
///
/// The gradients are made in this forward pass, where the logits are at hand. That of the head
/// assumes one upstream gradient for all rows (a mean over tokens) and is made anew, from logits
/// computed again, where the rows differ.
///
/// # Shapes
/// `hidden` `[n, d]`, `head` `[v, d]`, `targets` `[n]`; result `[n]`.
/// # Panics
/// Where a target lies outside `0..v`.
pub fn token_nll(hidden: Tensor<2>, head: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    token_pass(hidden, head, targets, Asked { weights: Weights::Equal, ..Asked::default() }).0.neg()
}
