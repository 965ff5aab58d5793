//! Operations for every device but the CPU's f32: composed of burn's, with gradients written by hand.
//!
//! Left to autodiff, a composition keeps each of its intermediate results for the backward pass: `[heads, t, t]` scores,
//! the f32 copies of a norm over bf16. Here a step keeps its arguments and what cannot be had from them cheaply (a
//! log-sum-exp, a root), and computes the rest again. On a GPU burn's fusion makes one kernel of each chain of
//! element-wise operations and of a reduction with what stands before it, so that no kernel of our own is needed.
//!
//! Statistics, products and sums are in f32 whatever the arguments' type, except inside matrix products, which
//! accumulate in f32 and round their result once.
//!
//! # Layout
//! `attention`, `norm`, `activation`, `rotate` and `quantized` hold the arithmetic on any backend; `extension` registers it with
//! burn, `steps` are the steps on the autodiff tape.

mod activation;
mod attention;
mod extension;
mod norm;
mod ops;
mod quantized;
mod rotate;
mod steps;
#[cfg(test)]
mod tests;

use super::AttentionSpec;
use burn::backend::Dispatch;
use burn::tensor::{Int, Tensor};
use extension::ComposedOps;
pub(super) use quantized::Packing;

/// `x / √(mean(x²) + eps) · weight` over the last axis.
///
/// # Shapes
/// `x` `[.., d]`, `weight` `[d]`.
pub(super) fn rms_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, eps: f64) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::composed_rms_norm(x.into_dispatch(), weight.into_dispatch(), eps))
}

/// `(x - mean) / √(var + eps) · weight + bias` over the last axis, with the biased variance.
///
/// # Shapes
/// `x` `[.., d]`, `weight` and `bias` `[d]`.
pub(super) fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<D> {
    let (x, weight, bias) = (x.into_dispatch(), weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::composed_layer_norm(x, weight, bias, eps))
}

/// `silu(gate)·up`, both of one shape.
pub(super) fn swiglu<const D: usize>(gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::composed_swiglu(gate.into_dispatch(), up.into_dispatch()))
}

/// How far each token of a batch is rotated.
#[derive(Clone, Debug)]
pub(super) struct Angles {
    /// Cosines, once for each half of a head: `[b, t, k]`, or `[1, t, k]` where all rows are alike; f32.
    pub(super) cos: Tensor<3>,
    /// Sines likewise, those of the first half negated.
    pub(super) sin: Tensor<3>,
    /// For each index of a head, that of the same place in the other half, `[k]`.
    pub(super) other_half: Tensor<1, Int>,
}

/// Rotates the first half of every head against the second. No gradient flows to the angles.
///
/// # Shapes
/// `x` `[b, t, heads·k]`.
pub(super) fn rotate(x: Tensor<3>, angles: Angles, heads: usize) -> Tensor<3> {
    let (cos, sin) = (angles.cos.into_dispatch(), angles.sin.into_dispatch());
    let other_half = angles.other_half.into_dispatch();
    Tensor::from_dispatch(Dispatch::composed_rotate(x.into_dispatch(), cos, sin, other_half, heads))
}

/// Softmax attention in blocks of queries; queries that see no key give zeros.
///
/// # Shapes
/// `q` `[b, t, heads·k]`; `k`, `v` `[b, s, kv_heads·k]`, rotated already.
pub(super) fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, spec: AttentionSpec) -> Tensor<3> {
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(Dispatch::composed_attention(q, k, v, spec))
}

/// A weight in 8 or 4 bits on a device; constants, all of them.
#[derive(Clone, Debug)]
pub(super) struct PackedWeight {
    /// Four bytes of codes to a word, I32.
    pub(super) words: Tensor<1, Int>,
    /// What each byte stands for, `[256, codes of a byte]`, f32.
    pub(super) table: Tensor<2>,
    /// Scales, or those of the scales, f32.
    pub(super) scales: Tensor<1>,
    /// Four codes of scales to a word, I32; of no meaning where `packing` has no offset.
    pub(super) scale_words: Tensor<1, Int>,
    /// What each code of a scale stands for, `[256]`, f32; likewise.
    pub(super) scale_table: Tensor<1>,
    /// Shape and format.
    pub(super) packing: Packing,
}

/// The whole weight, `[out, in]` in f32.
pub(super) fn dequantize(weight: PackedWeight) -> Tensor<2> {
    let PackedWeight { words, table, scales, scale_words, scale_table, packing } = weight;
    let (words, table, scales) = (words.into_dispatch(), table.into_dispatch(), scales.into_dispatch());
    let (scale_words, scale_table) = (scale_words.into_dispatch(), scale_table.into_dispatch());
    Tensor::from_dispatch(Dispatch::composed_dequantize(words, table, scales, scale_words, scale_table, packing))
}

/// `x·Wᵀ` in the type of `x`. The weight in numbers lives no longer than the product, nor does it for the gradient of `x`.
///
/// # Shapes
/// `x` `[n, in]` to `[n, out]`.
pub(super) fn quantized_matmul(x: Tensor<2>, weight: PackedWeight) -> Tensor<2> {
    let PackedWeight { mut words, mut table, mut scales, mut scale_words, mut scale_table, packing } = weight;
    if x.is_autodiff() {
        (words, table, scales) = (words.autodiff(), table.autodiff(), scales.autodiff());
        (scale_words, scale_table) = (scale_words.autodiff(), scale_table.autodiff());
    }
    let (words, table, scales) = (words.into_dispatch(), table.into_dispatch(), scales.into_dispatch());
    let (scale_words, scale_table) = (scale_words.into_dispatch(), scale_table.into_dispatch());
    let x = x.into_dispatch();
    Tensor::from_dispatch(Dispatch::composed_quantized(x, words, table, scales, scale_words, scale_table, packing))
}
