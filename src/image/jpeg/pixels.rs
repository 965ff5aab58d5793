//! From coefficients to RGB: inverse DCT, upsampling, colour, in libjpeg-turbo's integers.

use std::num::Wrapping;

use rayon::prelude::*;

use super::JpegError::{self, Corrupt, Unsupported};
use super::{Colours, Component, Frame};
use crate::image::Rgb8;

/// Rows that one task converts.
const ROWS: usize = 16;

/// The samples of one component, at its own resolution.
struct Plane {
    samples: Vec<u8>,
    /// Samples per stored row.
    stride: usize,
    /// Rows and columns that belong to the picture.
    width: usize,
    height: usize,
    upsampling: Upsampling,
}

/// How a component reaches full resolution.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Upsampling {
    None,
    /// Horizontally by 2, weights 3:1.
    Wide,
    /// Vertically by 2, weights 3:1.
    Tall,
    /// Both.
    Both,
    /// Each sample repeated.
    Repeat {
        h: usize,
        v: usize,
    },
}

/// The picture of a decoded frame.
pub(super) fn render(frame: Frame, colours: Colours) -> Result<Rgb8, JpegError> {
    let (width, height) = (frame.width, frame.height);
    let (h_max, v_max) = (frame.h_max, frame.v_max);
    let plane = |component| Plane::new(component, (width, height), (h_max, v_max));
    let planes = frame.components.into_iter().map(plane).collect::<Result<Vec<_>, _>>()?;
    let mut out = Rgb8::filled(width, height, [0; 3]);
    out.data.par_chunks_mut(width * 3 * ROWS).enumerate().for_each(|(chunk, rows)| {
        let mut samples = vec![vec![0; width + 8]; planes.len()];
        for (i, row) in rows.chunks_exact_mut(width * 3).enumerate() {
            for (plane, samples) in planes.iter().zip(&mut samples) {
                plane.full_row(chunk * ROWS + i, samples);
            }
            colour_row(colours, &samples, row);
        }
    });
    Ok(out)
}

impl Plane {
    fn new(
        component: Component,
        (width, height): (usize, usize),
        (h_max, v_max): (usize, usize),
    ) -> Result<Self, JpegError> {
        if h_max % component.h != 0 || v_max % component.v != 0 {
            return Err(Unsupported("JPEG with fractional chroma sampling"));
        }
        let (h, v) = (h_max / component.h, v_max / component.v);
        let width = (width * component.h).div_ceil(h_max);
        // libjpeg interpolates only where there are more than two columns.
        let upsampling = match (h, v) {
            (1, 1) => Upsampling::None,
            (2, 1) if width > 2 => Upsampling::Wide,
            (1, 2) => Upsampling::Tall,
            (2, 2) if width > 2 => Upsampling::Both,
            _ => Upsampling::Repeat { h, v },
        };
        let quant = component.quant.ok_or(Corrupt("a colour component has no data"))?.map(|q| q as i16);
        let stride = component.stride * 8;
        let mut samples = vec![0; component.coefficients.len()];
        samples.par_chunks_mut(stride * 8).zip(component.coefficients.par_chunks(stride * 8)).for_each(
            |(rows, blocks)| {
                for (x, block) in blocks.as_chunks().0.iter().enumerate() {
                    inverse_dct(block, &quant, &mut rows[x * 8..], stride);
                }
            },
        );
        let height = (height * component.v).div_ceil(v_max);
        Ok(Self { samples, stride, width, height, upsampling })
    }

    fn row(&self, y: usize) -> &[u8] {
        &self.samples[y * self.stride..][..self.width]
    }

    /// Row `y` of the picture, all columns; `out` may be longer than the picture is wide.
    fn full_row(&self, y: usize, out: &mut [u8]) {
        // The row that is nearest, and the nearer of its neighbours; past the edge the edge itself.
        let vertical = || {
            let near = y / 2;
            let other = if y.is_multiple_of(2) { near.saturating_sub(1) } else { (near + 1).min(self.height - 1) };
            (self.row(near), self.row(other))
        };
        match self.upsampling {
            Upsampling::None => out[..self.width].copy_from_slice(self.row(y)),
            Upsampling::Wide => {
                let row = self.row(y);
                widen(self.width, out, |x| row[x].into(), [(2, 1), (2, 2)]);
            }
            Upsampling::Both => {
                let (near, other) = vertical();
                let sum = |x: usize| u16::from(near[x]) * 3 + u16::from(other[x]);
                widen(self.width, out, sum, [(4, 8), (4, 7)]);
            }
            Upsampling::Tall => {
                let (near, other) = vertical();
                let bias = if y.is_multiple_of(2) { 1 } else { 2 };
                for (out, (&near, &other)) in out.iter_mut().zip(near.iter().zip(other)) {
                    *out = ((u16::from(near) * 3 + u16::from(other) + bias) >> 2) as u8;
                }
            }
            Upsampling::Repeat { h, v } => {
                for (out, &sample) in out.chunks_mut(h).zip(self.row(y / v)) {
                    out.fill(sample);
                }
            }
        }
    }
}

/// Doubles a row of sums: each output is 3 parts the near sum and 1 part its neighbour, shifted by the given bits after adding
/// the given bias (left and right output of a sum in turn, so that rounding does not drift).
fn widen(width: usize, out: &mut [u8], sum: impl Fn(usize) -> u16, [left, right]: [(u32, u16); 2]) {
    let mix = |near: u16, other: u16, (shift, bias): (u32, u16)| ((near * 3 + other + bias) >> shift) as u8;
    let mut before = sum(0);
    let mut near = before;
    for x in 0..width {
        let after = sum((x + 1).min(width - 1));
        out[2 * x] = mix(near, before, left);
        // `out` has room for one column more than an odd picture needs.
        out[2 * x + 1] = mix(near, after, right);
        (before, near) = (near, after);
    }
}

