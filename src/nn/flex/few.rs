//! Products `x·wᵀ` of few rows: every row of `w` is read once, where it lies, and meets all rows of `x` while it is in the
//! cache.
//!
//! A blocked product packs both operands first. That is nothing beside the work of thousands of rows; of the one row of a token that is
//! decoded, or of the few of a batch, it is most of it.

use super::{
    gemm::{MatMut, MatRef},
    kernels::{SimdLevel, dot, dot2, multiversion, simd_level},
};
use rayon::prelude::*;

/// Rows up to which this beats a blocked product with AVX-512, for inner widths of 256 to 4096; at twice as many it is even.
const WIDE_ROWS: usize = 256;

/// Rows up to which it does without.
const NARROW_ROWS: usize = 4;

/// Multiply-adds of a task at least: what waking another thread costs.
const TASK_WORK: usize = 1 << 18;

/// Elements of `w` in a task at least: several rows, and no thread reads what its neighbour reads.
const TASK_ELEMENTS: usize = 1 << 14;

/// Rows of `w` whose sums are made at once.
const BAND: usize = 16;

/// Whether `rows` are few.
pub(super) fn is_few(rows: usize) -> bool {
    let most = match simd_level() {
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx512 => WIDE_ROWS,
        _ => NARROW_ROWS,
    };
    rows <= most
}

/// Where results go: the first element of a row-major matrix, and the distance of its rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Corner {
    at: *mut f32,
    stride: usize,
}

// SAFETY: a pointer and a length; whoever writes through it promises that the elements are its own.
unsafe impl Send for Corner {}
// SAFETY: as above.
unsafe impl Sync for Corner {}

impl Corner {
    /// Of a row-major matrix with rows of `stride` elements.
    pub(super) fn new(at: *mut f32, stride: usize) -> Self {
        Self { at, stride }
    }

    /// Further down and to the right.
    pub(super) fn moved(self, down: usize, right: usize) -> Self {
        Self { at: self.at.wrapping_add(down * self.stride + right), ..self }
    }

    /// # Safety
    /// The element must be the caller's to write.
    #[inline(always)]
    unsafe fn write(self, down: usize, right: usize, value: f32) {
        // SAFETY: the caller's promise.
        unsafe { self.at.add(down * self.stride + right).write(value) }
    }
}

/// `c = x·wᵀ` with dense `x[m, k]` and `w[n, k]`, on all threads; every element of `c` is initialised afterwards.
///
/// # Panics
/// Where the shapes do not fit.
pub(super) fn multiply_few(c: MatMut<'_>, x: MatRef<'_>, w: &[f32], k: usize) {
    let (m, n) = (x.rows, w.len() / k.max(1));
    let (x, stride) = x.as_rows();
    assert!(stride == k && x.len() >= m * k && k > 0, "few rows are dense");
    let corner = c.corner(m, n);
    let rows = (TASK_WORK / m.max(1)).max(TASK_ELEMENTS).div_ceil(k).next_multiple_of(BAND);
    let task = |(task, w): (usize, &[f32])| {
        // SAFETY: `corner` is that of a matrix `[m, n]` which is borrowed for this call, and each task has its own columns.
        unsafe { products(&x[..m * k], w, k, corner.moved(0, task * rows)) }
    };
    match n <= rows {
        true => task((0, w)),
        false => w.par_chunks(rows * k).enumerate().for_each(task),
    }
}

/// `x·wᵀ` with dense `x[m, k]` and `w[n, k]`, on this thread.
///
/// # Safety
/// The `[m, n]` elements at `out` must be the caller's to write.
pub(super) unsafe fn products(x: &[f32], w: &[f32], k: usize, out: Corner) {
    match simd_level() {
        // SAFETY: `simd_level` returned this variant, so the processor has every feature that the called version enables;
        // the elements are the caller's.
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx512 => unsafe { wide::products(x, w, k, out) },
        _ => dots(x, w, k, out),
    }
}

