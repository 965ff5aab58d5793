//! Negative log-likelihood of tokens straight from hidden states: the head's product, softmax and
//! their gradients run over chunks of rows, so that `[tokens, vocabulary]` never exists.

use super::{
    adamw::plain,
    buffer::{Output, class_id, dense, rows_and_width, tensor, values},
    gemm::{MatMut, MatRef, Threads, accumulate, multiply},
    kernels::{LANES, exp, exp_and_sum, fold, max, mul_add, multiversion, scale_assign},
    project::multiply_transposed,
};
use crate::nn::gradient::{Pullback, Tracked, graft};
use crate::nn::loss::{Aside, Asked, Spread, Weights};
use burn::backend::{Flex, flex::FlexTensor};
use burn::tensor::{Device, Int, Tensor, TensorData};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Logits held at a time, in elements: 32 MB.
const CHUNK_ELEMENTS: usize = 8 << 20;

/// Rows of a chunk at least, for a product worth its packing.
const CHUNK_ROWS: usize = 64;

/// Logits per parallel task of the softmax.
const TASK_ELEMENTS: usize = 1 << 16;

/// Log-probability of each target under `softmax(hidden·headᵀ)`, in nats, and what else is asked for,
/// over chunks of rows.
///
/// The gradients are made in this forward pass, where the logits are at hand; that of a tracked head
/// only where `asked.weights` says that one upstream gradient holds for all rows, else in the
/// backward pass.
///
/// # Shapes
/// `hidden` `[n, d]`, `head` `[v, d]`, `targets` `[n]`; f32, on the flex device with or without
/// autodiff.
/// # Panics
/// Where a target lies outside `0..v`.
pub(in crate::nn) fn token_pass(
    hidden: Tensor<2>,
    head: Tensor<2>,
    targets: Tensor<1, Int>,
    asked: Asked,
) -> (Tensor<1>, Aside) {
    let tracked = Tracked::of(&hidden, &head);
    let problem = Problem::new(&hidden, &head, targets);
    let n = problem.targets.len();
    let now = tracked.second && asked.weights == Weights::Equal;
    let found = problem.pass(asked, Tracked { first: tracked.first, second: now });
    let column = |value: fn(&RowAside) -> f32| {
        let values = found.asides.iter().map(value).collect();
        Tensor::from_primitive::<Flex>(tensor(values, [n]))
    };
    let argmax = || found.asides.iter().map(|aside| aside.argmax as i64).collect::<Vec<_>>();
    let aside = Aside {
        argmax: asked.argmax.then(|| Tensor::from_data(TensorData::new(argmax(), [n]), &Device::flex())),
        spread: asked
            .spread
            .then(|| Spread { entropies: column(|aside| aside.entropy), collisions: column(|aside| aside.collision) }),
    };
    let pullback = tracked.any().then(|| {
        let problem = tracked.second.then_some(problem);
        Box::new(NllStep { hidden: found.hidden, head: found.head, problem }) as Box<dyn Pullback>
    });
    let nll = Tensor::from_primitive::<Flex>(tensor(found.nll, [n]));
    (graft(nll, hidden, head, pullback).neg(), aside)
}

/// Hidden states, head and the tokens that stand there.
#[derive(Debug)]
struct Problem {
    /// `[n, d]`.
    hidden: FlexTensor,
    /// `[v, d]`.
    head: FlexTensor,
    targets: Vec<usize>,
}

/// What a pass over the vocabulary found.
struct Found {
    nll: Vec<f32>,
    /// One per row, where any was asked for.
    asides: Vec<RowAside>,
    /// `[n, d]`: each row's gradient for an upstream gradient of 1.
    hidden: Option<FlexTensor>,
    /// `[v, d]`: for an upstream gradient of 1 in every row.
    head: Option<FlexTensor>,
}

/// What is read of a row besides its loss.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RowAside {
    argmax: u32,
    entropy: f32,
    /// `log Σ p²`.
    collision: f32,
}

