//! RMSNorm and LayerNorm over the last axis, and their gradients.

use super::{
    buffer::{Output, dense, rows_and_width, rows_per_task, tensor, values},
    kernels::{add_assign, dot, mul_add, multiversion, sum},
};
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;
use std::{mem::MaybeUninit, sync::Arc};

/// Which norm; layer norm has a bias and subtracts the mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Norm {
    /// `x / √(mean(x²) + eps) · weight`.
    Rms,
    /// `(x - mean) / √(var + eps) · weight + bias`.
    Layer,
}

/// What the backward pass needs.
#[derive(Debug, Clone)]
pub(super) struct NormState {
    norm: Norm,
    x: FlexTensor,
    weight: FlexTensor,
    /// Per row: the mean (0 for RMSNorm) and the reciprocal of the standard deviation.
    statistics: Arc<Vec<f32>>,
}

/// The gradients of a norm; those of the parameters are empty where they were not asked for.
#[derive(Debug)]
pub(super) struct NormGradients {
    /// Of the input.
    pub(super) x: FlexTensor,
    /// Of the weight.
    pub(super) weight: FlexTensor,
    /// Of the bias; zero-sized for RMSNorm.
    pub(super) bias: FlexTensor,
}

/// Normalises the rows of `x`. `bias` is empty for RMSNorm.
pub(super) fn forward(
    norm: Norm,
    x: FlexTensor,
    weight: FlexTensor,
    bias: FlexTensor,
    eps: f32,
) -> (FlexTensor, NormState) {
    let (x, weight, bias) = (dense(x), dense(weight), dense(bias));
    let (rows, width) = rows_and_width(&x);
    let (mut y, mut statistics) = (Output::new(rows * width), Output::new(2 * rows));
    if width > 0 {
        let step = rows_per_task(width);
        let (weight, bias) = (values(&weight), values(&bias));
        assert_eq!(weight.len(), width, "norm weight of another width than the input");
        (y.as_mut().par_chunks_mut(step * width))
            .zip(values(&x).par_chunks(step * width))
            .zip(statistics.as_mut().par_chunks_mut(step * 2))
            .for_each(|((y, x), statistics)| match norm {
                Norm::Rms => rms_norm_rows(x, weight, eps, y, statistics),
                Norm::Layer => layer_norm_rows(x, weight, bias, eps, y, statistics),
            });
    } else {
        statistics.as_mut().fill(MaybeUninit::new(0.0));
    }
    // SAFETY: the chunks cover both buffers and the kernels write each row and its statistics;
    // with a width of 0 `y` is empty and the statistics were filled.
    let (y, statistics) = unsafe { (y.assume_init(), statistics.assume_init()) };
    let y = tensor(y, x.layout().shape().clone());
    (y, NormState { norm, x, weight, statistics: Arc::new(statistics) })
}

/// Gradients of the input and, where `parameters` is set, of weight and bias.
pub(super) fn backward(state: &NormState, upstream: FlexTensor, parameters: bool) -> NormGradients {
    let upstream = dense(upstream);
    let (rows, width) = rows_and_width(&state.x);
    let mut dx = Output::new(rows * width);
    let mut parameter_sums = vec![0f32; if parameters { 2 * width } else { 0 }];
    if width > 0 {
        let step = rows_per_task(width);
        let weight = values(&state.weight);
        let partial_sums: Vec<Vec<f32>> = (dx.as_mut().par_chunks_mut(step * width))
            .zip(values(&state.x).par_chunks(step * width))
            .zip(values(&upstream).par_chunks(step * width))
            .zip(state.statistics.par_chunks(step * 2))
            .map(|(((dx, x), dy), statistics)| {
                let mut sums = vec![0f32; parameter_sums.len()];
                match state.norm {
                    Norm::Rms => rms_norm_rows_backward(x, weight, dy, statistics, dx, &mut sums),
                    Norm::Layer => {
                        layer_norm_rows_backward(x, weight, dy, statistics, dx, &mut sums);
                    }
                }
                sums
            })
            .collect();
        // In the order of the rows, whatever order the tasks ran in.
        for partial in &partial_sums {
            add_assign(&mut parameter_sums, partial);
        }
    }
    // SAFETY: the chunks cover the buffer and the kernels write every element of their rows.
    let dx = unsafe { dx.assume_init() };
    let bias = match state.norm {
        Norm::Layer if parameters => parameter_sums.split_off(width),
        _ => Vec::new(),
    };
    parameter_sums.truncate(width);
    let width = |sums: &Vec<f32>| [sums.len()];
    NormGradients {
        x: tensor(dx, state.x.layout().shape().clone()),
        weight: tensor(parameter_sums.clone(), width(&parameter_sums)),
        bias: tensor(bias.clone(), width(&bias)),
    }
}