multiversion! {
    /// As [`products`], whose promise it relies on, by one dot product after another.
    fn dots<FMA>(x: &[f32], w: &[f32], k: usize, out: Corner) {
        let mut pairs = w.chunks_exact(2 * k);
        let mut column = 0;
        for w in &mut pairs {
            for (row, x) in x.chunks_exact(k).enumerate() {
                let [first, second] = dot2::<FMA>(x, &w[..k], &w[k..]);
                // SAFETY: inside `[m, n]`, by the promise.
                unsafe {
                    out.write(row, column, first);
                    out.write(row, column + 1, second);
                }
            }
            column += 2;
        }
        for w in pairs.remainder().chunks_exact(k) {
            for (row, x) in x.chunks_exact(k).enumerate() {
                // SAFETY: as above.
                unsafe { out.write(row, column, dot::<FMA>(x, w)) };
            }
        }
    }
}

/// With AVX-512: tiles of up to 16 sums of 16 lanes each, which are added up together at the end. Plain loops over arrays: what
/// a library function does with a closure is compiled without the instructions.
#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{BAND, Corner};
    use std::arch::x86_64::*;

    /// As [`super::products`].
    ///
    /// # Safety
    /// As there; and the processor must have AVX-512 F and DQ.
    #[target_feature(enable = "avx512f,avx512dq")]
    pub(super) unsafe fn products(x: &[f32], w: &[f32], k: usize, out: Corner) {
        let (m, n) = (x.len() / k, w.len() / k);
        let mut column = 0;
        // SAFETY: the loops stay inside `m` rows of `x`, `n` of `w` and so inside the caller's `[m, n]`.
        unsafe {
            let at = |column: usize| (w.as_ptr().add(column * k), out.moved(0, column));
            while m == 1 && column + BAND <= n {
                let (w, out) = at(column);
                tile::<1, BAND>(x.as_ptr(), w, k, out);
                column += BAND;
            }
            while m == 2 && column + 8 <= n {
                let (w, out) = at(column);
                tile::<2, 8>(x.as_ptr(), w, k, out);
                column += 8;
            }
            while column + 4 <= n {
                let (w, out) = at(column);
                band::<4>(x, w, k, out);
                column += 4;
            }
            while column < n {
                let (w, out) = at(column);
                band::<1>(x, w, k, out);
                column += 1;
            }
        }
    }

    /// All rows of `x` with `C` rows of `w`.
    ///
    /// # Safety
    /// `w` must have `C` rows of `k`; and as [`products`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn band<const C: usize>(x: &[f32], w: *const f32, k: usize, out: Corner) {
        for (step, x) in x.chunks(4 * k).enumerate() {
            let (rows, x, out) = (x.len() / k, x.as_ptr(), out.moved(4 * step, 0));
            // SAFETY: there are as many rows of `x` as each arm reads.
            unsafe {
                match rows {
                    4 => tile::<4, C>(x, w, k, out),
                    3 => tile::<3, C>(x, w, k, out),
                    2 => tile::<2, C>(x, w, k, out),
                    _ => tile::<1, C>(x, w, k, out),
                }
            }
        }
    }

    /// `R` rows of `x` with `C` of `w`, at most 16 sums.
    ///
    /// # Safety
    /// Both must have as many rows of `k`, and the elements at `out` be the caller's.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    unsafe fn tile<const R: usize, const C: usize>(x: *const f32, w: *const f32, k: usize, out: Corner) {
        const { assert!(R * C <= 16, "one lane for each sum") };
        // Wrapping additions and masked loads, because the development profile checks the others at every step.
        let (mut x_rows, mut w_rows) = ([x; R], [w; C]);
        for i in 1..R {
            x_rows[i] = x_rows[i - 1].wrapping_add(k);
        }
        for j in 1..C {
            w_rows[j] = w_rows[j - 1].wrapping_add(k);
        }
        let mut sums = [[_mm512_setzero_ps(); C]; R];
        let mut at = 0;
        while at < k {
            let mask: __mmask16 = if k - at < 16 { (1 << (k - at)) - 1 } else { !0 };
            let mut x = [_mm512_setzero_ps(); R];
            for i in 0..R {
                // SAFETY: the mask keeps the read inside the row.
                x[i] = unsafe { _mm512_maskz_loadu_ps(mask, x_rows[i].wrapping_add(at)) };
            }
            for j in 0..C {
                // SAFETY: as above.
                let w = unsafe { _mm512_maskz_loadu_ps(mask, w_rows[j].wrapping_add(at)) };
                for i in 0..R {
                    sums[i][j] = _mm512_fmadd_ps(x[i], w, sums[i][j]);
                }
            }
            at = at.wrapping_add(16);
        }
        let mut flat = [_mm512_setzero_ps(); 16];
        for i in 0..R {
            for j in 0..C {
                flat[i * C + j] = sums[i][j];
            }
        }
        let mut totals = [0f32; 16];
        // SAFETY: the array has 16 elements; the elements at `out` are the caller's.
        unsafe {
            _mm512_storeu_ps(totals.as_mut_ptr(), added_up(flat));
            for i in 0..R {
                for j in 0..C {
                    out.write(i, j, totals[i * C + j]);
                }
            }
        }
    }

    /// The sum of each vector's lanes, in the vectors' order: four steps that halve the number of vectors.
    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn added_up(v: [__m512; 16]) -> __m512 {
        let mut eight = [_mm512_setzero_ps(); 8];
        for i in 0..8 {
            eight[i] = by_ones(v[2 * i], v[2 * i + 1]);
        }
        let mut four = [_mm512_setzero_ps(); 4];
        for i in 0..4 {
            four[i] = by_twos(eight[2 * i], eight[2 * i + 1]);
        }
        by_fours(by_fours(four[0], four[1]), by_fours(four[2], four[3]))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn by_ones(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn by_twos(a: __m512, b: __m512) -> __m512 {
        let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
        let (low, high) = (_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b));
        _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn by_fours(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{buffer::Output, kernels::FORCE_BASELINE};
    use super::*;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * 40_503 + seed * 7_919) % 2_003) as f32 / 1_001.5 - 1.0).collect()
    }

    fn exact(x: &[f32], w: &[f32], m: usize, n: usize, k: usize) -> Vec<f64> {
        let of = |at: usize| {
            let (x, w) = (&x[at / n * k..][..k], &w[at % n * k..][..k]);
            x.iter().zip(w).map(|(&x, &w)| f64::from(x) * f64::from(w)).sum()
        };
        (0..m * n).map(of).collect()
    }

    #[test]
    fn every_shape_of_rows_columns_and_widths() {
        for baseline in [false, true] {
            FORCE_BASELINE.set(baseline);
            for k in [1, 15, 16, 17, 64, 100, 515] {
                for n in [1, 3, 4, 7, 16, 37, 300] {
                    for m in [1, 2, 3, 4, 5, 6, 7, 8, 31] {
                        let (x, w) = (numbers(m * k, 1), numbers(n * k, 2));
                        let mut out = Output::new(m * n);
                        multiply_few(MatMut::uninit(out.as_mut(), m, n), MatRef::new(&x, m, k), &w, k);
                        // SAFETY: the product covers all elements.
                        let out = unsafe { out.assume_init() };
                        for (at, (found, exact)) in out.iter().zip(exact(&x, &w, m, n, k)).enumerate() {
                            // f32 rounds each of k terms below 1 by at most 6e-8 of a sum below k.
                            let bound = 6e-8 * (k * k).max(16) as f64;
                            assert!(
                                (f64::from(*found) - exact).abs() <= bound,
                                "{m} {n} {k} at {at}: {found}, {exact}"
                            );
                        }
                    }
                }
            }
        }
        FORCE_BASELINE.set(false);
    }

    #[test]
    fn a_row_has_the_same_bits_alone_and_among_others() {
        let (k, n) = (515, 37);
        let (x, w) = (numbers(9 * k, 3), numbers(n * k, 4));
        let all = |x: &[f32]| {
            let m = x.len() / k;
            let mut out = Output::new(m * n);
            multiply_few(MatMut::uninit(out.as_mut(), m, n), MatRef::new(x, m, k), &w, k);
            // SAFETY: the product covers all elements.
            unsafe { out.assume_init() }
        };
        let together = all(&x);
        for row in 0..9 {
            assert_eq!(all(&x[row * k..][..k]), &together[row * n..][..n], "{row}");
        }
    }
}