/// libjpeg's `jpeg_idct_islow`, dequantizing on the way.
fn inverse_dct(block: &[i16; 64], quant: &[i16; 64], out: &mut [u8], stride: usize) {
    const PASS_BITS: usize = 2;
    let mut work = [Wrapping(0i32); 64];
    if block[1..].iter().all(|&value| value == 0) {
        // The DC value alone gives a flat block; both passes come to this.
        let dc = Wrapping(i32::from(block[0])) * Wrapping(i32::from(quant[0]));
        let sample = ((dc + Wrapping(4)) >> 3).0.saturating_add(128).clamp(0, 255) as u8;
        for row in out.chunks_mut(stride).take(8) {
            row[..8].fill(sample);
        }
        return;
    }
    for (work, (&value, &step)) in work.iter_mut().zip(block.iter().zip(quant)) {
        *work = Wrapping(i32::from(value)) * Wrapping(i32::from(step as u16));
    }
    for x in 0..8 {
        let column = std::array::from_fn(|y| work[y * 8 + x]);
        for (y, value) in dct_8(column, CONST_BITS - PASS_BITS).into_iter().enumerate() {
            work[y * 8 + x] = value;
        }
    }
    for (row, out) in work.as_chunks().0.iter().zip(out.chunks_mut(stride)) {
        for (out, value) in out.iter_mut().zip(dct_8(*row, CONST_BITS + PASS_BITS + 3)) {
            *out = value.0.saturating_add(128).clamp(0, 255) as u8;
        }
    }
}

/// Fractional bits of the DCT's constants.
const CONST_BITS: usize = 13;

/// One pass over eight values, rounded and shifted right by `shift`.
#[inline(always)]
fn dct_8(v: [Wrapping<i32>; 8], shift: usize) -> [Wrapping<i32>; 8] {
    let by = |value: Wrapping<i32>, factor: i32| value * Wrapping(factor);
    let z1 = by(v[2] + v[6], 4433);
    let t2 = z1 - by(v[6], 15137);
    let t3 = z1 + by(v[2], 6270);
    let t0 = (v[0] + v[4]) << CONST_BITS;
    let t1 = (v[0] - v[4]) << CONST_BITS;
    let even = [t0 + t3, t1 + t2, t1 - t2, t0 - t3];

    let z5 = by(v[7] + v[3] + v[5] + v[1], 9633);
    let z1 = by(v[7] + v[1], -7373);
    let z2 = by(v[5] + v[3], -20995);
    let z3 = by(v[7] + v[3], -16069) + z5;
    let z4 = by(v[5] + v[1], -3196) + z5;
    let odd =
        [by(v[1], 12299) + z1 + z4, by(v[3], 25172) + z2 + z3, by(v[5], 16819) + z2 + z4, by(v[7], 2446) + z1 + z3];
    let half = Wrapping(1 << (shift - 1));
    std::array::from_fn(|i| {
        let sum = if i < 4 { even[i] + odd[i] } else { even[7 - i] - odd[7 - i] };
        (sum + half) >> shift
    })
}

/// One row of samples to RGB.
fn colour_row(colours: Colours, samples: &[Vec<u8>], out: &mut [u8]) {
    let at = |component: usize, x: usize| samples[component][x];
    let pixels = out.as_chunks_mut().0.iter_mut().enumerate();
    match colours {
        Colours::Grey => pixels.for_each(|(x, pixel)| *pixel = [at(0, x); 3]),
        Colours::Rgb => pixels.for_each(|(x, pixel)| *pixel = [at(0, x), at(1, x), at(2, x)]),
        Colours::YCbCr => {
            let (luma, blue, red) = (&samples[0], &samples[1], &samples[2]);
            for (pixel, ((&y, &cb), &cr)) in out.as_chunks_mut().0.iter_mut().zip(luma.iter().zip(blue).zip(red)) {
                *pixel = to_rgb(y, cb, cr);
            }
        }
        // Stored inverted, as Adobe does and Pillow assumes.
        Colours::Cmyk => pixels.for_each(|(x, pixel)| {
            *pixel = cmyk_to_rgb([at(0, x), at(1, x), at(2, x)].map(|ink| 255 - ink), 255 - at(3, x));
        }),
        Colours::Ycck => pixels.for_each(|(x, pixel)| {
            // The conversion yields inverted RGB, that is CMY, and the file's inversion undoes it.
            *pixel = cmyk_to_rgb(to_rgb(at(0, x), at(1, x), at(2, x)), 255 - at(3, x));
        }),
    }
}

/// libjpeg's YCbCr conversion: 16-bit fixed point.
#[inline(always)]
fn to_rgb(y: u8, cb: u8, cr: u8) -> [u8; 3] {
    const HALF: i32 = 1 << 15;
    let (y, cb, cr) = (i32::from(y), i32::from(cb) - 128, i32::from(cr) - 128);
    let red = y + ((91881 * cr + HALF) >> 16);
    let green = y + ((-22554 * cb - 46802 * cr + HALF) >> 16);
    let blue = y + ((116_130 * cb + HALF) >> 16);
    [red, green, blue].map(|value| value.clamp(0, 255) as u8)
}

/// Pillow's CMYK conversion.
fn cmyk_to_rgb(inks: [u8; 3], black: u8) -> [u8; 3] {
    let light = 255 - i32::from(black);
    inks.map(|ink| {
        let product = i32::from(ink) * light + 128;
        (light - (((product >> 8) + product) >> 8)).clamp(0, 255) as u8
    })
}
