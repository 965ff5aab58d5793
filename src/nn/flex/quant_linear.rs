//! Linear maps with a quantized weight, alone and with a low-rank adapter, as an extension of burn's backends.

use super::{
    buffer::{dense, rows_and_width, tensor, values},
    extension::record,
    gemm::{MatMut, MatRef, Threads, accumulate, product},
    linear::{add_bias, bias_gradient, weight_gradient},
    project::project,
    quant::{multiply_plain, project_quantized},
    steps::{open, register},
};
use crate::nn::quant::Blocks;
use burn::backend::{Autodiff, Backend, Flex, backend_extension, flex::FlexTensor, tensor::FloatTensor};
use burn::tensor::Shape;
use burn_autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops},
};
use std::sync::Arc;

/// The weight, a constant, and the adapter's scale.
#[derive(Debug, Clone)]
pub(super) struct Base {
    /// `[out, in]`.
    pub(super) weight: Arc<Blocks>,
    /// Factor of the adapter's output.
    pub(super) scale: f32,
}

/// Operations with quantized weights that burn's flex backend computes with the kernels of this module.
#[backend_extension(Flex, Autodiff)]
pub(super) trait QuantizedOps: Backend {
    /// `x·Wᵀ + bias + scale·(x·aᵀ)·bᵀ`; `bias` may be empty, and `a` with `b`.
    fn quantized_linear(
        x: FloatTensor<Self>,
        base: Base,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
    ) -> FloatTensor<Self>;
}

/// One map, its operands dense.
#[derive(Debug, Clone)]
pub(super) struct Map {
    base: Base,
    /// `[rank, in]` or empty.
    a: FlexTensor,
    /// `[out, rank]` or empty.
    b: FlexTensor,
}

impl Map {
    fn has_adapter(&self) -> bool {
        !values(&self.b).is_empty()
    }

    /// The result, and the narrow activation `x·aᵀ`, which is empty without an adapter.
    fn forward(&self, x: &FlexTensor, bias: &FlexTensor) -> (FlexTensor, FlexTensor) {
        let (rows, inputs) = rows_and_width(x);
        let [outputs, weight_inputs] = self.base.weight.shape();
        assert_eq!(inputs, weight_inputs, "quantized weight [{outputs}, {weight_inputs}] for width {inputs}");
        let mut y = project_quantized(values(x), &self.base.weight, rows);
        add_bias(&mut y, outputs, values(bias));
        let mut narrow = tensor(Vec::new(), [0]);
        if self.has_adapter() {
            let (rank, _) = rows_and_width(&self.a);
            let down = project(values(x), values(&self.a), rows, rank, inputs);
            let (down_ref, up) = (MatRef::new(&down, rows, rank), MatRef::new(values(&self.b), outputs, rank).t());
            accumulate(MatMut::new(&mut y, rows, outputs), down_ref, up, self.base.scale, Threads::All);
            narrow = tensor(down, [rows, rank]);
        }
        let mut shape = x.layout().shape().to_vec();
        if let Some(last) = shape.last_mut() {
            *last = outputs;
        }
        (tensor(y, Shape::from(shape)), narrow)
    }

    /// `scale·g·b`, the gradient of the narrow activation.
    fn narrow_gradient(&self, upstream: &FlexTensor) -> FlexTensor {
        let ((rows, outputs), (_, rank)) = (rows_and_width(upstream), rows_and_width(&self.b));
        let (g, b) = (MatRef::new(values(upstream), rows, outputs), MatRef::new(values(&self.b), outputs, rank));
        tensor(product(g, b, self.base.scale), [rows, rank])
    }

    /// The gradient of `b`.
    fn b_gradient(&self, upstream: &FlexTensor, narrow: &FlexTensor) -> FlexTensor {
        let ((rows, outputs), (_, rank)) = (rows_and_width(upstream), rows_and_width(narrow));
        let (g, narrow) = (MatRef::new(values(upstream), rows, outputs), MatRef::new(values(narrow), rows, rank));
        tensor(product(g.t(), narrow, self.base.scale), [outputs, rank])
    }

    /// The gradient of the input through both paths.
    fn input_gradient(&self, upstream: &FlexTensor, narrow_gradient: Option<&FlexTensor>, shape: Shape) -> FlexTensor {
        let (rows, _) = rows_and_width(upstream);
        let mut dx = multiply_plain(values(upstream), &self.base.weight, rows);
        if let Some(gradient) = narrow_gradient {
            let (rank, inputs) = rows_and_width(&self.a);
            let (g, a) = (MatRef::new(values(gradient), rows, rank), MatRef::new(values(&self.a), rank, inputs));
            accumulate(MatMut::new(&mut dx, rows, inputs), g, a, 1.0, Threads::All);
        }
        tensor(dx, shape)
    }
}

impl QuantizedOps for Flex {
    fn quantized_linear(x: FlexTensor, base: Base, bias: FlexTensor, a: FlexTensor, b: FlexTensor) -> FlexTensor {
        Map { base, a: dense(a), b: dense(b) }.forward(&dense(x), &dense(bias)).0
    }
}

impl<C: CheckpointStrategy> QuantizedOps for Autodiff<Flex, C> {
    fn quantized_linear(
        x: FloatTensor<Self>,
        base: Base,
        bias: FloatTensor<Self>,
        a: FloatTensor<Self>,
        b: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        // The input serves the gradient of `a` alone: the weight has none.
        let keep_x = a.is_tracked();
        let ((x, on_x), (bias, on_bias)) = (x.into_parts(), bias.into_parts());
        let ((a, on_a), (b, on_b)) = (a.into_parts(), b.into_parts());
        let (x, map) = (dense(x), Map { base, a: dense(a), b: dense(b) });
        let (y, narrow) = map.forward(&x, &dense(bias));
        let shape = x.layout().shape().clone();
        let state = State { map, narrow, shape, x: keep_x.then_some(x) };
        record::<C, _, 4>(QuantizedStep, [on_x, on_bias, on_a, on_b], y, || state)
    }
}

/// What the backward step keeps.
#[derive(Debug, Clone)]
pub(super) struct State {
    map: Map,
    narrow: FlexTensor,
    /// Of the input.
    shape: Shape,
    /// The input, where `a` is tracked.
    x: Option<FlexTensor>,
}

/// Of a quantized linear map: input, bias, `a`, `b`.
#[derive(Debug)]
pub(super) struct QuantizedStep;

impl Backward<Flex, 4> for QuantizedStep {
    type State = State;

    fn backward(self, ops: Ops<State, 4>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let (upstream, State { map, narrow, shape, x }, [on_x, on_bias, on_a, on_b]) = open(ops, gradients);
        let upstream = dense(upstream);
        register(gradients, on_bias, || bias_gradient(&upstream));
        register(gradients, on_b, || map.b_gradient(&upstream, &narrow));
        let through = map.has_adapter() && (on_a.is_some() || on_x.is_some());
        let dnarrow = through.then(|| map.narrow_gradient(&upstream));
        if let (Some(a), Some(dnarrow), Some(x)) = (on_a, &dnarrow, &x) {
            gradients.register::<Flex>(a, weight_gradient(dnarrow, x));
        }
        register(gradients, on_x, || map.input_gradient(&upstream, dnarrow.as_ref(), shape));
    }
}
