//! Linear maps with the weight in `[out, in]` (the layout of checkpoints), alone, with a low-rank
//! adapter, and as a whole SwiGLU block.

use super::{
    activation::{swiglu_backward, swiglu_values},
    buffer::{Output, dense, rows_and_width, rows_per_task, tensor, values},
    gemm::{MatMut, MatRef, Threads, accumulate, product},
    kernels::{add_assign, column_sums},
    project::project,
};
use burn::backend::flex::FlexTensor;
use burn::tensor::Shape;
use rayon::prelude::*;

/// A dense tensor seen as a matrix: the last axis across, all others down.
fn matrix(tensor: &FlexTensor) -> MatRef<'_> {
    let (rows, width) = rows_and_width(tensor);
    MatRef::new(values(tensor), rows, width)
}

/// The shape of `x` with another last axis.
fn with_width(x: &FlexTensor, width: usize) -> Shape {
    let mut dims = x.layout().shape().to_vec();
    if let Some(last) = dims.last_mut() {
        *last = width;
    }
    Shape::from(dims)
}

/// `x·wᵀ + bias` for dense operands; an empty bias is none.
pub(super) fn linear(x: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor) -> FlexTensor {
    let y = linear_values(x, weight, bias);
    let (outputs, _) = rows_and_width(weight);
    tensor(y, with_width(x, outputs))
}

fn linear_values(x: &FlexTensor, weight: &FlexTensor, bias: &FlexTensor) -> Vec<f32> {
    let (rows, inputs) = rows_and_width(x);
    let (outputs, weight_inputs) = rows_and_width(weight);
    assert_eq!(inputs, weight_inputs, "linear weight [{outputs}, {weight_inputs}] for width {inputs}");
    let mut y = project(values(x), values(weight), rows, outputs, inputs);
    add_bias(&mut y, outputs, values(bias));
    y
}

/// Adds a bias to every row of `outputs` values; an empty one is none.
pub(super) fn add_bias(y: &mut [f32], outputs: usize, bias: &[f32]) {
    if bias.is_empty() {
        return;
    }
    assert_eq!(bias.len(), outputs, "linear bias of another width than the output");
    y.par_chunks_mut(rows_per_task(outputs) * outputs).for_each(|rows| {
        for row in rows.chunks_exact_mut(outputs) {
            add_assign(row, bias);
        }
    });
}

/// The gradient of the input, whose shape is given: `g·w`.
pub(super) fn input_gradient(upstream: &FlexTensor, weight: &FlexTensor, shape: Shape) -> FlexTensor {
    tensor(product(matrix(upstream), matrix(weight), 1.0), shape)
}

/// The gradient of the weight: `gᵀ·x`, in `[out, in]`.
pub(super) fn weight_gradient(upstream: &FlexTensor, x: &FlexTensor) -> FlexTensor {
    let ((_, outputs), (_, inputs)) = (rows_and_width(upstream), rows_and_width(x));
    tensor(product(matrix(upstream).t(), matrix(x), 1.0), [outputs, inputs])
}

/// The gradient of the bias: the sum over rows.
pub(super) fn bias_gradient(upstream: &FlexTensor) -> FlexTensor {
    /// Columns per task; every task walks all rows, so that the order of the sum is fixed.
    const COLUMNS: usize = 256;
    let (_, width) = rows_and_width(upstream);
    let mut sums = Output::new(width);
    let upstream = values(upstream);
    sums.as_mut()
        .par_chunks_mut(COLUMNS)
        .enumerate()
        .for_each(|(task, out)| column_sums(upstream, width, task * COLUMNS, out));
    // SAFETY: the chunks cover the buffer and the kernel writes every element of its chunk.
    tensor(unsafe { sums.assume_init() }, [width])
}

/// The parameters of a linear map with a low-rank adapter, all dense.
#[derive(Debug, Clone)]
pub(super) struct Lora {
    /// `[out, in]`.
    pub(super) weight: FlexTensor,
    /// `[out]` or empty.
    pub(super) bias: FlexTensor,
    /// The projection down, `[rank, in]`.
    pub(super) a: FlexTensor,
    /// The projection up, `[out, rank]`.
    pub(super) b: FlexTensor,
    /// `lora_alpha / r`, or as the adapter defines it.
    pub(super) scale: f32,
}

impl Lora {
    /// `x·wᵀ + bias + scale·(x·aᵀ)·bᵀ` and the narrow activation `x·aᵀ`.
    pub(super) fn forward(&self, x: &FlexTensor) -> (FlexTensor, FlexTensor) {
        let (rows, inputs) = rows_and_width(x);
        let (outputs, rank) = rows_and_width(&self.b);
        let mut y = linear_values(x, &self.weight, &self.bias);
        let narrow = project(values(x), values(&self.a), rows, rank, inputs);
        let narrow = tensor(narrow, [rows, rank]);
        let up = matrix(&self.b).t();
        let out = MatMut::new(&mut y, rows, outputs);
        accumulate(out, matrix(&narrow), up, self.scale, Threads::All);
        (tensor(y, with_width(x, outputs)), narrow)
    }

