//! Negative log-likelihood of tokens straight from hidden states: the head's product, softmax and
//! their gradients run over chunks of rows, so that `[tokens, vocabulary]` never exists.

use super::{
    adamw::plain,
    buffer::{Output, class_id, class_ids, dense, rows_and_width, tensor, values},
    gemm::{MatMut, MatRef, Threads, accumulate, multiply},
    kernels::{exp_and_sum, max, multiversion, scale_assign},
    project::multiply_transposed,
};
use crate::nn::TokenStats;
use burn::backend::{Flex, flex::FlexTensor};
use burn::tensor::{Int, Tensor, TensorData};
use rayon::prelude::*;
use std::{mem::MaybeUninit, sync::Arc};

/// Logits held at a time, in elements: 32 MB.
const CHUNK_ELEMENTS: usize = 8 << 20;

/// Rows of a chunk at least, for a product worth its packing.
const CHUNK_ROWS: usize = 64;

/// Logits per parallel task of the softmax.
const TASK_ELEMENTS: usize = 1 << 16;

/// Which gradients to compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Of the hidden states.
    pub(super) hidden: bool,
    /// Of the head.
    pub(super) head: bool,
}

/// The problem and the gradients that the forward pass made.
#[derive(Debug, Clone)]
pub(super) struct NllState {
    hidden: FlexTensor,
    head: FlexTensor,
    targets: Arc<Vec<usize>>,
    /// `[n, d]`: each row's gradient for an upstream gradient of 1.
    hidden_gradient: Option<FlexTensor>,
    /// `[v, d]`: for an upstream gradient of 1 in every row.
    head_gradient: Option<FlexTensor>,
}

/// `-log softmax(hidden·headᵀ)[target]` per row, and the gradients asked for.
pub(super) fn forward(
    hidden: FlexTensor,
    head: FlexTensor,
    targets: &FlexTensor,
    wanted: Wanted,
) -> (FlexTensor, NllState) {
    let (hidden, head) = (dense(hidden), dense(head));
    let ((n, d), (v, head_d)) = (rows_and_width(&hidden), rows_and_width(&head));
    assert_eq!(d, head_d, "head of another width than the hidden states");
    let targets = class_ids(targets, v);
    assert_eq!(targets.len(), n, "one target per row");
    let mut nll = Output::new(n);
    let mut hidden_gradient = Output::new(if wanted.hidden { n * d } else { 0 });
    let mut head_gradient = vec![0f32; if wanted.head { v * d } else { 0 }];
    for_each_chunk(&hidden, &head, |first, logits| {
        let rows = logits.len() / v;
        let range = first..first + rows;
        let out = &mut nll.as_mut()[range.clone()];
        let step = (TASK_ELEMENTS / v).max(1);
        (logits.par_chunks_mut(step * v))
            .zip(targets[range.clone()].par_chunks(step))
            .zip(out.par_chunks_mut(step))
            .for_each(|((logits, targets), out)| nll_rows(logits, v, targets, out));
        let difference = MatRef::new(logits, rows, v);
        if wanted.hidden {
            let out = &mut hidden_gradient.as_mut()[first * d..range.end * d];
            let out = MatMut::uninit(out, rows, d);
            multiply(out, difference, MatRef::new(values(&head), v, d), 1.0, Threads::All);
        }
        if wanted.head {
            let x = MatRef::new(&values(&hidden)[first * d..range.end * d], rows, d);
            let out = MatMut::new(&mut head_gradient, v, d);
            accumulate(out, difference.t(), x, 1.0, Threads::All);
        }
    });
    // SAFETY: the chunks cover all rows; the kernel writes each row's loss, and the product each
    // row of the gradient, which is empty where it is not wanted.
    let (nll, hidden_gradient) = unsafe { (nll.assume_init(), hidden_gradient.assume_init()) };
    let shape = |tensor: &FlexTensor| tensor.layout().shape().clone();
    let state = NllState {
        hidden_gradient: wanted.hidden.then(|| tensor(hidden_gradient, shape(&hidden))),
        head_gradient: wanted.head.then(|| tensor(head_gradient, shape(&head))),
        targets: Arc::new(targets),
        hidden,
        head,
    };
    (tensor(nll, [n]), state)
}

/// The gradients of hidden states and head for `upstream`, `[n]`; absent where the forward pass
/// was not asked for them.
pub(super) fn backward(state: NllState, upstream: FlexTensor) -> (Option<FlexTensor>, Option<FlexTensor>) {
    let upstream = dense(upstream);
    let upstream = values(&upstream);
    let uniform = upstream.windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits());
    let head_gradient = match state.head_gradient {
        Some(gradient) if uniform => {
            let factor = upstream.first().copied().unwrap_or(0.0);
            Some(scale_rows(gradient, &|_| factor))
        }
        Some(_) => Some(exact_head_gradient(&state.hidden, &state.head, &state.targets, upstream)),
        None => None,
    };
    let hidden_gradient = state.hidden_gradient.map(|g| scale_rows(g, &|row| upstream[row]));
    (hidden_gradient, head_gradient)
}

