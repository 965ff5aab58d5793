//! Products with a transposed weight, `x·wᵀ`: many rows, where a weight whose rows are a power of two
//! apart is transposed first, and few rows, which take dot products.

use super::{
    buffer::{Output, with_scratch},
    gemm::{MatMut, MatRef, Threads, multiply},
    kernels::{dot, dot2, multiversion},
};
use rayon::prelude::*;
use std::mem::MaybeUninit;

/// Rows of the left operand from which transposing the right one first pays.
const TRANSPOSE_ROWS: usize = 128;

/// Row lengths that are a multiple of this make a column walk the few sets of a cache, so that
/// packing a transposed operand is slow.
const ALIASING_STRIDE: usize = 256;

/// Elements of the right operand that are transposed at a time: 2 MB.
const TRANSPOSE_ELEMENTS: usize = 1 << 19;

/// `c = x·wᵀ` with `w[n, k]` dense, on all threads; every element of `c` is initialised afterwards.
///
/// # Panics
/// Where the shapes do not fit.
pub(super) fn multiply_transposed(mut c: MatMut<'_>, x: MatRef<'_>, w: &[f32], n: usize, k: usize) {
    if x.rows < TRANSPOSE_ROWS || k == 0 || !k.is_multiple_of(ALIASING_STRIDE) {
        multiply(c, x, MatRef::new(w, n, k).t(), 1.0, Threads::All);
        return;
    }
    /// Columns of `w` per parallel task.
    const STRIPE: usize = 64;
    let step = (TRANSPOSE_ELEMENTS / k).max(1);
    with_scratch(step.min(n) * k, |scratch| {
        for first in (0..n).step_by(step) {
            let rows = step.min(n - first);
            let block = &w[first * k..(first + rows) * k];
            let transposed = &mut scratch[..rows * k];
            transposed
                .par_chunks_mut(STRIPE * rows)
                .enumerate()
                .for_each(|(stripe, out)| transpose_columns(block, rows, k, stripe * STRIPE, out));
            let c = c.columns(first..first + rows);
            multiply(c, x, MatRef::new(transposed, k, rows), 1.0, Threads::All);
        }
    });
}

multiversion! {
    /// Writes the columns of `x[rows, cols]` from `first` on as rows of `out`.
    fn transpose_columns<FMA>(x: &[f32], rows: usize, cols: usize, first: usize, out: &mut [f32]) {
        const TILE: usize = 16;
        let count = out.len() / rows;
        for row in (0..rows).step_by(TILE) {
            for column in (0..count).step_by(TILE) {
                if row + TILE <= rows && column + TILE <= count {
                    let mut tile = [[0f32; TILE]; TILE];
                    for (i, tile) in tile.iter_mut().enumerate() {
                        tile.copy_from_slice(&x[(row + i) * cols + first + column..][..TILE]);
                    }
                    for j in 0..TILE {
                        let out = &mut out[(column + j) * rows + row..][..TILE];
                        for i in 0..TILE {
                            out[i] = tile[i][j];
                        }
                    }
                } else {
                    for j in column..count.min(column + TILE) {
                        for i in row..rows.min(row + TILE) {
                            out[j * rows + i] = x[i * cols + first + j];
                        }
                    }
                }
            }
        }
    }
}

/// Rows of `x` up to which [`project`] takes dot products instead of a blocked product: one token
/// (or a few beams) reads each weight once, which is all that counts.
const DOT_ROWS: usize = 4;

/// Weight elements per task of the dot-product path: 1 MB.
const DOT_TASK_ELEMENTS: usize = 1 << 18;

/// `x·wᵀ` with `x[m, k]` and `w[n, k]`, the layout in which checkpoints store weights.
pub(super) fn project(x: &[f32], w: &[f32], m: usize, n: usize, k: usize) -> Vec<f32> {
    if m == 0 || m > DOT_ROWS || n == 0 || k == 0 {
        let mut out = Output::new(m * n);
        multiply_transposed(MatMut::uninit(out.as_mut(), m, n), MatRef::new(x, m, k), w, n, k);
        // SAFETY: the product covers all `m * n` elements.
        return unsafe { out.assume_init() };
    }
    // Column by column of the result, transposed at the end: `[n, m]` lets each task own a slice.
    let mut columns = Output::new(n * m);
    let rows_per_task = (DOT_TASK_ELEMENTS / k).max(1);
    columns
        .as_mut()
        .par_chunks_mut(rows_per_task * m)
        .zip(w.par_chunks(rows_per_task * k))
        .for_each(|(out, w)| dot_rows(x, w, k, out));
    // SAFETY: the chunks cover the buffer and `dot_rows` writes every element of its chunk.
    let columns = unsafe { columns.assume_init() };
    row_major(columns, m)
}

/// `[m, n]` of its columns, one after another.
pub(super) fn row_major(columns: Vec<f32>, m: usize) -> Vec<f32> {
    if m == 1 {
        return columns;
    }
    let mut out = Vec::with_capacity(columns.len());
    for row in 0..m {
        out.extend(columns.iter().skip(row).step_by(m));
    }
    out
}

multiversion! {
    /// `out[j, i] = w[j, ..]·x[i, ..]` for all rows of `x` and `w`, which are `k` long.
    fn dot_rows<FMA>(x: &[f32], w: &[f32], k: usize, out: &mut [MaybeUninit<f32>]) {
        let m = x.len() / k;
        let (mut pairs, mut outs) = (w.chunks_exact(2 * k), out.chunks_exact_mut(2 * m));
        for (w, out) in (&mut pairs).zip(&mut outs) {
            for (i, x) in x.chunks_exact(k).enumerate() {
                let [first, second] = dot2::<FMA>(x, &w[..k], &w[k..]);
                out[i].write(first);
                out[m + i].write(second);
            }
        }
        let rest = pairs.remainder().chunks_exact(k);
        for (w, out) in rest.zip(outs.into_remainder().chunks_exact_mut(m)) {
            for (x, out) in x.chunks_exact(k).zip(out) {
                out.write(dot::<FMA>(x, w));
            }
        }
    }
}
