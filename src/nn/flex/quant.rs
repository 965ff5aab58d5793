//! Products with quantized weights: tiles are dequantized into scratch right before they are multiplied, so that the whole
//! weight in f32 never exists.

use super::{
    buffer::{Output, with_scratch},
    few::{Corner, is_few, products},
    gemm::{MatMut, MatRef, Threads, multiply},
    kernels::{SimdLevel, simd_level},
};
use crate::nn::quant::{Blocks, INT8_STEP, QuantFormat};
use rayon::prelude::*;
use std::ops::Range;

/// Elements that are dequantized at a time: 2 MB.
const TILE_ELEMENTS: usize = 1 << 19;

/// Elements that one task dequantizes for few rows: 64 KB, which stay in the second-level cache.
const DOT_TILE_ELEMENTS: usize = 1 << 14;

/// Row lengths of which rows of a tile are set apart by [`APART`] more: a stride of a power of two makes packing walk few sets
/// of the cache.
const ALIASING_STRIDE: usize = 256;
const APART: usize = 16;

/// Rows of a tile in [`project_quantized`], at least, and what their number is a multiple of.
const LEAST_ROWS: usize = 64;

/// Columns of a tile in [`multiply_plain`], at least, and what their number is a multiple of.
const LEAST_COLUMNS: usize = 128;

/// `x·wᵀ` with `x[m, k]`.
pub(super) fn project_quantized(x: &[f32], weight: &Blocks, m: usize) -> Vec<f32> {
    let [n, k] = weight.shape();
    if m == 0 || n == 0 || k == 0 {
        return vec![0.0; m * n];
    }
    if is_few(m) {
        return few_products(x, weight, m);
    }
    let mut out = Output::new(m * n);
    let mut c = MatMut::uninit(out.as_mut(), m, n);
    let stride = if k.is_multiple_of(ALIASING_STRIDE) { k + APART } else { k };
    let step = (TILE_ELEMENTS / stride / LEAST_ROWS).max(1) * LEAST_ROWS;
    let step = step.min(n);
    with_scratch(step * stride, |scratch| {
        for first in (0..n).step_by(step) {
            let rows = step.min(n - first);
            scratch[..rows * stride].par_chunks_mut(stride).enumerate().for_each(|(row, out)| {
                let start = (first + row) * k;
                dequantize_into(weight, start..start + k, &mut out[..k]);
            });
            let tile = MatRef::with_stride(&scratch[..rows * stride], rows, k, stride);
            multiply(c.columns(first..first + rows), MatRef::new(x, m, k), tile.t(), 1.0, Threads::All);
        }
    });
    // SAFETY: the tiles cover all columns of `c`.
    unsafe { out.assume_init() }
}

/// Of few rows: each task dequantizes what it multiplies next.
fn few_products(x: &[f32], weight: &Blocks, m: usize) -> Vec<f32> {
    let [n, k] = weight.shape();
    let mut out = Output::new(m * n);
    let shared = out.shared();
    let rows = (DOT_TILE_ELEMENTS / k).max(2);
    (0..n.div_ceil(rows)).into_par_iter().for_each(|task| {
        let first = task * rows;
        let count = rows.min(n - first);
        with_scratch(count * k, |tile| {
            dequantize_into(weight, first * k..(first + count) * k, tile);
            let corner = Corner::new(shared.at(0, m * n), n).moved(0, first);
            // SAFETY: these columns of `[m, n]` are this task's alone, and the output outlives the tasks.
            unsafe { products(&x[..m * k], tile, k, corner) };
        });
    });
    // SAFETY: the tasks cover all columns.
    unsafe { out.assume_init() }
}

/// `g·w` with `g[m, n]`: the gradient of the input.
pub(super) fn multiply_plain(g: &[f32], weight: &Blocks, m: usize) -> Vec<f32> {
    let [n, k] = weight.shape();
    if m == 0 || n == 0 || k == 0 {
        return vec![0.0; m * k];
    }
    let mut out = Output::new(m * k);
    let mut c = MatMut::uninit(out.as_mut(), m, k);
    // Whole columns, so that every element is one sum in one order.
    let step = (TILE_ELEMENTS / n / LEAST_COLUMNS).max(1) * LEAST_COLUMNS;
    let step = step.min(k);
    with_scratch(step * n, |scratch| {
        for first in (0..k).step_by(step) {
            let columns = step.min(k - first);
            scratch[..columns * n].par_chunks_mut(columns).enumerate().for_each(|(row, out)| {
                let start = row * k + first;
                dequantize_into(weight, start..start + columns, out);
            });
            let tile = MatRef::new(&scratch[..columns * n], n, columns);
            multiply(c.columns(first..first + columns), MatRef::new(g, m, n), tile, 1.0, Threads::All);
        }
    });
    // SAFETY: the tiles cover all columns of `c`.
    unsafe { out.assume_init() }
}

