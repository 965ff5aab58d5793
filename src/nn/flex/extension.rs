//! The operations as an extension of burn's backends: plain forward passes for flex, and for flex
//! with autodiff a forward pass that records a hand-written backward step.
//!
//! A missing tensor (a linear map without bias, attention without rotary positions) is an empty
//! one, because an extension method takes no `Option` of a tensor.

use super::{
    activation::{self, Gelu},
    attention,
    buffer::dense,
    linear::{self, Lora, SwigluMlp},
    norm::{self, Norm},
    rows,
    steps::{AttentionStep, GeluStep, LinearState, LinearStep, LoraStep, MlpStep, NormStep, RowsStep, SwigluStep},
};
use crate::nn::AttentionSpec;
use burn::backend::{
    Autodiff, Backend, Flex, backend_extension,
    flex::FlexTensor,
    tensor::{FloatTensor, IntTensor},
};
use burn_autodiff::{
    checkpoint::strategy::CheckpointStrategy,
    ops::{Backward, NodeGuard, OpsKind},
};

/// Operations that burn's flex backend computes with the kernels of this module.
#[backend_extension(Flex, Autodiff)]
pub(super) trait FusedOps: Backend {
    /// `bias` is empty for RMSNorm.
    fn fused_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        norm: Norm,
        eps: f32,
    ) -> FloatTensor<Self>;

    /// `silu(gate)·up`.
    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self>;

    /// GELU in either form.
    fn fused_gelu(x: FloatTensor<Self>, kind: Gelu) -> FloatTensor<Self>;

    /// `bias` may be empty.
    fn fused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self>;

    /// `bias` may be empty.
    fn fused_lora_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self>;

    /// `down(silu(gate(x))·up(x))`.
    fn fused_swiglu_mlp(
        x: FloatTensor<Self>,
        gate_weight: FloatTensor<Self>,
        up_weight: FloatTensor<Self>,
        down_weight: FloatTensor<Self>,
    ) -> FloatTensor<Self>;

    /// `rope` may be empty.
    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        rope: FloatTensor<Self>,
        spec: AttentionSpec,
    ) -> FloatTensor<Self>;

    /// Rows of a table.
    fn fused_rows(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self>;
}

impl FusedOps for Flex {
    fn fused_norm(x: FlexTensor, weight: FlexTensor, bias: FlexTensor, norm: Norm, eps: f32) -> FlexTensor {
        norm::forward(norm, x, weight, bias, eps).0
    }

    fn fused_swiglu(gate: FlexTensor, up: FlexTensor) -> FlexTensor {
        activation::swiglu(&dense(gate), &dense(up))
    }

    fn fused_gelu(x: FlexTensor, kind: Gelu) -> FlexTensor {
        activation::gelu(kind, &dense(x))
    }

    fn fused_linear(x: FlexTensor, weight: FlexTensor, bias: FlexTensor) -> FlexTensor {
        linear::linear(&dense(x), &dense(weight), &dense(bias))
    }

    fn fused_lora_linear(
        x: FlexTensor,
        weight: FlexTensor,
        bias: FlexTensor,
        a: FlexTensor,
        b: FlexTensor,
        scale: f32,
    ) -> FlexTensor {
        lora(weight, bias, a, b, scale).forward(&dense(x)).0
    }

    fn fused_swiglu_mlp(
        x: FlexTensor,
        gate_weight: FlexTensor,
        up_weight: FlexTensor,
        down_weight: FlexTensor,
    ) -> FlexTensor {
        mlp(x, gate_weight, up_weight, down_weight).forward().0
    }

    fn fused_attention(
        q: FlexTensor,
        k: FlexTensor,
        v: FlexTensor,
        rope: FlexTensor,
        spec: AttentionSpec,
    ) -> FlexTensor {
        attention::forward(q, k, v, rope, spec).o
    }

    fn fused_rows(table: FlexTensor, ids: FlexTensor) -> FlexTensor {
        rows::forward(table, &ids).0
    }
}

fn lora(weight: FlexTensor, bias: FlexTensor, a: FlexTensor, b: FlexTensor, scale: f32) -> Lora {
    Lora { weight: dense(weight), bias: dense(bias), a: dense(a), b: dense(b), scale }
}

fn mlp(x: FlexTensor, gate: FlexTensor, up: FlexTensor, down: FlexTensor) -> SwigluMlp {
    SwigluMlp { x: dense(x), gate_weight: dense(gate), up_weight: dense(up), down_weight: dense(down) }
}

