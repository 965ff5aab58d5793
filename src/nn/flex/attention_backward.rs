//! The gradient of attention. The probabilities of a block are computed again from the kept
//! log-sum-exp; all query heads of one key head run in one task for each segment, in order, so that the gradients of
//! keys and values are sums in a fixed order.

// b batch, t queries, s keys, h query heads, g key/value heads ("groups"), k head width.

use super::{
    attention::{AttentionState, BLOCK, run_tasks},
    attention_parts::{Segment, block_bounds, rotary, rotate_keys, rotated_block, segments, work},
    buffer::{Output, SharedOutput, dense, take, tensor, with_scratch},
    gemm::{MatMut, MatRef, Threads, accumulate, multiply},
    kernels::{exp, mul_add, multiversion, row_dots},
};
use burn::backend::flex::FlexTensor;
use std::ops::Range;

/// The gradients of queries, keys and values, each of its operand's shape.
pub(super) fn backward(state: &AttentionState, upstream: FlexTensor) -> [FlexTensor; 3] {
    let upstream = dense(upstream);
    let ([b, t, q_width], [_, s, kv_width]) = (state.q.dims(), state.k.dims());
    let spec = &state.spec;
    let segments = segments(spec, b, t, s);
    let rotated_k = rotate_keys(&state.k, &state.rope, spec, &segments);
    let mut outputs = [Output::new(b * t * q_width), Output::new(b * s * kv_width), Output::new(b * s * kv_width)];
    let [dq, dk, dv] = outputs.each_mut().map(Output::shared);
    let task = |index: usize| {
        let (segment, group) = (&segments[index / spec.kv_heads], index % spec.kv_heads);
        let from = (segment.row * spec.kv_heads + group) * s * spec.head_dim;
        let rotated_k = rotated_k.as_deref().map(|k| MatRef::new(&k[from..], s, spec.head_dim));
        Group { state, upstream: &upstream, rotated_k, segment, group, dq, dk, dv }.run();
    };
    run_tasks(segments.len() * spec.kv_heads, work(spec, &segments), task);
    // SAFETY: the segments hold every query and every key of every row, their groups cover every column of the three
    // buffers, and `Group::run` writes all of its columns.
    let [dq, dk, dv] = outputs.map(|output| unsafe { output.assume_init() });
    [tensor(dq, [b, t, q_width]), tensor(dk, [b, s, kv_width]), tensor(dv, [b, s, kv_width])]
}

/// One key head of one segment, with its query heads.
struct Group<'a> {
    state: &'a AttentionState,
    upstream: &'a FlexTensor,
    /// `[s, k]`, where keys are rotated.
    rotated_k: Option<MatRef<'a>>,
    segment: &'a Segment,
    group: usize,
    dq: SharedOutput,
    dk: SharedOutput,
    dv: SharedOutput,
}

/// The memory of one task, for the `s` keys of its segment.
struct Work<'a> {
    /// `[block, s]`: scores, then probabilities.
    p: &'a mut [f32],
    /// `[block, s]`: gradient of the probabilities, then of the scores.
    ds: &'a mut [f32],
    /// `[block, k]`: rotated queries.
    q: &'a mut [f32],
    /// `[block, k]`: gradient of the rotated queries.
    dq: &'a mut [f32],
    /// `[s, k]`: gradient of the rotated keys.
    dk: &'a mut [f32],
    /// `[s, k]`.
    dv: &'a mut [f32],
}

