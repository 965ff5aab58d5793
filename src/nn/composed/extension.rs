//! The operations as an extension of burn's backends: composed on each of them, and under autodiff recorded with a
//! backward step of their own.

use super::{
    activation, attention, norm,
    quantized::{self, Packing, QuantizedKept},
    rotate::{self, RotateKept, Turn},
    steps::{AttentionStep, NormStep, QuantizedStep, RotateStep, SwigluStep},
};
use crate::nn::AttentionSpec;
use burn::backend::{
    Autodiff, Backend, TensorMetadata, backend_extension,
    tensor::{FloatTensor, IntTensor},
};
use burn_autodiff::{
    checkpoint::strategy::CheckpointStrategy,
    ops::{Backward, NodeGuard, OpsKind},
};

/// Operations that are composed of the backend's own.
#[backend_extension(Cube: cfg(any(feature = "wgpu", feature = "cuda")), Flex: cfg(feature = "cpu"), Autodiff)]
pub(super) trait ComposedOps: Backend {
    /// Root-mean-square norm over the last axis.
    fn composed_rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        norm::rms::<Self>(x, weight, eps).0
    }

    /// Layer norm over the last axis.
    fn composed_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        norm::layer::<Self>(x, weight, bias, eps).0
    }

    /// `silu(gate)·up`.
    fn composed_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        activation::swiglu::<Self>(gate, up)
    }

    /// Rotary positions.
    fn composed_rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        other_half: IntTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        rotate::rotate::<Self>(x, RotateKept { cos, sin, other_half, heads }, Turn::By)
    }

    /// Attention in blocks of queries.
    fn composed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spec: AttentionSpec,
    ) -> FloatTensor<Self> {
        attention::forward::<Self>(q, k, v, spec).o
    }

    /// A quantized weight in f32.
    fn composed_dequantize(
        words: IntTensor<Self>,
        table: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        scale_words: IntTensor<Self>,
        scale_table: FloatTensor<Self>,
        packing: Packing,
    ) -> FloatTensor<Self> {
        let weight = QuantizedKept::<Self> { words, table, scales, scale_words, scale_table, packing };
        quantized::dequantize::<Self>(weight)
    }

    /// A product with a quantized weight.
    fn composed_quantized(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        table: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        scale_words: IntTensor<Self>,
        scale_table: FloatTensor<Self>,
        packing: Packing,
    ) -> FloatTensor<Self> {
        let weight = QuantizedKept::<Self> { words, table, scales, scale_words, scale_table, packing };
        quantized::forward::<Self>(x, weight)
    }
}

#[cfg(feature = "cpu")]
impl ComposedOps for burn::backend::Flex {}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl ComposedOps for burn::backend::Cube {}

impl<B: ComposedOps, C: CheckpointStrategy> ComposedOps for Autodiff<B, C> {
    fn composed_rms_norm(x: FloatTensor<Self>, weight: FloatTensor<Self>, eps: f64) -> FloatTensor<Self> {
        let ((x, on_x), (weight, on_weight)) = (x.into_parts(), weight.into_parts());
        let like = weight.dtype();
        let (y, kept) = norm::rms::<B>(x, weight, eps);
        record::<B, C, _, 2>(NormStep, [on_x, on_weight], y, || (kept, like))
    }

    fn composed_layer_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        eps: f64,
    ) -> FloatTensor<Self> {
        let ((x, on_x), (weight, on_weight), (bias, on_bias)) =
            (x.into_parts(), weight.into_parts(), bias.into_parts());
        let like = weight.dtype();
        let (y, kept) = norm::layer::<B>(x, weight, bias, eps);
        record::<B, C, _, 3>(NormStep, [on_x, on_weight, on_bias], y, || (kept, like))
    }

    fn composed_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((gate, on_gate), (up, on_up)) = (gate.into_parts(), up.into_parts());
        let y = activation::swiglu::<B>(gate.clone(), up.clone());
        record::<B, C, _, 2>(SwigluStep, [on_gate, on_up], y, || (gate, up))
    }

    fn composed_rotate(
        x: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        other_half: IntTensor<Self>,
        heads: usize,
    ) -> FloatTensor<Self> {
        let (x, on_x) = x.into_parts();
        let kept = RotateKept { cos: cos.into_primitive(), sin: sin.into_primitive(), other_half, heads };
        let y = rotate::rotate::<B>(x, kept.clone(), Turn::By);
        record::<B, C, _, 1>(RotateStep, [on_x], y, || kept)
    }

    fn composed_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        spec: AttentionSpec,
    ) -> FloatTensor<Self> {
        let ((q, on_q), (k, on_k), (v, on_v)) = (q.into_parts(), k.into_parts(), v.into_parts());
        let kept = attention::forward::<B>(q, k, v, spec);
        let o = kept.o.clone();
        record::<B, C, _, 3>(AttentionStep, [on_q, on_k, on_v], o, || kept)
    }

    fn composed_quantized(
        x: FloatTensor<Self>,
        words: IntTensor<Self>,
        table: FloatTensor<Self>,
        scales: FloatTensor<Self>,
        scale_words: IntTensor<Self>,
        scale_table: FloatTensor<Self>,
        packing: Packing,
    ) -> FloatTensor<Self> {
        let (x, on_x) = x.into_parts();
        let (table, scales) = (table.into_primitive(), scales.into_primitive());
        let scale_table = scale_table.into_primitive();
        let kept = QuantizedKept::<B> { words, table, scales, scale_words, scale_table, packing };
        let y = quantized::forward::<B>(x, kept.clone());
        record::<B, C, _, 1>(QuantizedStep, [on_x], y, || kept)
    }
}

/// Puts `step` on the tape, unless no parent is tracked.
fn record<B, C, S, const N: usize>(
    step: S,
    parents: [NodeGuard; N],
    output: FloatTensor<B>,
    state: impl FnOnce() -> S::State,
) -> FloatTensor<Autodiff<B, C>>
where
    B: Backend,
    C: CheckpointStrategy,
    S: Backward<B, N>,
{
    match step.prepare::<C>(parents).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(state(), output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    }
}
