//! The backward steps: each takes the upstream gradient off the tape and hands on the gradients of those parents that are
//! tracked. A parent that is not arrives as `None`, and its work is skipped.

use super::{
    activation,
    attention::{self, AttentionKept, Wanted},
    norm::{self, NormKept},
    quantized::{self, QuantizedKept},
    rotate::{self, RotateKept, Turn},
};
use burn::backend::{Backend, tensor::FloatTensor};
use burn::tensor::DType;
use burn_autodiff::{
    NodeId,
    checkpoint::base::Checkpointer,
    grads::Gradients,
    ops::{Backward, Ops},
};

/// The upstream gradient, the state and the tracked parents of a step.
fn open<B: Backend, S, const N: usize>(
    ops: Ops<S, N>,
    gradients: &mut Gradients,
) -> (FloatTensor<B>, S, [Option<NodeId>; N]) {
    let upstream = gradients.consume::<B>(&ops.node);
    (upstream, ops.state, ops.parents.map(|parent| parent.map(|node| node.id)))
}

/// Hands a gradient to a parent, computing it only where the parent is tracked.
fn register<B: Backend>(
    gradients: &mut Gradients,
    parent: Option<NodeId>,
    gradient: impl FnOnce() -> Option<FloatTensor<B>>,
) {
    if let Some(parent) = parent
        && let Some(gradient) = gradient()
    {
        gradients.register::<B>(parent, gradient);
    }
}

/// Of a norm: input, scale and, for LayerNorm, shift. The state names the type of the parameters.
#[derive(Debug)]
pub(super) struct NormStep;

impl<B: Backend, const N: usize> Backward<B, N> for NormStep {
    type State = (NormKept<B>, DType);

    fn backward(self, ops: Ops<Self::State, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (upstream, (kept, like), parents) = open::<B, _, N>(ops, gradients);
        let (weight, bias) = (parents[1], parents.get(2).copied().flatten());
        let wanted = norm::Wanted { weight: weight.is_some(), bias: bias.is_some() };
        let parts = norm::backward::<B>(kept, upstream, wanted, like);
        register::<B>(gradients, parents[0], || Some(parts.x));
        register::<B>(gradients, weight, || parts.weight);
        register::<B>(gradients, bias, || parts.bias);
    }
}

/// Of a product with a quantized weight: the input.
#[derive(Debug)]
pub(super) struct QuantizedStep;

impl<B: Backend> Backward<B, 1> for QuantizedStep {
    type State = QuantizedKept<B>;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (upstream, kept, [on_x]) = open::<B, _, 1>(ops, gradients);
        register::<B>(gradients, on_x, || Some(quantized::backward::<B>(upstream, kept)));
    }
}

/// Of SwiGLU: gate, up.
#[derive(Debug)]
pub(super) struct SwigluStep;

impl<B: Backend> Backward<B, 2> for SwigluStep {
    type State = (FloatTensor<B>, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (upstream, (gate, up), [on_gate, on_up]) = open::<B, _, 2>(ops, gradients);
        let [dgate, dup] = activation::swiglu_backward::<B>(gate, up, upstream);
        register::<B>(gradients, on_gate, || Some(dgate));
        register::<B>(gradients, on_up, || Some(dup));
    }
}

/// Of a rotation: its argument.
#[derive(Debug)]
pub(super) struct RotateStep;

impl<B: Backend> Backward<B, 1> for RotateStep {
    type State = RotateKept<B>;

    fn backward(self, ops: Ops<Self::State, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (upstream, kept, [x]) = open::<B, _, 1>(ops, gradients);
        register::<B>(gradients, x, || Some(rotate::rotate::<B>(upstream, kept, Turn::Back)));
    }
}

/// Of attention: queries, keys, values.
#[derive(Debug)]
pub(super) struct AttentionStep;

impl<B: Backend> Backward<B, 3> for AttentionStep {
    type State = AttentionKept<B>;

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (upstream, kept, [q, k, v]) = open::<B, _, 3>(ops, gradients);
        let wanted = Wanted { q: q.is_some(), k: k.is_some(), v: v.is_some() };
        let parts = attention::backward::<B>(kept, upstream, wanted);
        register::<B>(gradients, q, || parts.q);
        register::<B>(gradients, k, || parts.k);
        register::<B>(gradients, v, || parts.v);
    }
}
