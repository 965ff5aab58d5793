//! The backward steps: each takes the upstream gradient off the tape and hands on the gradients of
//! those parents that are tracked. A parent that is not arrives as `None`, and its work is skipped.

use super::{
    activation::{self, Gelu},
    attention::AttentionState,
    attention_backward,
    buffer::{dense, tensor, values},
    linear::{self, Lora, MlpGradients, Projections, SwigluMlp},
    norm::{self, NormState},
    rows::{self, RowsState},
};
use burn::backend::{Flex, flex::FlexTensor};
use burn::tensor::Shape;
use burn_autodiff::{
    NodeId,
    checkpoint::base::Checkpointer,
    grads::Gradients,
    ops::{Backward, Ops},
};

/// The upstream gradient, the state and the tracked parents of a step.
pub(super) fn open<S, const N: usize>(
    ops: Ops<S, N>,
    gradients: &mut Gradients,
) -> (FlexTensor, S, [Option<NodeId>; N]) {
    let upstream = gradients.consume::<Flex>(&ops.node);
    (upstream, ops.state, ops.parents.map(|parent| parent.map(|node| node.id)))
}

/// Hands a gradient to a parent, computing it only where the parent is tracked.
pub(super) fn register(gradients: &mut Gradients, parent: Option<NodeId>, gradient: impl FnOnce() -> FlexTensor) {
    if let Some(parent) = parent {
        gradients.register::<Flex>(parent, gradient());
    }
}

/// Of a norm: input, weight, bias.
#[derive(Debug)]
pub(super) struct NormStep;

impl Backward<Flex, 3> for NormStep {
    type State = NormState;

    fn backward(self, ops: Ops<NormState, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (upstream, state, [x, weight, bias]) = open(ops, gradients);
        let parts = norm::backward(&state, upstream, weight.is_some() || bias.is_some());
        register(gradients, x, || parts.x);
        register(gradients, weight, || parts.weight);
        register(gradients, bias, || parts.bias);
    }
}

/// Of SwiGLU: gate, up.
#[derive(Debug)]
pub(super) struct SwigluStep;

impl Backward<Flex, 2> for SwigluStep {
    type State = (FlexTensor, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (upstream, (gate, up), [on_gate, on_up]) = open(ops, gradients);
        let upstream = dense(upstream);
        let shape = gate.layout().shape().clone();
        let (dgate, dup) = activation::swiglu_backward(values(&gate), values(&up), values(&upstream));
        register(gradients, on_gate, || tensor(dgate, shape.clone()));
        register(gradients, on_up, || tensor(dup, shape));
    }
}

/// Of an activation: its argument.
#[derive(Debug)]
pub(super) struct GeluStep(pub(super) Gelu);

impl Backward<Flex, 1> for GeluStep {
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (upstream, input, [x]) = open(ops, gradients);
        register(gradients, x, || activation::gelu_backward(self.0, &input, upstream));
    }
}

/// What the backward step of a linear map keeps: the input only for a tracked weight, the weight
/// only for a tracked input.
#[derive(Debug, Clone)]
pub(super) struct LinearState {
    /// Of the input.
    pub(super) shape: Shape,
    /// The input.
    pub(super) x: Option<FlexTensor>,
    /// `[out, in]`.
    pub(super) weight: Option<FlexTensor>,
}

/// Of a linear map: input, weight, bias.
#[derive(Debug)]
pub(super) struct LinearStep;

impl Backward<Flex, 3> for LinearStep {
    type State = LinearState;

    fn backward(self, ops: Ops<LinearState, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (upstream, state, [on_x, on_weight, on_bias]) = open(ops, gradients);
        let upstream = dense(upstream);
        if let (Some(x), Some(weight)) = (on_x, &state.weight) {
            let gradient = linear::input_gradient(&upstream, weight, state.shape);
            gradients.register::<Flex>(x, gradient);
        }
        if let (Some(weight), Some(x)) = (on_weight, &state.x) {
            gradients.register::<Flex>(weight, linear::weight_gradient(&upstream, x));
        }
        register(gradients, on_bias, || linear::bias_gradient(&upstream));
    }
}

/// Of a linear map with an adapter: input, weight, bias, `a`, `b`.
#[derive(Debug)]
pub(super) struct LoraStep;

impl Backward<Flex, 5> for LoraStep {
    /// Input, parameters, and the narrow activation.
    type State = (FlexTensor, Lora, FlexTensor);

    fn backward(self, ops: Ops<Self::State, 5>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (upstream, (x, lora, narrow), [on_x, on_weight, on_bias, on_a, on_b]) = open(ops, gradients);
        let upstream = dense(upstream);
        register(gradients, on_b, || lora.b_gradient(&upstream, &narrow));
        if on_a.is_some() || on_x.is_some() {
            let dnarrow = lora.narrow_gradient(&upstream);
            register(gradients, on_a, || linear::weight_gradient(&dnarrow, &x));
            register(gradients, on_x, || lora.input_gradient(&upstream, &dnarrow, &x));
        }
        register(gradients, on_weight, || linear::weight_gradient(&upstream, &x));
        register(gradients, on_bias, || linear::bias_gradient(&upstream));
    }
}

/// Of a SwiGLU block: input, gate, up and down weights.
#[derive(Debug)]
pub(super) struct MlpStep;

impl Backward<Flex, 4> for MlpStep {
    type State = (SwigluMlp, Projections);

    fn backward(self, ops: Ops<Self::State, 4>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (upstream, (mlp, kept), [x, gate, up, down]) = open(ops, gradients);
        let wanted = MlpGradients { x: x.is_some(), gate: gate.is_some(), up: up.is_some(), down: down.is_some() };
        let parts = mlp.backward(kept, upstream, &wanted);
        let parts = [(x, parts.x), (gate, parts.gate), (up, parts.up), (down, parts.down)];
        for (parent, gradient) in parts {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                gradients.register::<Flex>(parent, gradient);
            }
        }
    }
}

/// Of attention: queries, keys, values.
#[derive(Debug)]
pub(super) struct AttentionStep;

impl Backward<Flex, 3> for AttentionStep {
    type State = AttentionState;

    fn backward(self, ops: Ops<Self::State, 3>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (upstream, state, parents) = open(ops, gradients);
        let parts = attention_backward::backward(&state, upstream);
        for (parent, gradient) in parents.into_iter().zip(parts) {
            register(gradients, parent, || gradient);
        }
    }
}

/// Of a lookup of rows: the table.
#[derive(Debug)]
pub(super) struct RowsStep;

impl Backward<Flex, 1> for RowsStep {
    type State = RowsState;

    fn backward(self, ops: Ops<RowsState, 1>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (upstream, state, [table]) = open(ops, gradients);
        register(gradients, table, || rows::backward(&state, upstream));
    }
}