impl Problem {
    fn new(hidden: &Tensor<2>, head: &Tensor<2>, targets: Tensor<1, Int>) -> Self {
        let (hidden, head) = (dense(plain(hidden.clone())), dense(plain(head.clone())));
        let ((n, d), (v, head_d)) = (rows_and_width(&hidden), rows_and_width(&head));
        assert_eq!(d, head_d, "head of another width than the hidden states");
        // Through the host: an integer tensor may carry the autodiff context of its device.
        let targets: Vec<usize> = targets.into_data().iter::<i64>().map(|id| class_id(id, v)).collect();
        assert_eq!(targets.len(), n, "one target per row");
        Self { hidden, head, targets }
    }

    /// Losses, what else is asked for, and the gradients wanted: of the hidden states, of the head.
    fn pass(&self, asked: Asked, wanted: Tracked) -> Found {
        let ((n, d), (v, _)) = (rows_and_width(&self.hidden), rows_and_width(&self.head));
        let mut nll = Output::new(n);
        let mut asides = vec![RowAside::default(); if asked.argmax || asked.spread { n } else { 0 }];
        let mut hidden_gradient = Output::new(if wanted.first { n * d } else { 0 });
        let mut head_gradient = vec![0f32; if wanted.second { v * d } else { 0 }];
        for_each_chunk(&self.hidden, &self.head, |first, logits| {
            let range = first..first + logits.len() / v;
            let asides: &mut [RowAside] = if asides.is_empty() { &mut [] } else { &mut asides[range.clone()] };
            let rows = Rows { v, targets: &self.targets[range.clone()], asked, gradient: wanted.any() };
            rows.finish(logits, &mut nll.as_mut()[range.clone()], asides);
            let difference = MatRef::new(logits, range.len(), v);
            if wanted.first {
                let out = &mut hidden_gradient.as_mut()[first * d..range.end * d];
                let out = MatMut::uninit(out, range.len(), d);
                multiply(out, difference, MatRef::new(values(&self.head), v, d), 1.0, Threads::All);
            }
            if wanted.second {
                self.add_head_gradient(&mut head_gradient, difference, range);
            }
        });
        // SAFETY: the chunks cover all rows; the kernel writes each row's loss, and the product each
        // row of the gradient, which is empty where it is not wanted.
        let (nll, hidden_gradient) = unsafe { (nll.assume_init(), hidden_gradient.assume_init()) };
        let shape = |tensor: &FlexTensor| tensor.layout().shape().clone();
        Found {
            nll,
            asides,
            hidden: wanted.first.then(|| tensor(hidden_gradient, shape(&self.hidden))),
            head: wanted.second.then(|| tensor(head_gradient, shape(&self.head))),
        }
    }

    fn add_head_gradient(&self, gradient: &mut [f32], difference: MatRef<'_>, range: std::ops::Range<usize>) {
        let (v, d) = rows_and_width(&self.head);
        let x = MatRef::new(&values(&self.hidden)[range.start * d..range.end * d], range.len(), d);
        accumulate(MatMut::new(gradient, v, d), difference.t(), x, 1.0, Threads::All);
    }

    /// `[v, d]`, with the logits computed again.
    fn head_gradient(&self, upstream: &[f32]) -> FlexTensor {
        let (v, d) = rows_and_width(&self.head);
        let mut gradient = vec![0f32; v * d];
        for_each_chunk(&self.hidden, &self.head, |first, logits| {
            let range = first..first + logits.len() / v;
            let mut nll = vec![MaybeUninit::uninit(); range.len()];
            let targets = &self.targets[range.clone()];
            Rows { v, targets, asked: Asked::default(), gradient: true }.finish(logits, &mut nll, &mut []);
            scale_rows(logits, v, &|row| upstream[first + row]);
            self.add_head_gradient(&mut gradient, MatRef::new(logits, range.len(), v), range);
        });
        tensor(gradient, self.head.layout().shape().clone())
    }
}