/// `[v, d]`, with the logits computed again.
fn exact_head_gradient(hidden: &FlexTensor, head: &FlexTensor, targets: &[usize], upstream: &[f32]) -> FlexTensor {
    let (v, d) = rows_and_width(head);
    let mut gradient = vec![0f32; v * d];
    for_each_chunk(hidden, head, |first, logits| {
        let rows = logits.len() / v;
        let range = first..first + rows;
        let step = (TASK_ELEMENTS / v).max(1);
        (logits.par_chunks_mut(step * v))
            .zip(targets[range.clone()].par_chunks(step))
            .zip(upstream[range.clone()].par_chunks(step))
            .for_each(|((logits, targets), upstream)| {
                let mut nll = vec![MaybeUninit::uninit(); targets.len()];
                nll_rows(logits, v, targets, &mut nll);
                for (row, factor) in logits.chunks_exact_mut(v).zip(upstream) {
                    scale_assign(row, *factor);
                }
            });
        let x = MatRef::new(&values(hidden)[first * d..range.end * d], rows, d);
        let difference = MatRef::new(logits, rows, v).t();
        accumulate(MatMut::new(&mut gradient, v, d), difference, x, 1.0, Threads::All);
    });
    tensor(gradient, head.layout().shape().clone())
}

/// Scales every row by its factor; in place where the memory is not shared.
fn scale_rows(mut gradient: FlexTensor, factor: &(dyn Fn(usize) -> f32 + Sync)) -> FlexTensor {
    let (_, width) = rows_and_width(&gradient);
    let data = gradient.storage_mut::<f32>();
    if width > 0 {
        let step = super::buffer::rows_per_task(width);
        data.par_chunks_mut(step * width).enumerate().for_each(|(task, rows)| {
            for (i, row) in rows.chunks_exact_mut(width).enumerate() {
                let factor = factor(task * step + i);
                if factor != 1.0 {
                    scale_assign(row, factor);
                }
            }
        });
    }
    gradient
}

/// Calls `each` with the first row's number and the logits of a chunk of rows, chunk by chunk.
fn for_each_chunk(hidden: &FlexTensor, head: &FlexTensor, mut each: impl FnMut(usize, &mut [f32])) {
    let ((n, d), (v, _)) = (rows_and_width(hidden), rows_and_width(head));
    if n == 0 || v == 0 {
        return;
    }
    let chunk = (CHUNK_ELEMENTS / v / CHUNK_ROWS * CHUNK_ROWS).max(CHUNK_ROWS).min(n);
    let mut logits = Output::new(chunk * v);
    for first in (0..n).step_by(chunk) {
        let rows = chunk.min(n - first);
        let x = MatRef::new(&values(hidden)[first * d..(first + rows) * d], rows, d);
        let out = MatMut::uninit(logits.as_mut(), rows, v);
        multiply_transposed(out, x, values(head), v, d);
        // SAFETY: the product has just written these elements.
        each(first, unsafe { logits.written(rows * v) });
    }
}

/// [`TokenStats`] of `softmax(hidden·headᵀ)` without gradients, over chunks of rows.
///
/// # Shapes
/// `hidden` `[n, d]`, `head` `[v, d]`, `targets` `[n]`; f32, on the flex device with or without
/// autodiff. The results are on the device without autodiff.
/// # Panics
/// Where a target lies outside `0..v`.
pub fn token_stats(hidden: Tensor<2>, head: Tensor<2>, targets: Tensor<1, Int>) -> TokenStats {
    let (hidden, head) = (dense(plain(hidden)), dense(plain(head)));
    let ((n, _), (v, _)) = (rows_and_width(&hidden), rows_and_width(&head));
    let device = burn::tensor::Device::flex();
    // Through the host: an integer tensor may carry the autodiff context of its device.
    let targets: Vec<usize> = targets.into_data().iter::<i64>().map(|id| class_id(id, v)).collect();
    assert_eq!(targets.len(), n, "one target per row");
    let mut stats = vec![(0f32, 0i64); n];
    for_each_chunk(&hidden, &head, |first, logits| {
        let step = (TASK_ELEMENTS / v).max(1);
        let range = first..first + logits.len() / v;
        (logits.par_chunks_mut(step * v))
            .zip(targets[range.clone()].par_chunks(step))
            .zip(stats[range].par_chunks_mut(step))
            .for_each(|((logits, targets), out)| stats_rows(logits, v, targets, out));
    });
    let (logprobs, argmax): (Vec<f32>, Vec<i64>) = stats.into_iter().unzip();
    TokenStats {
        log_probs: Tensor::from_primitive::<Flex>(tensor(logprobs, [n])),
        argmax: Tensor::from_data(TensorData::new(argmax, [n]), &device),
    }
}

multiversion! {
    /// From rows of `v` logits to `softmax - onehot(target)` in place; writes each row's loss.
    fn nll_rows<FMA>(
        logits: &mut [f32],
        v: usize,
        targets: &[usize],
        nll: &mut [MaybeUninit<f32>],
    ) {
        for ((row, target), nll) in logits.chunks_exact_mut(v).zip(targets).zip(nll) {
            let (shift, target_logit) = (max(row), row[*target]);
            let sum = exp_and_sum::<FMA>(row, 1.0, shift);
            nll.write(sum.ln() + (shift - target_logit));
            let normalise = 1.0 / sum;
            for p in row.iter_mut() {
                *p *= normalise;
            }
            row[*target] -= 1.0;
        }
    }
}

multiversion! {
    fn stats_rows<FMA>(logits: &mut [f32], v: usize, targets: &[usize], out: &mut [(f32, i64)]) {
        for ((row, target), out) in logits.chunks_exact_mut(v).zip(targets).zip(out) {
            let (shift, target_logit) = (max(row), row[*target]);
            let argmax = row.iter().position(|logit| *logit == shift).unwrap_or(0);
            let sum = exp_and_sum::<FMA>(row, 1.0, shift);
            *out = (target_logit - shift - sum.ln(), argmax as i64);
        }
    }
}
