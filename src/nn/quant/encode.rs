//! From f32 to codes.

use super::levels::DYNAMIC;
use super::{Blocks, Levels, NESTED_BLOCK, QuantFormat, Scales};
use half::f16;
use rayon::prelude::*;
use std::sync::Arc;

/// The smallest divisor: a block of zeros has no magnitude to divide by.
const LEAST: f32 = 1e-38;

pub(super) fn quantize(values: &[f32], shape: [usize; 2], format: QuantFormat) -> Blocks {
    let (codes, scales) = match format {
        QuantFormat::Int8 => int8(values, shape),
        QuantFormat::FourBit { levels, block_size, double } => {
            let (codes, absmax) = four_bit(values, levels, block_size);
            (codes, if double { nested(absmax) } else { Scales::Plain(absmax) })
        }
    };
    Blocks { format, shape, codes: Arc::new(codes), scales }
}

/// As bitsandbytes: in f16, ties to the even code.
fn int8(values: &[f32], [outputs, inputs]: [usize; 2]) -> (Vec<u8>, Scales) {
    let (mut codes, mut scales) = (vec![0; outputs * inputs], vec![0.0; outputs]);
    if inputs == 0 {
        return (codes, Scales::Plain(scales));
    }
    codes.par_chunks_mut(inputs).zip(&mut scales).zip(values.par_chunks(inputs)).for_each(|((codes, scale), row)| {
        let narrow = |value: f32| f16::from_f32(value).to_f32();
        let absmax = row.iter().map(|value| narrow(*value).abs()).fold(0.0, f32::max);
        // Not 127 / absmax: the reference multiplies by the reciprocal, which decides ties.
        let factor = if absmax == 0.0 { 0.0 } else { (1.0 / absmax) * 127.0 };
        for (code, value) in codes.iter_mut().zip(row) {
            *code = (narrow(*value) * factor).round_ties_even() as i8 as u8;
        }
        *scale = absmax;
    });
    (codes, Scales::Plain(scales))
}

fn four_bit(values: &[f32], levels: Levels, block_size: usize) -> (Vec<u8>, Vec<f32>) {
    let (bounds, order) = (levels.bounds(), levels.order());
    let mut codes = vec![0_u8; values.len().div_ceil(2) * 2];
    let mut absmax = vec![0.0; values.len().div_ceil(block_size)];
    codes.par_chunks_mut(block_size).zip(&mut absmax).zip(values.par_chunks(block_size)).for_each(
        |((codes, absmax), block)| {
            let largest = block.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
            let whole = block.len() == block_size;
            // The reference multiplies by the reciprocal, and divides in a last block that is not whole.
            let inverse = 1.0 / largest.max(LEAST);
            for (code, value) in codes.iter_mut().zip(block) {
                let scaled = if whole { value * inverse } else { value / largest.max(LEAST) };
                *code = nearest(scaled.clamp(-1.0, 1.0), &bounds);
            }
            *absmax = if whole { largest } else { largest.max(LEAST) };
        },
    );
    if !values.len().is_multiple_of(2) {
        codes[values.len()] = nearest(0.0, &bounds);
    }
    let packed = |pair: &[u8]| order[usize::from(pair[0])] << 4 | order[usize::from(pair[1])];
    (codes.par_chunks(2).map(packed).collect(), absmax)
}

/// How many of the midpoints lie below: the place of the nearest level in their order, of two equally near the lower.
#[inline(always)]
fn nearest(value: f32, bounds: &[f32; 15]) -> u8 {
    bounds.iter().map(|bound| u8::from(value > *bound)).sum()
}

/// Scales in 8 bits, about their mean.
///
/// To the nearest of the 256 levels, of two equally near the lower. bitsandbytes' CPU build looks them up in a coarser table
/// and takes the second nearest for about one in a thousand, and sums the mean in another order; the codes of the weight are
/// the same.
fn nested(mut absmax: Vec<f32>) -> Scales {
    let sum: f64 = absmax.iter().map(|value| f64::from(*value)).sum();
    let offset = (sum / absmax.len().max(1) as f64) as f32;
    absmax.iter_mut().for_each(|value| *value -= offset);
    let levels: &[f32; 256] = &DYNAMIC;
    let (mut codes, mut outer) = (Vec::with_capacity(absmax.len()), Vec::new());
    for block in absmax.chunks(NESTED_BLOCK) {
        let largest = block.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        let inverse = 1.0 / largest;
        let code = |value: &f32| if largest == 0.0 { 0 } else { nearest_of(value * inverse, levels) };
        codes.extend(block.iter().map(code));
        outer.push(largest);
    }
    Scales::Nested { codes, levels: levels.to_vec(), absmax: outer, offset }
}

fn nearest_of(value: f32, levels: &[f32; 256]) -> u8 {
    let value = value.clamp(-1.0, 1.0);
    let right = levels.partition_point(|level| *level < value).clamp(1, 255);
    let (below, above) = ((value - levels[right - 1]).abs(), (levels[right] - value).abs());
    (if above < below { right } else { right - 1 }) as u8
}
