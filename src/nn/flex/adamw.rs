//! The optimizer's arithmetic on raw memory: AdamW in place, and the squared norm of a gradient.

use super::{
    buffer::{TASK_ELEMENTS, dense, rows_and_width, values},
    kernels::multiversion,
};
use crate::nn::{AdamWStep, AdamWTensors};
use burn::backend::{Flex, flex::FlexTensor};
use burn::tensor::Tensor;
use rayon::prelude::*;

/// One step of AdamW with torch's arithmetic in torch's order.
///
/// Works in place where a tensor is the only owner of its memory; drop other handles first. On an
/// autodiff device the plain tensors are updated and plain tensors are returned.
///
/// # Shapes
/// All four equal; f32, on the flex device.
/// # Source
/// `torch.optim.AdamW` (`_single_tensor_adamw`) of torch 2.
pub fn adamw_step<const D: usize>(tensors: AdamWTensors<D>, grad: Tensor<D>, hyper: AdamWStep) -> AdamWTensors<D> {
    let AdamWTensors { param, m, v } = tensors;
    let grad = dense(plain(grad));
    let (mut param, mut m, mut v) = (owned(plain(param)), owned(plain(m)), owned(plain(v)));
    let coefficients = Coefficients::new(&hyper);
    let gradient = values(&grad);
    let len = gradient.len();
    {
        let (param, m, v) = (param.storage_mut::<f32>(), m.storage_mut::<f32>(), v.storage_mut::<f32>());
        assert_eq!([param.len(), m.len(), v.len()], [len; 3], "AdamW state of another size");
        (param.par_chunks_mut(TASK_ELEMENTS))
            .zip(m.par_chunks_mut(TASK_ELEMENTS))
            .zip(v.par_chunks_mut(TASK_ELEMENTS))
            .zip(gradient.par_chunks(TASK_ELEMENTS))
            .for_each(|(((param, m), v), grad)| adamw_chunk(param, m, v, grad, &coefficients));
    }
    AdamWTensors {
        param: Tensor::from_primitive::<Flex>(param),
        m: Tensor::from_primitive::<Flex>(m),
        v: Tensor::from_primitive::<Flex>(v),
    }
}

/// `Σ xᵢ²` in f64, the same bits for any number of threads.
///
/// f32, on the flex device, with or without autodiff.
pub fn sum_of_squares<const D: usize>(tensor: &Tensor<D>) -> f64 {
    let tensor = dense(plain(tensor.clone()));
    let partial_sums: Vec<f64> = values(&tensor).par_chunks(TASK_ELEMENTS).map(squares_chunk).collect();
    partial_sums.iter().sum()
}

/// `Σⱼ xᵢⱼ²` of every row in f64, rounded to f32, the same bits for any number of threads.
///
/// f32, on the flex device, with or without autodiff.
pub fn row_squares(matrix: &Tensor<2>) -> Vec<f32> {
    let matrix = dense(plain(matrix.clone()));
    let (rows, width) = rows_and_width(&matrix);
    if width == 0 {
        return vec![0.0; rows];
    }
    values(&matrix)
        .par_chunks(width)
        .map(|row| row.chunks(TASK_ELEMENTS).map(squares_chunk).sum::<f64>() as f32)
        .collect()
}

/// The flex tensor under a tensor with or without autodiff.
///
/// # Panics
/// Where the tensor lives on another device: the callers ask `is_flex` first.
pub(super) fn plain<const D: usize>(tensor: Tensor<D>) -> FlexTensor {
    let tensor = if tensor.device().is_autodiff() { tensor.inner() } else { tensor };
    tensor.try_into_primitive::<Flex>().expect("a tensor on the flex device")
}

/// A tensor whose storage is its elements and nothing else, without a copy where it is so already.
pub(super) fn owned(tensor: FlexTensor) -> FlexTensor {
    let whole = tensor.layout().start_offset() == 0
        && tensor.bytes().len() == tensor.layout().num_elements() * size_of::<f32>();
    if tensor.is_contiguous() && whole { tensor } else { tensor.to_contiguous() }
}

/// The f32 scalars of the inner loop.
pub(super) struct Coefficients {
    pub(super) keep: f32,
    pub(super) beta1: f32,
    pub(super) lerp: f32,
    pub(super) beta2: f32,
    pub(super) one_minus_beta2: f32,
    pub(super) bias_correction2_sqrt: f32,
    pub(super) eps: f32,
    pub(super) minus_step_size: f32,
    pub(super) grad_scale: f32,
}

impl Coefficients {
    pub(super) fn new(hyper: &AdamWStep) -> Self {
        Self {
            keep: (1.0 - hyper.lr * hyper.weight_decay) as f32,
            beta1: hyper.beta1 as f32,
            lerp: (1.0 - hyper.beta1) as f32,
            beta2: hyper.beta2 as f32,
            one_minus_beta2: (1.0 - hyper.beta2) as f32,
            bias_correction2_sqrt: hyper.bias_correction2.sqrt() as f32,
            eps: hyper.eps as f32,
            minus_step_size: -(hyper.lr / hyper.bias_correction1) as f32,
            grad_scale: hyper.grad_scale as f32,
        }
    }
}

multiversion! {
    fn adamw_chunk<FMA>(
        param: &mut [f32],
        m: &mut [f32],
        v: &mut [f32],
        grad: &[f32],
        c: &Coefficients,
    ) {
        // Without fused multiply-add on purpose: the same bits on every processor.
        for (((param, m), v), grad) in param.iter_mut().zip(m).zip(v).zip(grad) {
            let grad = grad * c.grad_scale;
            *m += c.lerp * (grad - *m);
            *v = *v * c.beta2 + c.one_minus_beta2 * grad * grad;
            let denominator = v.sqrt() / c.bias_correction2_sqrt + c.eps;
            *param = *param * c.keep + c.minus_step_size * *m / denominator;
        }
    }
}

multiversion! {
    fn squares_chunk<FMA>(x: &[f32]) -> f64 {
        const LANES: usize = 16;
        let mut lanes = [0f64; LANES];
        let (blocks, rest) = x.as_chunks::<LANES>();
        for block in blocks {
            for i in 0..LANES {
                lanes[i] += f64::from(block[i]) * f64::from(block[i]);
            }
        }
        let rest = rest.iter().map(|x| f64::from(*x) * f64::from(*x));
        lanes.into_iter().chain(rest).sum()
    }
}
