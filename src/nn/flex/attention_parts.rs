//! What the two directions of attention share: operands in any memory, rotary positions, and the
//! keys that a block of queries sees.

// b batch, t queries, s keys, h query heads, g key/value heads ("groups"), k head width.

use super::{
    attention::BLOCK,
    buffer::{dense, values},
    gemm::MatRef,
    kernels::multiversion,
};
use crate::nn::AttentionSpec;
use burn::backend::flex::FlexTensor;
use rayon::prelude::*;
use std::ops::Range;

/// The operands in memory: heads side by side in rows of any distance.
#[derive(Debug, Clone)]
pub(super) struct Operand(FlexTensor);

impl Operand {
    /// Takes a `[b, t, width]` tensor, without a copy where its rows are dense: a slice of a cache
    /// or of a joint projection is.
    pub(super) fn new(tensor: FlexTensor) -> Self {
        let layout = tensor.layout();
        assert_eq!(layout.shape().num_dims(), 3, "attention takes [batch, tokens, width]");
        let adjacent = layout.strides()[2] == 1 && layout.strides().iter().all(|s| *s >= 0);
        Self(if adjacent { tensor } else { dense(tensor) })
    }

    /// `[batch, tokens, width]`.
    pub(super) fn dims(&self) -> [usize; 3] {
        let shape = self.0.layout().shape();
        [shape[0], shape[1], shape[2]]
    }

    /// Columns `first..first + width` of a row of the batch, `[tokens, width]`.
    pub(super) fn head(&self, row: usize, first: usize, width: usize) -> MatRef<'_> {
        let (layout, tokens) = (self.0.layout(), self.dims()[1]);
        let (batch, stride) = (layout.strides()[0] as usize, layout.strides()[1] as usize);
        let data: &[f32] = self.0.storage();
        let data = if tokens * width == 0 { &[] } else { &data[layout.start_offset() + row * batch + first..] };
        MatRef::with_stride(data, tokens, width, stride)
    }
}

/// A rotary table: row `p` holds the cosines of position `p`, then its sines.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rotary<'a> {
    pub(super) table: &'a [f32],
    pub(super) width: usize,
    /// The index that has position 0; earlier ones have it too.
    pub(super) start: usize,
}

impl Rotary<'_> {
    /// Rotates dense rows, whose first has index `first`.
    pub(super) fn rotate(&self, rows: &mut [f32], first: usize) {
        rotate_rows(rows, self.width, self.table, first, self.start, 1.0);
    }

    /// Undoes [`Self::rotate`]: the map of its gradient.
    pub(super) fn rotate_back(&self, rows: &mut [f32], first: usize) {
        rotate_rows(rows, self.width, self.table, first, self.start, -1.0);
    }
}

/// The rotary table for a segment, where one is given.
pub(super) fn rotary<'a>(rope: &'a FlexTensor, spec: &AttentionSpec, segment: &Segment) -> Option<Rotary<'a>> {
    let table = values(rope);
    let width = spec.head_dim;
    (!table.is_empty()).then_some(Rotary { table, width, start: segment.start })
}

/// Tokens of a row that see each other and no others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    /// The row of the batch.
    pub(super) row: usize,
    /// The index of its first key.
    pub(super) start: usize,
    /// Its keys; a row's first segment has the padding in front of it as well, which no query sees.
    pub(super) keys: Range<usize>,
    /// Its queries, those of the padding in front included.
    pub(super) queries: Range<usize>,
}

impl Segment {
    /// Its queries in blocks, the first of which begins with the segment: its results do not depend on where it lies.
    pub(super) fn blocks(&self, past: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let Range { start, end } = self.queries;
        let first = self.start.saturating_sub(past).clamp(start, end);
        let blocks = |from: usize, to: usize| (from..to).step_by(BLOCK).map(move |at| at..to.min(at + BLOCK));
        blocks(start, first).chain(blocks(first, end))
    }
}

