//! Products with a transposed weight, `x·wᵀ`: many rows, where a weight whose rows are a power of two
//! apart is transposed first, and few rows, which read the weight where it lies.

use super::{
    buffer::{Output, with_scratch},
    few::{is_few, multiply_few},
    gemm::{MatMut, MatRef, Threads, multiply},
    kernels::multiversion,
};
use rayon::prelude::*;

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
    if k > 0 && x.is_dense() && is_few(x.rows) {
        return multiply_few(c, x, &w[..n * k], k);
    }
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

/// `x·wᵀ` with `x[m, k]` and `w[n, k]`, the layout in which checkpoints store weights.
pub(super) fn project(x: &[f32], w: &[f32], m: usize, n: usize, k: usize) -> Vec<f32> {
    let mut out = Output::new(m * n);
    multiply_transposed(MatMut::uninit(out.as_mut(), m, n), MatRef::new(x, m, k), w, n, k);
    // SAFETY: the product covers all `m * n` elements.
    unsafe { out.assume_init() }
}
