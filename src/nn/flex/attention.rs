//! Softmax attention in blocks of query rows: grouped-query, causal or not, in rows of one or several segments, with a
//! sliding window and rotary positions.
//!
//! A block holds the scores of up to [`BLOCK`] queries of one segment against the keys that at least one of them sees;
//! keys that none sees are not touched, so that a row of several segments costs what they cost alone. Only the
//! log-sum-exp of each row is kept for the gradient.

// b batch, t queries, s keys, h query heads, g key/value heads ("groups"), k head width.

use super::{
    attention_parts::{Operand, Segment, block_bounds, rotary, rotate_keys, rotated_block, segments, work},
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

/// The key head that query head `head` reads.
fn group(spec: &AttentionSpec, head: usize) -> usize {
    head / (spec.heads / spec.kv_heads)
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
    let segments = segments(&spec, b, t, s);
    let rotated_k = rotate_keys(&k, &rope, &spec, &segments);
    let (mut o, mut lse) = (Output::new(b * t * heads * width), Output::new(b * heads * t));
    let (shared_o, shared_lse) = (o.shared(), lse.shared());
    let blocks = segments.iter().flat_map(|segment| segment.blocks(spec.past).map(move |block| (segment, block)));
    let blocks: Vec<(&Segment, Range<usize>)> = blocks.collect();
    let task = |index: usize| {
        let (head, (segment, queries)) = (index / blocks.len(), &blocks[index % blocks.len()]);
        let (row, first, rows) = (segment.row, queries.start, queries.len());
        // SAFETY: each task owns the rows of its block in its head, of the output and of `lse`;
        // both buffers outlive the tasks.
        let (out, lse) = unsafe {
            let offset = (row * t + first) * heads * width + head * width;
            let data = shared_o.at(offset, (rows - 1) * heads * width + width);
            let out = MatMut::from_raw(data, rows, width, heads * width);
            (out, shared_lse.slice((row * heads + head) * t + first, rows))
        };
        let mut bounds = [(0, 0); BLOCK];
        let seen = block_bounds(&spec, segment, queries.clone(), &mut bounds);
        let group = group(&spec, head);
        let keys = match &rotated_k {
            Some(k) => {
                let from = (row * spec.kv_heads + group) * s * width;
                MatRef::new(&k[from..][..s * width], s, width)
            }
            None => k.head(row, group * width, width),
        };
        with_scratch(rows * (seen.len() + width), |mut scratch| {
            let scores = super::buffer::take(&mut scratch, rows * seen.len());
            let block = q.head(row, head * width, width).rows(queries.clone());
            let rotary = rotary(&rope, &spec, segment);
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
    run_tasks(heads * blocks.len(), work(&spec, &segments), task);
    // SAFETY: the blocks hold every query of every row, and the tasks cover every block of every head; each wrote all its
    // rows.
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
    assert!(spec.starts.is_empty() || spec.starts.rows() == b, "segments of every row, {spec:?}");
    let table = rope.layout().num_elements();
    assert!(table == 0 || (spec.past == 0 && spec.head_dim.is_multiple_of(2)), "rotary, {spec:?}");
    let positions = spec.starts.longest(t);
    assert!(table == 0 || table >= positions * spec.head_dim, "rotary table shorter than {positions} positions");
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