/// The whole weight in f32, for what needs it once.
pub(super) fn dequantize(weight: &Blocks) -> Vec<f32> {
    let [n, k] = weight.shape();
    let mut values = vec![0.0; n * k];
    values.par_chunks_mut(DOT_TILE_ELEMENTS).enumerate().for_each(|(task, out)| {
        let start = task * DOT_TILE_ELEMENTS;
        dequantize_into(weight, start..start + out.len(), out);
    });
    values
}

/// Writes the elements of `range`, in the order of the row-major weight, to `out`.
fn dequantize_into(weight: &Blocks, range: Range<usize>, out: &mut [f32]) {
    match simd_level() {
        // SAFETY: `simd_level` returned this variant, so the processor has every feature that the called version enables.
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx512 => unsafe { wide::avx512(weight, range, out) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx2 => unsafe { wide::avx2(weight, range, out) },
        SimdLevel::Baseline => all_runs(weight, range, out, pairs),
    }
}

/// Walks the runs of one scale; `bytes` turns whole bytes of two codes into elements.
#[inline(always)]
fn all_runs(weight: &Blocks, range: Range<usize>, out: &mut [f32], bytes: impl Fn(&[u8], &[f32; 16], f32, &mut [f32])) {
    let (codes, begin) = (weight.codes(), range.start);
    match weight.format() {
        QuantFormat::Int8 => weight.runs(range, |run, scale| {
            let out = &mut out[run.start - begin..run.end - begin];
            for (out, code) in out.iter_mut().zip(&codes[run]) {
                *out = f32::from(*code as i8) * scale * INT8_STEP;
            }
        }),
        QuantFormat::FourBit { levels, .. } => {
            let table = levels.table();
            weight.runs(range, |run, scale| {
                let out = &mut out[run.start - begin..run.end - begin];
                // A row of odd length begins and ends within a byte.
                let head = run.start % 2;
                let whole = (run.len() - head) / 2;
                let first = run.start.div_ceil(2);
                if head == 1 {
                    out[0] = table[usize::from(codes[run.start / 2] & 15)] * scale;
                }
                bytes(&codes[first..first + whole], table, scale, &mut out[head..head + 2 * whole]);
                if head + 2 * whole < run.len() {
                    out[head + 2 * whole] = table[usize::from(codes[first + whole] >> 4)] * scale;
                }
            });
        }
    }
}

/// Two elements for each byte.
#[inline(always)]
fn pairs(codes: &[u8], table: &[f32; 16], scale: f32, out: &mut [f32]) {
    for (pair, code) in out.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
        *pair = [table[usize::from(code >> 4)] * scale, table[usize::from(code & 15)] * scale];
    }
}