/// The backward step: hidden states, head.
#[derive(Debug)]
struct NllStep {
    hidden: Option<FlexTensor>,
    head: Option<FlexTensor>,
    /// Kept for a tracked head alone.
    problem: Option<Problem>,
}

impl Pullback for NllStep {
    fn pull(self: Box<Self>, upstream: Tensor<1>) -> [Option<Tensor<2>>; 2] {
        let upstream = dense(plain(upstream));
        let upstream = values(&upstream);
        let uniform = upstream.windows(2).all(|pair| pair[0].to_bits() == pair[1].to_bits());
        let Self { hidden, head, problem } = *self;
        let head = problem.map(|problem| match head {
            Some(gradient) if uniform => {
                let factor = upstream.first().copied().unwrap_or(0.0);
                scaled(gradient, &|_| factor)
            }
            _ => problem.head_gradient(upstream),
        });
        let hidden = hidden.map(|gradient| scaled(gradient, &|row| upstream[row]));
        [hidden, head].map(|gradient| gradient.map(Tensor::from_primitive::<Flex>))
    }
}

/// Scales every row by its factor; in place where the memory is not shared.
pub(super) fn scaled(mut gradient: FlexTensor, factor: &(dyn Fn(usize) -> f32 + Sync)) -> FlexTensor {
    let (_, width) = rows_and_width(&gradient);
    scale_rows(gradient.storage_mut::<f32>(), width, factor);
    gradient
}

fn scale_rows(data: &mut [f32], width: usize, factor: &(dyn Fn(usize) -> f32 + Sync)) {
    if width == 0 {
        return;
    }
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

/// Rows of a chunk: at least [`CHUNK_ROWS`], at most `n`, else as many as `elements` allow.
pub(super) fn chunk_rows(elements: usize, v: usize, n: usize) -> usize {
    (elements / v / CHUNK_ROWS * CHUNK_ROWS).max(CHUNK_ROWS).min(n)
}

/// Calls `each` with the first row's number and the logits of a chunk of rows, chunk by chunk.
fn for_each_chunk(hidden: &FlexTensor, head: &FlexTensor, mut each: impl FnMut(usize, &mut [f32])) {
    let ((n, _), (v, _)) = (rows_and_width(hidden), rows_and_width(head));
    if n == 0 || v == 0 {
        return;
    }
    let chunk = chunk_rows(CHUNK_ELEMENTS, v, n);
    let mut logits = Output::new(chunk * v);
    for first in (0..n).step_by(chunk) {
        each(first, logits_of(hidden, head, first..n.min(first + chunk), &mut logits));
    }
}

/// The logits of `rows`, at the front of `out`.
pub(super) fn logits_of<'a>(
    hidden: &FlexTensor,
    head: &FlexTensor,
    rows: std::ops::Range<usize>,
    out: &'a mut Output,
) -> &'a mut [f32] {
    let ((_, d), (v, _)) = (rows_and_width(hidden), rows_and_width(head));
    let x = MatRef::new(&values(hidden)[rows.start * d..rows.end * d], rows.len(), d);
    multiply_transposed(MatMut::uninit(out.as_mut(), rows.len(), v), x, values(head), v, d);
    // SAFETY: the product has just written these elements.
    unsafe { out.written(rows.len() * v) }
}

/// The rows of a chunk, on their way from logits to what is wanted of them.
struct Rows<'a> {
    v: usize,
    targets: &'a [usize],
    asked: Asked,
    gradient: bool,
}

