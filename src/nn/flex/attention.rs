//! Softmax attention in blocks of query rows: grouped-query, causal or not, with left padding, a
//! sliding window and rotary positions.
//!
//! A block holds the scores of [`BLOCK`] queries against the keys that at least one of them sees;
//! keys that none sees are not touched. Only the log-sum-exp of each row is kept for the gradient.

// b batch, t queries, s keys, h query heads, g key/value heads ("groups"), k head width.

use super::{
    attention_parts::{Operand, block_bounds, rotary, rotate_keys, rotated_block},
    buffer::{Output, dense, tensor, with_scratch},
    gemm::{MatMut, MatRef, Threads, multiply},
    kernels::{exp_and_sum, max, multiversion},
};
use crate::nn::AttentionSpec;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;
use std::{ops::Range, sync::Arc};

/// Query rows per block.
pub(super) const BLOCK: usize = 64;

/// Multiply-adds below which attention stays on the calling thread: waking another one takes longer.
const SERIAL_WORK: usize = 1 << 16;

impl AttentionSpec {
    /// The index of the first real key of a row of the batch.
    pub(super) fn start(&self, row: usize) -> usize {
        self.starts.get(row).copied().unwrap_or(0)
    }

    /// The keys that query `i` of batch row `row` sees, of `keys` in all; may be empty.
    pub(super) fn visible(&self, row: usize, i: usize, keys: usize) -> Range<usize> {
        let index = self.past + i;
        let end = if self.causal { keys.min(index + 1) } else { keys };
        let oldest = self.window.map_or(0, |window| (index + 1).saturating_sub(window));
        self.start(row).max(oldest).min(end)..end
    }

    /// The key head that query head `head` reads.
    fn group(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }
}

/// What the backward pass needs.
#[derive(Debug, Clone)]
pub(super) struct AttentionState {
    pub(super) q: Operand,
    pub(super) k: Operand,
    pub(super) v: Operand,
    /// The output.
    pub(super) o: FlexTensor,
    /// Log-sum-exp of the scaled scores, `[b, h, t]`; 0 where nothing is seen.
    pub(super) lse: Arc<Vec<f32>>,
    /// Cosines and sines, `[positions, k]`, or empty.
    pub(super) rope: FlexTensor,
    pub(super) spec: AttentionSpec,
}

/// `softmax(q·kᵀ·scale)·v` per head. `rope` is empty for none.
pub(super) fn forward(
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    rope: FlexTensor,
    spec: AttentionSpec,
) -> AttentionState {
    let (q, k, v, rope) = (Operand::new(q), Operand::new(k), Operand::new(v), dense(rope));
    let ([b, t, _], [_, s, _]) = (q.dims(), k.dims());
    check(&q, &k, &v, &rope, &spec);
    let (heads, width) = (spec.heads, spec.head_dim);
    let rotated_k = rotate_keys(&k, &rope, &spec);
    let (mut o, mut lse) = (Output::new(b * t * heads * width), Output::new(b * heads * t));
    let (shared_o, shared_lse) = (o.shared(), lse.shared());
    let blocks = t.div_ceil(BLOCK);
    let task = |index: usize| {
        let (row, head, block) = (index / (heads * blocks), index / blocks % heads, index % blocks);
        let first = block * BLOCK;
        let rows = BLOCK.min(t - first);
        // SAFETY: each task owns the rows of its block in its head, of the output and of `lse`;
        // both buffers outlive the tasks.
        let (out, lse) = unsafe {
            let offset = (row * t + first) * heads * width + head * width;
            let data = shared_o.at(offset, (rows - 1) * heads * width + width);
            let out = MatMut::from_raw(data, rows, width, heads * width);
            (out, shared_lse.slice((row * heads + head) * t + first, rows))
        };
        let mut bounds = [(0, 0); BLOCK];
        let seen = block_bounds(&spec, row, first..first + rows, s, &mut bounds);
        let group = spec.group(head);
        let keys = match &rotated_k {
            Some(k) => {
                let from = (row * spec.kv_heads + group) * s * width;
                MatRef::new(&k[from..][..s * width], s, width)
            }
            None => k.head(row, group * width, width),
        };
        with_scratch(rows * (seen.len() + width), |mut scratch| {
            let scores = super::buffer::take(&mut scratch, rows * seen.len());
            let block = q.head(row, head * width, width).rows(first..first + rows);
            let rotary = rotary(&rope, &spec, row);
            let queries = rotated_block(block, rotary, first, scratch);
            let n = seen.len();
            multiply(MatMut::new(scores, rows, n), queries, keys.rows(seen.clone()).t(), 1.0, Threads::One);
            let mut sums = [0f32; BLOCK];
            softmax_rows(scores, n, &bounds[..rows], spec.scale, &mut sums[..rows]);
            for (lse, sum) in lse.iter_mut().zip(sums) {
                lse.write(sum);
            }
            let values = v.head(row, group * width, width).rows(seen);
            // With no key in sight the inner dimension is 0 and the product writes zeros.
            multiply(out, MatRef::new(scores, rows, n), values, 1.0, Threads::One);
        });
    };
    run_tasks(b * heads * blocks, b * heads * t * s * width, task);
    // SAFETY: the tasks cover every block of every head; each wrote all its rows.
    let (o, lse) = unsafe { (o.assume_init(), lse.assume_init()) };
    let o = tensor(o, [b, t, heads * width]);
    AttentionState { q, k, v, o, lse: Arc::new(lse), rope, spec }
}