impl<C: CheckpointStrategy> FusedOps for Autodiff<Flex, C> {
    fn fused_norm(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        norm: Norm,
        eps: f32,
    ) -> FloatTensor<Self> {
        let ((x, on_x), (weight, on_weight), (bias, on_bias)) =
            (x.into_parts(), weight.into_parts(), bias.into_parts());
        let (y, state) = norm::forward(norm, x, weight, bias, eps);
        record::<C, _, 3>(NormStep, [on_x, on_weight, on_bias], y, || state)
    }

    fn fused_swiglu(gate: FloatTensor<Self>, up: FloatTensor<Self>) -> FloatTensor<Self> {
        let ((gate, on_gate), (up, on_up)) = (gate.into_parts(), up.into_parts());
        let (gate, up) = (dense(gate), dense(up));
        let y = activation::swiglu(&gate, &up);
        record::<C, _, 2>(SwigluStep, [on_gate, on_up], y, || (gate, up))
    }

    fn fused_gelu(x: FloatTensor<Self>, kind: Gelu) -> FloatTensor<Self> {
        let (x, on_x) = x.into_parts();
        let x = dense(x);
        let y = activation::gelu(kind, &x);
        record::<C, _, 1>(GeluStep(kind), [on_x], y, || x)
    }

    fn fused_linear(x: FloatTensor<Self>, weight: FloatTensor<Self>, bias: FloatTensor<Self>) -> FloatTensor<Self> {
        // A frozen weight needs no input in the backward step, a constant input no weight.
        let (keep_x, keep_weight) = (weight.is_tracked(), x.is_tracked());
        let ((x, on_x), (weight, on_weight), (bias, on_bias)) =
            (x.into_parts(), weight.into_parts(), bias.into_parts());
        let (x, weight) = (dense(x), dense(weight));
        let y = linear::linear(&x, &weight, &dense(bias));
        let shape = x.layout().shape().clone();
        let state = LinearState { shape, x: keep_x.then_some(x), weight: keep_weight.then_some(weight) };
        record::<C, _, 3>(LinearStep, [on_x, on_weight, on_bias], y, || state)
    }

    fn fused_lora_linear(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
        scale: f32,
    ) -> FloatTensor<Self> {
        let ((x, on_x), (weight, on_weight), (bias, on_bias)) =
            (x.into_parts(), weight.into_parts(), bias.into_parts());
        let ((a, on_a), (b, on_b)) = (a.into_parts(), b.into_parts());
        let (x, lora) = (dense(x), lora(weight, bias, a, b, scale));
        let (y, narrow) = lora.forward(&x);
        let parents = [on_x, on_weight, on_bias, on_a, on_b];
        record::<C, _, 5>(LoraStep, parents, y, || (x, lora, narrow))
    }

    fn fused_swiglu_mlp(
        x: FloatTensor<Self>,
        gate_weight: FloatTensor<Self>,
        up_weight: FloatTensor<Self>,
        down_weight: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let ((x, on_x), (gate, on_gate)) = (x.into_parts(), gate_weight.into_parts());
        let ((up, on_up), (down, on_down)) = (up_weight.into_parts(), down_weight.into_parts());
        let mlp = mlp(x, gate, up, down);
        let (y, kept) = mlp.forward();
        record::<C, _, 4>(MlpStep, [on_x, on_gate, on_up, on_down], y, || (mlp, kept))
    }

    fn fused_attention(
        q: FloatTensor<Self>,
        k: FloatTensor<Self>,
        v: FloatTensor<Self>,
        rope: FloatTensor<Self>,
        spec: AttentionSpec,
    ) -> FloatTensor<Self> {
        let ((q, on_q), (k, on_k), (v, on_v)) = (q.into_parts(), k.into_parts(), v.into_parts());
        let state = attention::forward(q, k, v, rope.into_primitive(), spec);
        let y = state.o.clone();
        record::<C, _, 3>(AttentionStep, [on_q, on_k, on_v], y, || state)
    }

    fn fused_rows(table: FloatTensor<Self>, ids: IntTensor<Self>) -> FloatTensor<Self> {
        let (table, on_table) = table.into_parts();
        let (y, state) = rows::forward(table, &ids);
        record::<C, _, 1>(RowsStep, [on_table], y, || state)
    }
}

/// Puts `step` on the tape, unless no parent is tracked.
pub(super) fn record<C, B, const N: usize>(
    step: B,
    parents: [NodeGuard; N],
    output: FlexTensor,
    state: impl FnOnce() -> B::State,
) -> FloatTensor<Autodiff<Flex, C>>
where
    C: CheckpointStrategy,
    B: Backward<Flex, N>,
{
    match step.prepare::<C>(parents).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(state(), output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    }
}