multiversion! {
    fn rms_norm_rows<FMA>(
        x: &[f32],
        weight: &[f32],
        eps: f32,
        y: &mut [MaybeUninit<f32>],
        statistics: &mut [MaybeUninit<f32>],
    ) {
        let width = weight.len();
        let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
        for ((x, y), statistics) in rows.zip(statistics.chunks_exact_mut(2)) {
            let scale = 1.0 / (dot::<FMA>(x, x) / width as f32 + eps).sqrt();
            statistics[0].write(0.0);
            statistics[1].write(scale);
            for ((y, x), weight) in y.iter_mut().zip(x).zip(weight) {
                y.write(x * scale * weight);
            }
        }
    }
}

multiversion! {
    fn layer_norm_rows<FMA>(
        x: &[f32],
        weight: &[f32],
        bias: &[f32],
        eps: f32,
        y: &mut [MaybeUninit<f32>],
        statistics: &mut [MaybeUninit<f32>],
    ) {
        let width = weight.len();
        let rows = x.chunks_exact(width).zip(y.chunks_exact_mut(width));
        let mut centred = vec![0f32; width];
        for ((x, y), statistics) in rows.zip(statistics.chunks_exact_mut(2)) {
            let mean = sum(x) / width as f32;
            for (centred, x) in centred.iter_mut().zip(x) {
                *centred = x - mean;
            }
            let scale = 1.0 / (dot::<FMA>(&centred, &centred) / width as f32 + eps).sqrt();
            statistics[0].write(mean);
            statistics[1].write(scale);
            for (((y, x), weight), bias) in y.iter_mut().zip(&centred).zip(weight).zip(bias) {
                y.write(mul_add::<FMA>(x * scale, *weight, *bias));
            }
        }
    }
}

multiversion! {
    /// `sums` holds the gradient of the weight, or is empty.
    fn rms_norm_rows_backward<FMA>(
        x: &[f32],
        weight: &[f32],
        dy: &[f32],
        statistics: &[f32],
        dx: &mut [MaybeUninit<f32>],
        sums: &mut [f32],
    ) {
        let width = weight.len();
        let mut product = vec![0f32; width];
        let rows = x.chunks_exact(width).zip(dy.chunks_exact(width));
        for (((x, dy), dx), statistics) in
            rows.zip(dx.chunks_exact_mut(width)).zip(statistics.chunks_exact(2))
        {
            let scale = statistics[1];
            for ((product, x), dy) in product.iter_mut().zip(x).zip(dy) {
                *product = x * dy;
            }
            let pull = dot::<FMA>(&product, weight) * scale * scale * scale / width as f32;
            for (((dx, x), dy), weight) in dx.iter_mut().zip(x).zip(dy).zip(weight) {
                dx.write(dy * weight * scale - x * pull);
            }
            for (sum, product) in sums.iter_mut().zip(&product) {
                *sum = mul_add::<FMA>(*product, scale, *sum);
            }
        }
    }
}

multiversion! {
    /// `sums` holds the gradients of weight and bias one after the other, or is empty.
    fn layer_norm_rows_backward<FMA>(
        x: &[f32],
        weight: &[f32],
        dy: &[f32],
        statistics: &[f32],
        dx: &mut [MaybeUninit<f32>],
        sums: &mut [f32],
    ) {
        let width = weight.len();
        let (weight_sums, bias_sums) = sums.split_at_mut(sums.len() / 2);
        let (mut normed, mut scaled) = (vec![0f32; width], vec![0f32; width]);
        let rows = x.chunks_exact(width).zip(dy.chunks_exact(width));
        for (((x, dy), dx), statistics) in
            rows.zip(dx.chunks_exact_mut(width)).zip(statistics.chunks_exact(2))
        {
            let (mean, scale) = (statistics[0], statistics[1]);
            for ((((normed, scaled), x), dy), weight) in
                normed.iter_mut().zip(&mut scaled).zip(x).zip(dy).zip(weight)
            {
                *normed = (x - mean) * scale;
                *scaled = dy * weight;
            }
            let mean_scaled = sum(&scaled) / width as f32;
            let pull = dot::<FMA>(&scaled, &normed) / width as f32;
            for ((dx, normed), scaled) in dx.iter_mut().zip(&normed).zip(&scaled) {
                dx.write((scaled - mean_scaled - normed * pull) * scale);
            }
            for ((sum, normed), dy) in weight_sums.iter_mut().zip(&normed).zip(dy) {
                *sum = mul_add::<FMA>(*normed, *dy, *sum);
            }
            for (sum, dy) in bias_sums.iter_mut().zip(dy) {
                *sum += dy;
            }
        }
    }
}
