//! Pillow's 8-bit resampling, bit for bit.
//!
//! Two passes, as a rule the horizontal one first and only over the rows that the vertical one reads; the filter widens with
//! the reduction (antialiasing); coefficients are 22-bit fixed point; each pass rounds to 8 bits.
//! Source: `src/libImaging/Resample.c` of Pillow 13.0.0, observed.

use std::ops::Range;

use rayon::prelude::*;

use super::Rgb8;
use super::geometry::Canvas;

/// Fractional bits of a coefficient: 32 bits less 8 for the pixel and 2 for overshoot.
const PRECISION_BITS: u32 = 32 - 8 - 2;
/// Half a unit, so that the shift rounds.
const HALF: i32 = 1 << (PRECISION_BITS - 1);
/// Rows that the horizontal pass handles at once: their samples lie side by side, so that the compiler can use vectors.
const ROWS: usize = 8;
/// Samples of one column of such a block.
const LANES: usize = 3 * ROWS;
/// Multiplications below which handing rows to other threads costs more than it saves.
const PARALLEL_WORK: usize = 1 << 21;

/// An interpolation filter, by Pillow's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// Triangle, two pixels wide.
    Bilinear,
    /// Keys' cubic with a = −0.5, four pixels wide.
    Bicubic,
}

impl Filter {
    /// Half of the filter's width at scale 1.
    fn support(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        const A: f64 = -0.5;
        let x = x.abs();
        match self {
            Self::Bilinear if x < 1.0 => 1.0 - x,
            Self::Bicubic if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
            Self::Bicubic if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
            _ => 0.0,
        }
    }
}

/// `image` resampled to `height`×`width`, as `PIL.Image.resize((width, height), filter)`.
///
/// # Panics
/// If a side of the image or of the result is 0.
pub fn resize(image: &Rgb8, height: usize, width: usize, filter: Filter) -> Rgb8 {
    resize_window(&Canvas::of(image), (height, width), 0..height, 0..width, filter)
}

/// The part `rows`×`columns` of `image` resampled to `(height, width)`. A crop follows most resizes: what it drops is not
/// computed, and a picture of 1×100,000 pixels does not become one of 336×33,600,000 first.
pub(crate) fn resize_window(
    image: &Canvas<'_>,
    (height, width): (usize, usize),
    rows: Range<usize>,
    columns: Range<usize>,
    filter: Filter,
) -> Rgb8 {
    assert!(image.width > 0 && image.height > 0, "an empty image cannot be resized");
    assert!(!rows.is_empty() && rows.end <= height && !columns.is_empty() && columns.end <= width);
    let x_taps = (width != image.width).then(|| Taps::new(image.width, width, columns.clone(), filter));
    let y_taps = (height != image.height).then(|| Taps::new(image.height, height, rows.clone(), filter));
    match (x_taps, y_taps) {
        (None, None) => image.window(rows, columns),
        (Some(x_taps), None) => horizontal(image, rows, &x_taps),
        (None, Some(y_taps)) => vertical(&image.window(y_taps.range(), columns), &y_taps),
        (Some(x_taps), Some(y_taps)) if vertical_first((image.height, image.width), (height, width)) => {
            let lowered = vertical(&image.window(y_taps.range(), x_taps.range()), &y_taps);
            horizontal(&Canvas::of(&lowered), 0..rows.len(), &x_taps.into_own_range())
        }
        (Some(x_taps), Some(y_taps)) => vertical(&horizontal(image, y_taps.range(), &x_taps), &y_taps),
    }
}

/// Pillow's order of the passes since version 13: vertical first where the height loses more than twice what the width does.
/// Rounding between the passes makes the order visible. Before version 13 the horizontal pass always came first; the two
/// differ in pictures more than about twice as tall as wide.
fn vertical_first((from_height, from_width): (usize, usize), (height, width): (usize, usize)) -> bool {
    let lost = |from: usize, to: usize| from as i64 - to as i64;
    height < from_height && lost(from_height, height) > 2 * lost(from_width, width)
}

/// For each output position: where its inputs start, how many there are, and their fixed-point weights.
struct Taps {
    /// `(first input, number of inputs)` per output.
    spans: Vec<(usize, usize)>,
    /// `stride` weights per output; those beyond the span are 0.
    weights: Vec<i32>,
    stride: usize,
}

