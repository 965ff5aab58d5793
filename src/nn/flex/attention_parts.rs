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

/// The rotary table for a row of the batch, where one is given.
pub(super) fn rotary<'a>(rope: &'a FlexTensor, spec: &AttentionSpec, row: usize) -> Option<Rotary<'a>> {
    let table = values(rope);
    let width = spec.head_dim;
    (!table.is_empty()).then(|| Rotary { table, width, start: spec.start(row) })
}

/// All keys, rotated, as `[b, g, s, k]`; nothing where no rotation is asked for.
pub(super) fn rotate_keys(k: &Operand, rope: &FlexTensor, spec: &AttentionSpec) -> Option<Vec<f32>> {
    let ([b, s, _], width) = (k.dims(), spec.head_dim);
    if rope.layout().num_elements() == 0 {
        return None;
    }
    let mut rotated = vec![0f32; b * spec.kv_heads * s * width];
    if !rotated.is_empty() {
        rotated.par_chunks_mut(s * width).enumerate().for_each(|(index, rows)| {
            let (row, group) = (index / spec.kv_heads, index % spec.kv_heads);
            k.head(row, group * width, width).copy_to(rows);
            if let Some(rotary) = rotary(rope, spec, row) {
                rotary.rotate(rows, 0);
            }
        });
    }
    Some(rotated)
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

/// The keys that a block of queries sees, and for each query its part of them, counted from the
/// first of these keys.
pub(super) fn block_bounds(
    spec: &AttentionSpec,
    row: usize,
    queries: Range<usize>,
    keys: usize,
    bounds: &mut [(usize, usize); BLOCK],
) -> Range<usize> {
    // Both ends of what a query sees grow with its index, so the first and the last decide.
    let first = spec.visible(row, queries.start, keys);
    let last = spec.visible(row, queries.end - 1, keys);
    let seen = first.start.min(last.start)..last.end;
    for (bounds, i) in bounds.iter_mut().zip(queries) {
        let visible = spec.visible(row, i, keys);
        *bounds = (visible.start.max(seen.start) - seen.start, visible.end - seen.start.min(visible.end));
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
