//! SwiGLU, GELU and quick GELU, and their gradients.

use super::{
    buffer::{Output, TASK_ELEMENTS, dense, tensor, values},
    kernels::{mul_add, multiversion, normal_cdf_pdf, sigmoid},
};
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// An activation of one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gelu {
    /// `x·Φ(x)`, the error-function form.
    Erf,
    /// `x·σ(1.702·x)`, CLIP's approximation.
    Quick,
}

/// The slope of quick GELU's sigmoid.
const QUICK_SLOPE: f32 = 1.702;

/// `silu(gate)·up`, both dense and of one shape.
pub(super) fn swiglu(gate: &FlexTensor, up: &FlexTensor) -> FlexTensor {
    tensor(swiglu_values(values(gate), values(up)), gate.layout().shape().clone())
}

/// `silu(gate)·up`.
pub(super) fn swiglu_values(gate: &[f32], up: &[f32]) -> Vec<f32> {
    assert_eq!(gate.len(), up.len(), "gate and up projections of unequal size");
    let mut y = Output::new(gate.len());
    (y.as_mut().par_chunks_mut(TASK_ELEMENTS))
        .zip(gate.par_chunks(TASK_ELEMENTS))
        .zip(up.par_chunks(TASK_ELEMENTS))
        .for_each(|((y, gate), up)| swiglu_chunk(gate, up, y));
    // SAFETY: the chunks cover the buffer and the kernel writes every element of its chunk.
    unsafe { y.assume_init() }
}

/// The gradients of [`swiglu`] with respect to gate and up.
pub(super) fn swiglu_backward(gate: &[f32], up: &[f32], dy: &[f32]) -> (Vec<f32>, Vec<f32>) {
    let (mut dgate, mut dup) = (Output::new(gate.len()), Output::new(gate.len()));
    (dgate.as_mut().par_chunks_mut(TASK_ELEMENTS))
        .zip(dup.as_mut().par_chunks_mut(TASK_ELEMENTS))
        .zip(gate.par_chunks(TASK_ELEMENTS))
        .zip(up.par_chunks(TASK_ELEMENTS))
        .zip(dy.par_chunks(TASK_ELEMENTS))
        .for_each(|((((dgate, dup), gate), up), dy)| {
            swiglu_chunk_backward(gate, up, dy, dgate, dup);
        });
    // SAFETY: the chunks cover both buffers and the kernel writes every element of its chunks.
    unsafe { (dgate.assume_init(), dup.assume_init()) }
}

/// The activation of every element of a dense tensor.
pub(super) fn gelu(kind: Gelu, x: &FlexTensor) -> FlexTensor {
    let values = values(x);
    let mut y = Output::new(values.len());
    (y.as_mut().par_chunks_mut(TASK_ELEMENTS)).zip(values.par_chunks(TASK_ELEMENTS)).for_each(|(y, x)| match kind {
        Gelu::Erf => gelu_chunk(x, y),
        Gelu::Quick => quick_gelu_chunk(x, y),
    });
    // SAFETY: the chunks cover the buffer and the kernels write every element of their chunk.
    tensor(unsafe { y.assume_init() }, x.layout().shape().clone())
}

/// The gradient of [`gelu`].
pub(super) fn gelu_backward(kind: Gelu, x: &FlexTensor, upstream: FlexTensor) -> FlexTensor {
    let upstream = dense(upstream);
    let (input, dy) = (values(x), values(&upstream));
    let mut dx = Output::new(input.len());
    (dx.as_mut().par_chunks_mut(TASK_ELEMENTS))
        .zip(input.par_chunks(TASK_ELEMENTS))
        .zip(dy.par_chunks(TASK_ELEMENTS))
        .for_each(|((dx, x), dy)| match kind {
            Gelu::Erf => gelu_chunk_backward(x, dy, dx),
            Gelu::Quick => quick_gelu_chunk_backward(x, dy, dx),
        });
    // SAFETY: the chunks cover the buffer and the kernels write every element of their chunk.
    tensor(unsafe { dx.assume_init() }, x.layout().shape().clone())
}

multiversion! {
    fn swiglu_chunk<FMA>(gate: &[f32], up: &[f32], y: &mut [MaybeUninit<f32>]) {
        for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
            y.write(gate * sigmoid::<FMA>(*gate) * up);
        }
    }
}

multiversion! {
    fn swiglu_chunk_backward<FMA>(
        gate: &[f32],
        up: &[f32],
        dy: &[f32],
        dgate: &mut [MaybeUninit<f32>],
        dup: &mut [MaybeUninit<f32>],
    ) {
        for ((((dgate, dup), gate), up), dy) in
            dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(dy)
        {
            let sigmoid = sigmoid::<FMA>(*gate);
            let silu = gate * sigmoid;
            dup.write(dy * silu);
            dgate.write(dy * up * mul_add::<FMA>(silu, 1.0 - sigmoid, sigmoid));
        }
    }
}

multiversion! {
    fn gelu_chunk<FMA>(x: &[f32], y: &mut [MaybeUninit<f32>]) {
        for (y, x) in y.iter_mut().zip(x) {
            y.write(x * normal_cdf_pdf::<FMA>(*x).0);
        }
    }
}

multiversion! {
    fn gelu_chunk_backward<FMA>(x: &[f32], dy: &[f32], dx: &mut [MaybeUninit<f32>]) {
        for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
            let (cdf, pdf) = normal_cdf_pdf::<FMA>(*x);
            dx.write(dy * mul_add::<FMA>(*x, pdf, cdf));
        }
    }
}

multiversion! {
    fn quick_gelu_chunk<FMA>(x: &[f32], y: &mut [MaybeUninit<f32>]) {
        for (y, x) in y.iter_mut().zip(x) {
            y.write(x * sigmoid::<FMA>(QUICK_SLOPE * x));
        }
    }
}

multiversion! {
    fn quick_gelu_chunk_backward<FMA>(x: &[f32], dy: &[f32], dx: &mut [MaybeUninit<f32>]) {
        for ((dx, x), dy) in dx.iter_mut().zip(x).zip(dy) {
            let sigmoid = sigmoid::<FMA>(QUICK_SLOPE * x);
            dx.write(dy * sigmoid * mul_add::<FMA>(QUICK_SLOPE * x, 1.0 - sigmoid, 1.0));
        }
    }
}