/// The segments of all rows in order, `t` queries and `s` keys each; every query and every key is in one of them.
pub(super) fn segments(spec: &AttentionSpec, b: usize, t: usize, s: usize) -> Vec<Segment> {
    let query = |key: usize| key.saturating_sub(spec.past).min(t);
    let mut segments = Vec::with_capacity(b);
    for row in 0..b {
        let starts = spec.starts.of(row);
        for (i, &start) in starts.iter().enumerate() {
            let start = start.min(s);
            let from = if i == 0 { 0 } else { start };
            let to = starts.get(i + 1).map_or(s, |&next| next.min(s));
            segments.push(Segment { row, start, keys: from..to, queries: query(from)..query(to) });
        }
    }
    segments
}

/// Multiply-adds of one product of all queries with all keys of their segments, all heads together.
pub(super) fn work(spec: &AttentionSpec, segments: &[Segment]) -> usize {
    let pairs: usize = segments.iter().map(|segment| segment.queries.len() * segment.keys.len()).sum();
    pairs * spec.heads * spec.head_dim
}

/// All keys, rotated, as `[b, g, s, k]`; nothing where no rotation is asked for.
pub(super) fn rotate_keys(
    k: &Operand,
    rope: &FlexTensor,
    spec: &AttentionSpec,
    segments: &[Segment],
) -> Option<Vec<f32>> {
    let ([b, s, _], width) = (k.dims(), spec.head_dim);
    if rope.layout().num_elements() == 0 {
        return None;
    }
    let mut rotated = vec![0f32; b * spec.kv_heads * s * width];
    if !rotated.is_empty() {
        rotated.par_chunks_mut(s * width).enumerate().for_each(|(index, rows)| {
            let (row, group) = (index / spec.kv_heads, index % spec.kv_heads);
            k.head(row, group * width, width).copy_to(rows);
            for segment in of_row(segments, row) {
                if let Some(rotary) = rotary(rope, spec, segment) {
                    let keys = segment.keys.clone();
                    rotary.rotate(&mut rows[keys.start * width..keys.end * width], keys.start);
                }
            }
        });
    }
    Some(rotated)
}

fn of_row(segments: &[Segment], row: usize) -> &[Segment] {
    let from = segments.partition_point(|segment| segment.row < row);
    let to = segments.partition_point(|segment| segment.row <= row);
    &segments[from..to]
}

/// A block of queries, rotated into `scratch` where rotary positions are given.
pub(super) fn rotated_block<'a>(
    block: MatRef<'a>,
    rotary: Option<Rotary<'_>>,
    first: usize,
    scratch: &'a mut [f32],
) -> MatRef<'a> {
    let Some(rotary) = rotary else { return block };
    block.copy_to(scratch);
    rotary.rotate(scratch, first);
    MatRef::new(scratch, scratch.len() / rotary.width, rotary.width)
}

/// The keys that a block of queries of a segment sees, and for each query its part of them, counted from the
/// first of these keys.
pub(super) fn block_bounds(
    spec: &AttentionSpec,
    segment: &Segment,
    queries: Range<usize>,
    bounds: &mut [(usize, usize); BLOCK],
) -> Range<usize> {
    let visible = |i: usize| spec.visible_of(segment.start..segment.keys.end, i);
    // Both ends of what a query sees grow with its index, so the first and the last decide.
    let seen = visible(queries.start).start..visible(queries.end - 1).end;
    for (bounds, i) in bounds.iter_mut().zip(queries) {
        let visible = visible(i);
        *bounds = (visible.start - seen.start, visible.end - seen.start);
    }
    seen
}

multiversion! {
    /// Rotates dense rows of `width` by the angles of their positions (times `sign`), first half
    /// against second half.
    fn rotate_rows<FMA>(
        rows: &mut [f32],
        width: usize,
        table: &[f32],
        first: usize,
        start: usize,
        sign: f32,
    ) {
        for (i, row) in rows.chunks_exact_mut(width).enumerate() {
            let position = (first + i).saturating_sub(start);
            let (cos, sin) = table[position * width..][..width].split_at(width / 2);
            let (left, right) = row.split_at_mut(width / 2);
            for (((left, right), cos), sin) in left.iter_mut().zip(right).zip(cos).zip(sin) {
                let (x, y, sin) = (*left, *right, sin * sign);
                *left = x * cos - y * sin;
                *right = y * cos + x * sin;
            }
        }
    }
}