impl Group<'_> {
    fn run(&self) {
        let (spec, width) = (&self.state.spec, self.state.spec.head_dim);
        let Segment { row, keys, queries, .. } = self.segment;
        let ([_, all, _], block, s) = (self.state.k.dims(), BLOCK.min(queries.len()), keys.len());
        with_scratch(2 * block * (s + width) + 2 * s * width, |mut scratch| {
            let mut work = Work {
                p: take(&mut scratch, block * s),
                ds: take(&mut scratch, block * s),
                q: take(&mut scratch, block * width),
                dq: take(&mut scratch, block * width),
                dk: take(&mut scratch, s * width),
                dv: take(&mut scratch, s * width),
            };
            work.dk.fill(0.0);
            work.dv.fill(0.0);
            let heads = spec.heads / spec.kv_heads;
            for head in self.group * heads..(self.group + 1) * heads {
                for queries in self.segment.blocks(spec.past) {
                    self.block(head, queries, &mut work);
                }
            }
            if let Some(rotary) = rotary(&self.state.rope, spec, self.segment) {
                rotary.rotate_back(work.dk, keys.start);
            }
            let place = Place { row: *row, tokens: all, heads: spec.kv_heads, width };
            // SAFETY: this task alone writes the columns of its key head in the rows of its segment.
            unsafe {
                place.write(self.dk, self.group, keys.start, work.dk);
                place.write(self.dv, self.group, keys.start, work.dv);
            }
        });
    }

    /// Adds a block of queries of one head to the gradients of keys and values, and writes the
    /// gradient of these queries.
    fn block(&self, head: usize, queries: Range<usize>, work: &mut Work<'_>) {
        let (state, spec, row) = (self.state, &self.state.spec, self.segment.row);
        let (width, [_, t, _]) = (spec.head_dim, state.q.dims());
        let (first, rows) = (queries.start, queries.len());
        let mut bounds = [(0, 0); BLOCK];
        let seen = block_bounds(spec, self.segment, queries.clone(), &mut bounds);
        let n = seen.len();
        let (p, ds) = (&mut work.p[..rows * n], &mut work.ds[..rows * n]);
        let dq = &mut work.dq[..rows * width];

        let key_column = self.group * width;
        let all_keys = self.rotated_k.unwrap_or_else(|| state.k.head(row, key_column, width));
        let k = all_keys.rows(seen.clone());
        let v = state.v.head(row, key_column, width).rows(seen.clone());
        let rotary = rotary(&state.rope, spec, self.segment);
        let q = state.q.head(row, head * width, width).rows(queries.clone());
        let q = rotated_block(q, rotary, first, &mut work.q[..rows * width]);
        let dense_head = |tensor| {
            let (data, stride) = (super::buffer::values(tensor), spec.heads * width);
            let from = (row * t + first) * stride + head * width;
            MatRef::with_stride(&data[from..], rows, width, stride)
        };
        let (g, o) = (dense_head(self.upstream), dense_head(&state.o));

        multiply(MatMut::new(p, rows, n), q, k.t(), 1.0, Threads::One);
        multiply(MatMut::new(ds, rows, n), g, v.t(), 1.0, Threads::One);
        let mut weighted = [0f32; BLOCK];
        let ((g_data, stride), (o_data, _)) = (g.as_rows(), o.as_rows());
        row_dots(g_data, stride, o_data, stride, width, &mut weighted[..rows]);
        let lse = &state.lse[(row * spec.heads + head) * t..][queries];
        softmax_rows_backward(p, ds, n, &bounds[..rows], spec.scale, lse, &weighted[..rows]);

        let (p, ds) = (MatRef::new(p, rows, n), MatRef::new(ds, rows, n));
        let from = self.segment.keys.start;
        let columns = (seen.start - from) * width..(seen.end - from) * width;
        let dv = MatMut::new(&mut work.dv[columns.clone()], n, width);
        accumulate(dv, p.t(), g, 1.0, Threads::One);
        let dk = MatMut::new(&mut work.dk[columns], n, width);
        accumulate(dk, ds.t(), q, 1.0, Threads::One);
        multiply(MatMut::new(dq, rows, width), ds, k, 1.0, Threads::One);
        if let Some(rotary) = rotary {
            rotary.rotate_back(dq, first);
        }
        let place = Place { row, tokens: t, heads: spec.heads, width };
        // SAFETY: this task alone writes the columns of its query heads in the rows of its segment.
        unsafe { place.write(self.dq, head, first, dq) };
    }
}

/// Where the columns of a head lie in a `[b, tokens, heads·width]` output.
struct Place {
    row: usize,
    tokens: usize,
    heads: usize,
    width: usize,
}

impl Place {
    /// Writes dense rows into the columns of `head`, from token `first` on.
    ///
    /// # Safety
    /// No other task may write these columns.
    unsafe fn write(&self, output: SharedOutput, head: usize, first: usize, rows: &[f32]) {
        for (i, values) in rows.chunks_exact(self.width).enumerate() {
            let token = self.row * self.tokens + first + i;
            let offset = (token * self.heads + head) * self.width;
            // SAFETY: exclusive by the caller's promise; `slice` checks the bounds.
            let out = unsafe { output.slice(offset, self.width) };
            for (out, value) in out.iter_mut().zip(values) {
                out.write(*value);
            }
        }
    }
}

multiversion! {
    /// From scores and the gradient of the probabilities (both `[rows, n]`) to probabilities and
    /// the gradient of the unscaled scores, in place; zeros outside the bounds. `weighted` is the
    /// inner product of output and upstream gradient per row.
    fn softmax_rows_backward<FMA>(
        p: &mut [f32],
        ds: &mut [f32],
        n: usize,
        bounds: &[(usize, usize)],
        scale: f32,
        lse: &[f32],
        weighted: &[f32],
    ) {
        for (i, (from, to)) in bounds.iter().copied().enumerate() {
            let p = &mut p[i * n..(i + 1) * n];
            let ds = &mut ds[i * n..(i + 1) * n];
            p[..from].fill(0.0);
            p[to..].fill(0.0);
            ds[..from].fill(0.0);
            ds[to..].fill(0.0);
            let (lse, weighted) = (lse[i], weighted[i]);
            for (p, ds) in p[from..to].iter_mut().zip(&mut ds[from..to]) {
                *p = exp::<FMA>(mul_add::<FMA>(*p, scale, -lse));
                *ds = *p * (*ds - weighted) * scale;
            }
        }
    }
}