impl Rows<'_> {
    /// Writes losses and asides, on all threads. `asides` may be empty. Leaves the loss's gradient in `logits` where
    /// that is wanted.
    fn finish(&self, logits: &mut [f32], nll: &mut [MaybeUninit<f32>], asides: &mut [RowAside]) {
        let (v, step) = (self.v, (TASK_ELEMENTS / self.v).max(1));
        let tasks = (logits.par_chunks_mut(step * v)).zip(self.targets.par_chunks(step)).zip(nll.par_chunks_mut(step));
        if asides.is_empty() {
            tasks.for_each(|((logits, targets), nll)| nll_rows(logits, v, targets, self.gradient, nll));
            return;
        }
        tasks.zip(asides.par_chunks_mut(step)).for_each(|(((logits, targets), nll), asides)| {
            if self.asked.argmax {
                argmax_rows(logits, v, asides);
            }
            match self.asked.spread {
                true => spread_rows(logits, v, targets, self.gradient, nll, asides),
                false => nll_rows(logits, v, targets, self.gradient, nll),
            }
        });
    }
}

multiversion! {
    /// From rows of `v` logits to each row's loss, and to `softmax - onehot(target)` in place where
    /// the gradient is wanted; else what is left of the logits means nothing.
    fn nll_rows<FMA>(
        logits: &mut [f32],
        v: usize,
        targets: &[usize],
        gradient: bool,
        nll: &mut [MaybeUninit<f32>],
    ) {
        for ((row, target), nll) in logits.chunks_exact_mut(v).zip(targets).zip(nll) {
            let (shift, target_logit) = (max(row), row[*target]);
            let sum = exp_and_sum::<FMA>(row, 1.0, shift);
            nll.write(sum.ln() + (shift - target_logit));
            if gradient {
                difference(row, sum, *target);
            }
        }
    }
}

multiversion! {
    /// [`nll_rows`], bit for bit, and the spread of each row.
    fn spread_rows<FMA>(
        logits: &mut [f32],
        v: usize,
        targets: &[usize],
        gradient: bool,
        nll: &mut [MaybeUninit<f32>],
        asides: &mut [RowAside],
    ) {
        for (((row, target), nll), aside) in logits.chunks_exact_mut(v).zip(targets).zip(nll).zip(asides) {
            let (shift, target_logit) = (max(row), row[*target]);
            let [sum, weighted, squares] = exp_and_moments::<FMA>(row, shift);
            nll.write(sum.ln() + (shift - target_logit));
            aside.entropy = sum.ln() - weighted / sum;
            aside.collision = squares.ln() - 2.0 * sum.ln();
            if gradient {
                difference(row, sum, *target);
            }
        }
    }
}

/// Replaces `x` by `e = e^(x - shift)` and returns `Σ e`, which is [`exp_and_sum`]'s bit for bit,
/// `Σ e·(x - shift)` and `Σ e²`.
#[inline(always)]
fn exp_and_moments<const FMA: bool>(x: &mut [f32], shift: f32) -> [f32; 3] {
    let [mut sums, mut weighted, mut squares] = [[0f32; LANES]; 3];
    let (blocks, rest) = x.as_chunks_mut::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            let shifted = block[i] - shift;
            block[i] = exp::<FMA>(shifted);
            sums[i] += block[i];
            weighted[i] = mul_add::<FMA>(block[i], shifted, weighted[i]);
            squares[i] = mul_add::<FMA>(block[i], block[i], squares[i]);
        }
    }
    let mut totals = [fold(&sums), fold(&weighted), fold(&squares)];
    for value in rest {
        let shifted = *value - shift;
        *value = exp::<FMA>(shifted);
        totals[0] += *value;
        totals[1] += *value * shifted;
        totals[2] += *value * *value;
    }
    totals
}

/// From exponentials and their sum to `softmax - onehot(target)`.
#[inline(always)]
fn difference(row: &mut [f32], sum: f32, target: usize) {
    let normalise = 1.0 / sum;
    for p in row.iter_mut() {
        *p *= normalise;
    }
    row[target] -= 1.0;
}

multiversion! {
    fn argmax_rows<FMA>(logits: &[f32], v: usize, asides: &mut [RowAside]) {
        for (row, aside) in logits.chunks_exact(v).zip(asides) {
            let largest = max(row);
            aside.argmax = row.iter().position(|logit| *logit == largest).unwrap_or(0) as u32;
        }
    }
}