/// The lookup in a register of 16 levels, or two of 8.
#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{Blocks, Range, all_runs, pairs};
    use std::arch::x86_64::*;

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    pub(super) fn avx512(weight: &Blocks, range: Range<usize>, out: &mut [f32]) {
        all_runs(weight, range, out, |codes, table, scale, out| sixteen(codes, table, scale, out));
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2(weight: &Blocks, range: Range<usize>, out: &mut [f32]) {
        all_runs(weight, range, out, |codes, table, scale, out| eight(codes, table, scale, out));
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
    fn sixteen(codes: &[u8], table: &[f32; 16], scale: f32, out: &mut [f32]) {
        let (bytes, rest) = codes.as_chunks::<16>();
        let (blocks, out_rest) = out.split_at_mut(32 * bytes.len());
        // SAFETY: 16 floats are read from an array of 16.
        let table_16 = unsafe { _mm512_loadu_ps(table.as_ptr()) };
        let (scale_16, low) = (_mm512_set1_ps(scale), _mm512_set1_epi32(15));
        // Elements of the upper and the lower halves in turn; 16 and more name the second operand.
        let front = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
        let back = _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
        for (code, out) in bytes.iter().zip(blocks.as_chunks_mut::<32>().0) {
            // SAFETY: 16 bytes are read from an array of 16.
            let code = _mm512_cvtepu8_epi32(unsafe { _mm_loadu_si128(code.as_ptr().cast()) });
            let upper = _mm512_permutexvar_ps(_mm512_srli_epi32::<4>(code), table_16);
            let lower = _mm512_permutexvar_ps(_mm512_and_si512(code, low), table_16);
            let first = _mm512_mul_ps(_mm512_permutex2var_ps(upper, front, lower), scale_16);
            let second = _mm512_mul_ps(_mm512_permutex2var_ps(upper, back, lower), scale_16);
            // SAFETY: 32 floats are written to an array of 32.
            unsafe {
                _mm512_storeu_ps(out.as_mut_ptr(), first);
                _mm512_storeu_ps(out.as_mut_ptr().add(16), second);
            }
        }
        pairs(rest, table, scale, out_rest);
    }

    #[inline]
    #[target_feature(enable = "avx2,fma")]
    fn eight(codes: &[u8], table: &[f32; 16], scale: f32, out: &mut [f32]) {
        let (bytes, rest) = codes.as_chunks::<8>();
        let (blocks, out_rest) = out.split_at_mut(16 * bytes.len());
        // SAFETY: the two halves of an array of 16.
        let (low_8, high_8) = unsafe { (_mm256_loadu_ps(table.as_ptr()), _mm256_loadu_ps(table.as_ptr().add(8))) };
        let (scale_8, low) = (_mm256_set1_ps(scale), _mm256_set1_epi32(15));
        let look_up = |code: __m256i| {
            let (below, above) = (_mm256_permutevar8x32_ps(low_8, code), _mm256_permutevar8x32_ps(high_8, code));
            // The fourth bit of a code, as a sign, chooses the half of the table.
            _mm256_blendv_ps(below, above, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(code)))
        };
        for (code, out) in bytes.iter().zip(blocks.as_chunks_mut::<16>().0) {
            // SAFETY: 8 bytes are read from an array of 8.
            let code = _mm256_cvtepu8_epi32(unsafe { _mm_loadl_epi64(code.as_ptr().cast()) });
            let upper = _mm256_mul_ps(look_up(_mm256_srli_epi32::<4>(code)), scale_8);
            let lower = _mm256_mul_ps(look_up(_mm256_and_si256(code, low)), scale_8);
            // Interleaving works within halves of a register: 0-1 and 4-5, 2-3 and 6-7.
            let (odd, even) = (_mm256_unpacklo_ps(upper, lower), _mm256_unpackhi_ps(upper, lower));
            let first = _mm256_permute2f128_ps::<0x20>(odd, even);
            let second = _mm256_permute2f128_ps::<0x31>(odd, even);
            // SAFETY: 16 floats are written to an array of 16.
            unsafe {
                _mm256_storeu_ps(out.as_mut_ptr(), first);
                _mm256_storeu_ps(out.as_mut_ptr().add(8), second);
            }
        }
        pairs(rest, table, scale, out_rest);
    }
}

#[cfg(test)]
mod tests {
    use super::super::kernels::FORCE_BASELINE;
    use super::*;
    use crate::nn::Levels;

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        for shape in [[9, 192], [9, 37], [4, 23]] {
            let count = shape[0] * shape[1];
            let values: Vec<f32> = (0..count).map(|at| (at as f32 * 2.3).sin()).collect();
            let four_bit = |levels, block_size| QuantFormat::FourBit { levels, block_size, double: false };
            for format in [four_bit(Levels::Nf4, 64), four_bit(Levels::Fp4, 32), QuantFormat::Int8] {
                let blocks = Blocks::quantize(&values, shape, format);
                let expected = blocks.dequantize();
                // A piece that begins and ends anywhere.
                for range in [0..count, 1..count - 2, 40..71] {
                    let mut out = vec![f32::NAN; range.len()];
                    let mut check = |what: &str, act: &dyn Fn(&mut [f32])| {
                        out.fill(f32::NAN);
                        act(&mut out);
                        assert_eq!(out, expected[range.clone()], "{what}: {format} {shape:?} {range:?}");
                    };
                    check("widest", &|out| dequantize_into(&blocks, range.clone(), out));
                    FORCE_BASELINE.set(true);
                    check("baseline", &|out| dequantize_into(&blocks, range.clone(), out));
                    FORCE_BASELINE.set(false);
                    #[cfg(target_arch = "x86_64")]
                    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                        // SAFETY: the processor has both features.
                        check("AVX2", &|out| unsafe { wide::avx2(&blocks, range.clone(), out) });
                    }
                }
            }
        }
    }
}