/// Runs the tasks on the pool, or here where there is little to do.
pub(super) fn run_tasks(tasks: usize, work: usize, task: impl Fn(usize) + Send + Sync) {
    if work < SERIAL_WORK || tasks <= 1 {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().for_each(task);
    }
}

fn check(q: &Operand, k: &Operand, v: &Operand, rope: &FlexTensor, spec: &AttentionSpec) {
    let ([b, t, q_width], [_, s, kv_width]) = (q.dims(), k.dims());
    assert!(spec.kv_heads > 0 && spec.heads.is_multiple_of(spec.kv_heads), "{spec:?}");
    assert_eq!(q_width, spec.heads * spec.head_dim, "width of the queries, {spec:?}");
    assert_eq!(k.dims(), v.dims(), "keys and values of unequal shape");
    assert_eq!([b, spec.kv_heads * spec.head_dim], [k.dims()[0], kv_width], "keys, {spec:?}");
    assert_eq!(s, spec.past + t, "number of keys, {spec:?}");
    assert!(spec.starts.is_empty() || spec.starts.len() == b, "one start per row, {spec:?}");
    let table = rope.layout().num_elements();
    assert!(table == 0 || (spec.past == 0 && spec.head_dim.is_multiple_of(2)), "rotary, {spec:?}");
    assert!(table == 0 || table >= t * spec.head_dim, "rotary table shorter than {t} positions");
}

multiversion! {
    /// Softmax of each row of `scores` (`[rows, n]`) inside its bounds, zeros outside; writes the
    /// log-sum-exp of the scaled scores, 0 for a row that sees nothing.
    fn softmax_rows<FMA>(
        scores: &mut [f32],
        n: usize,
        bounds: &[(usize, usize)],
        scale: f32,
        lse: &mut [f32],
    ) {
        for (i, ((from, to), lse)) in bounds.iter().zip(lse).enumerate() {
            let row = &mut scores[i * n..(i + 1) * n];
            if from >= to {
                row.fill(0.0);
                *lse = 0.0;
                continue;
            }
            row[..*from].fill(0.0);
            row[*to..].fill(0.0);
            let row = &mut row[*from..*to];
            let shift = max(row) * scale;
            let sum = exp_and_sum::<FMA>(row, scale, shift);
            *lse = shift + sum.ln();
            let normalise = 1.0 / sum;
            for p in row {
                *p *= normalise;
            }
        }
    }
}