impl Taps {
    /// The taps of the positions `window` among `output`.
    fn new(input: usize, output: usize, window: Range<usize>, filter: Filter) -> Self {
        let scale = input as f64 / output as f64;
        let widened = scale.max(1.0);
        let support = filter.support() * widened;
        let stride = support.ceil() as usize * 2 + 1;
        let inverse = 1.0 / widened;
        let mut spans = Vec::with_capacity(window.len());
        let mut weights = vec![0; window.len() * stride];
        let mut exact = vec![0.0; stride];
        for (position, fixed) in window.zip(weights.chunks_exact_mut(stride)) {
            let center = (position as f64 + 0.5) * scale;
            let first = (center - support + 0.5).max(0.0) as usize;
            let count = ((center + support + 0.5) as usize).min(input) - first;
            let mut sum = 0.0;
            for (i, weight) in exact[..count].iter_mut().enumerate() {
                *weight = filter.weight(((i + first) as f64 - center + 0.5) * inverse);
                sum += *weight;
            }
            for (fixed, weight) in fixed.iter_mut().zip(&exact[..count]) {
                let weight = if sum == 0.0 { *weight } else { weight / sum };
                // Rounds half away from zero, then truncates: C's cast.
                *fixed = (weight * f64::from(1 << PRECISION_BITS) + 0.5f64.copysign(weight)) as i32;
            }
            spans.push((first, count));
        }
        Self { spans, weights, stride }
    }

    /// The inputs that are read at all.
    fn range(&self) -> Range<usize> {
        let (last, count) = self.spans[self.spans.len() - 1];
        self.spans[0].0..last + count
    }

    /// The same taps for inputs that begin at the first one read.
    fn into_own_range(mut self) -> Self {
        let offset = self.range().start;
        self.spans.iter_mut().for_each(|(first, _)| *first -= offset);
        self
    }

    /// First input and weights of each output.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        (0..self.spans.len()).map(|position| self.get(position))
    }

    fn get(&self, position: usize) -> (usize, &[i32]) {
        let (first, count) = self.spans[position];
        (first, &self.weights[position * self.stride..][..count])
    }
}

fn to_u8(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// The rows `rows` of `image`, each narrowed or widened. Background is not multiplied pixel by pixel: what it adds is its
/// value times the sum of its weights, in integers the same.
fn horizontal(image: &Canvas<'_>, rows: Range<usize>, taps: &Taps) -> Rgb8 {
    let (width, height) = (taps.spans.len(), rows.len());
    let background = image.background();
    let inside: Vec<_> = taps.iter().map(|(start, weights)| image.split_columns(start, weights)).collect();
    let mut out = Rgb8::filled(width, height, background);
    let block = |(index, out_rows): (usize, &mut [u8])| {
        let first = rows.start + index * ROWS;
        let Some(columns) = interleave(image, first, out_rows.len() / (width * 3)) else {
            return;
        };
        for (x, &(start, weights, outside)) in inside.iter().enumerate() {
            let mut sums: [i32; LANES] = std::array::from_fn(|lane| HALF + i32::from(background[lane % 3]) * outside);
            for (column, &weight) in columns[start..].iter().zip(weights) {
                for (sum, &sample) in sums.iter_mut().zip(column) {
                    *sum += i32::from(sample) * weight;
                }
            }
            for (row, sums) in out_rows.chunks_exact_mut(width * 3).zip(sums.chunks_exact(3)) {
                row[x * 3] = to_u8(sums[0]);
                row[x * 3 + 1] = to_u8(sums[1]);
                row[x * 3 + 2] = to_u8(sums[2]);
            }
        }
    };
    if height * taps.weights.len() >= PARALLEL_WORK {
        out.data.par_chunks_mut(width * 3 * ROWS).enumerate().for_each(block);
    } else {
        out.data.chunks_mut(width * 3 * ROWS).enumerate().for_each(block);
    }
    out
}

/// The image's columns in `count` rows from `top` on, turned so that one column's samples of all rows lie together:
/// `[width, row, 3]`. `None` where all those rows are background.
fn interleave(image: &Canvas<'_>, top: usize, count: usize) -> Option<Vec<[u8; LANES]>> {
    let rows = (top..top + count).map(|y| image.row(y).1);
    let width = rows.clone().map(|row| row.len() / 3).max().filter(|&width| width > 0)?;
    let background = image.background();
    let mut columns = vec![std::array::from_fn(|lane| background[lane % 3]); width];
    for (r, row) in rows.enumerate() {
        for (column, pixel) in columns.iter_mut().zip(row.chunks_exact(3)) {
            column[r * 3..r * 3 + 3].copy_from_slice(pixel);
        }
    }
    Some(columns)
}

/// All output rows; row 0 of `image` is the first input row that is read.
fn vertical(image: &Rgb8, taps: &Taps) -> Rgb8 {
    let offset = taps.range().start;
    let (width, height) = (image.width, taps.spans.len());
    let mut out = Rgb8::filled(width, height, [0; 3]);
    let line = |(y, row): (usize, &mut [u8])| {
        let (start, weights) = taps.get(y);
        let mut sums = vec![HALF; width * 3];
        for (i, &weight) in weights.iter().enumerate() {
            for (sum, &sample) in sums.iter_mut().zip(image.row(start - offset + i)) {
                *sum += i32::from(sample) * weight;
            }
        }
        for (pixel, &sum) in row.iter_mut().zip(&sums) {
            *pixel = to_u8(sum);
        }
    };
    if width * taps.weights.len() >= PARALLEL_WORK {
        out.data.par_chunks_mut(width * 3).enumerate().for_each(line);
    } else {
        out.data.chunks_mut(width * 3).enumerate().for_each(line);
    }
    out
}