    /// `scale·g·b`, the gradient of the narrow activation.
    pub(super) fn narrow_gradient(&self, upstream: &FlexTensor) -> FlexTensor {
        let ((rows, _), (_, rank)) = (rows_and_width(upstream), rows_and_width(&self.b));
        tensor(product(matrix(upstream), matrix(&self.b), self.scale), [rows, rank])
    }

    /// The gradient of [`Self::b`]: `scale·gᵀ·narrow`.
    pub(super) fn b_gradient(&self, upstream: &FlexTensor, narrow: &FlexTensor) -> FlexTensor {
        let shape = self.b.layout().shape().clone();
        tensor(product(matrix(upstream).t(), matrix(narrow), self.scale), shape)
    }

    /// The gradient of the input through both paths.
    pub(super) fn input_gradient(
        &self,
        upstream: &FlexTensor,
        narrow_gradient: &FlexTensor,
        x: &FlexTensor,
    ) -> FlexTensor {
        let (rows, inputs) = rows_and_width(x);
        let mut dx = product(matrix(upstream), matrix(&self.weight), 1.0);
        let out = MatMut::new(&mut dx, rows, inputs);
        accumulate(out, matrix(narrow_gradient), matrix(&self.a), 1.0, Threads::All);
        tensor(dx, x.layout().shape().clone())
    }
}

/// A SwiGLU block, `down(silu(gate(x))·up(x))`, and what its backward pass needs; all dense.
#[derive(Debug, Clone)]
pub(super) struct SwigluMlp {
    /// The input.
    pub(super) x: FlexTensor,
    /// `[hidden, in]`.
    pub(super) gate_weight: FlexTensor,
    /// `[hidden, in]`.
    pub(super) up_weight: FlexTensor,
    /// `[out, hidden]`.
    pub(super) down_weight: FlexTensor,
}

/// The projections that a [`SwigluMlp`] keeps; the activation is computed again.
#[derive(Debug, Clone)]
pub(super) struct Projections {
    gate: FlexTensor,
    up: FlexTensor,
}

/// Which gradients of a [`SwigluMlp`] are wanted, or the gradients.
#[derive(Debug)]
pub(super) struct MlpGradients<T> {
    /// Of the input.
    pub(super) x: T,
    /// Of the gate weight.
    pub(super) gate: T,
    /// Of the up weight.
    pub(super) up: T,
    /// Of the down weight.
    pub(super) down: T,
}

impl SwigluMlp {
    /// The output and the projections to keep.
    pub(super) fn forward(&self) -> (FlexTensor, Projections) {
        let none = tensor(Vec::new(), [0]);
        let gate = linear(&self.x, &self.gate_weight, &none);
        let up = linear(&self.x, &self.up_weight, &none);
        let hidden = tensor(swiglu_values(values(&gate), values(&up)), gate.layout().shape().clone());
        (linear(&hidden, &self.down_weight, &none), Projections { gate, up })
    }

    /// The gradients that `wanted` asks for.
    pub(super) fn backward(
        &self,
        kept: Projections,
        upstream: FlexTensor,
        wanted: &MlpGradients<bool>,
    ) -> MlpGradients<Option<FlexTensor>> {
        let upstream = dense(upstream);
        let shape = kept.gate.layout().shape().clone();
        let down = wanted.down.then(|| {
            let hidden = swiglu_values(values(&kept.gate), values(&kept.up));
            weight_gradient(&upstream, &tensor(hidden, shape.clone()))
        });
        if !(wanted.x || wanted.gate || wanted.up) {
            return MlpGradients { x: None, gate: None, up: None, down };
        }
        let dhidden = product(matrix(&upstream), matrix(&self.down_weight), 1.0);
        let (dgate, dup) = swiglu_backward(values(&kept.gate), values(&kept.up), &dhidden);
        drop((dhidden, kept));
        let (dgate, dup) = (tensor(dgate, shape.clone()), tensor(dup, shape));
        let x = wanted.x.then(|| {
            let (rows, inputs) = rows_and_width(&self.x);
            let mut dx = product(matrix(&dgate), matrix(&self.gate_weight), 1.0);
            let out = MatMut::new(&mut dx, rows, inputs);
            accumulate(out, matrix(&dup), matrix(&self.up_weight), 1.0, Threads::All);
            tensor(dx, self.x.layout().shape().clone())
        });
        MlpGradients {
            x,
            gate: wanted.gate.then(|| weight_gradient(&dgate, &self.x)),
            up: wanted.up.then(|| weight_gradient(&dup, &self.x)),
            down,
        }
    }
}
