//! From an image file to the pixel values a vision tower expects, as the reference does it.
//!
//! The reference is what CLIP and LLaVA checkpoints were trained with: Pillow decodes and resizes, transformers'
//! `CLIPImageProcessor` (its Pillow form) crops, rescales and normalises, LLaVA's `expand2square` pads. One grey level on
//! half a percent of the pixels moves log-probabilities by more than the parity tests allow, so each step here is
//! bit-equal to its reference:
//!
//! - [`decode`]: `PIL.Image.open(path).convert("RGB")`. PNG is exact; baseline and progressive JPEG go through
//!   a decoder of our own, which follows libjpeg-turbo's integer arithmetic and agrees with it on every bit.
//! - [`resize`]: Pillow's two-pass 8-bit resampling.
//! - [`ImageProcessor`]: the order of operations, read from the checkpoint's `preprocessor_config.json`.

mod config;
mod decode;
mod geometry;
mod jpeg;
mod png;
mod processor;
mod resize;
mod source;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use decode::{decode, decode_bytes, probe, probe_bytes, without_extras};
pub use geometry::center_crop;
pub use processor::{AspectRatio, ImageProcessor, ResizeTo};
pub use resize::{Filter, resize};
pub use source::ImageSource;

/// An 8-bit RGB image in host memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Rgb8 {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row-major, interleaved: `[height, width, 3]`.
    pub data: Vec<u8>,
}

impl Rgb8 {
    /// An image of one colour.
    pub fn filled(width: usize, height: usize, rgb: [u8; 3]) -> Self {
        Self { width, height, data: rgb.repeat(width * height) }
    }

    /// One row, `[width, 3]`.
    pub(crate) fn row(&self, y: usize) -> &[u8] {
        &self.data[y * self.width * 3..(y + 1) * self.width * 3]
    }
}

impl std::fmt::Debug for Rgb8 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Rgb8({}x{})", self.width, self.height)
    }
}

/// Why an image or the settings of its processor could not be used. Every message names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The file could not be opened or read.
    #[error("{}: cannot read the image: {source}", path.display())]
    Read {
        /// The image.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The bytes are not a whole image in a format that is read here.
    #[error("{}: cannot decode the image: {reason}", path.display())]
    Decode {
        /// The image.
        path: PathBuf,
        /// What is wrong with the bytes.
        reason: String,
    },
    /// The header announces more pixels than are accepted.
    #[error("{}: the header announces {width}x{height} pixels, {why}", path.display())]
    TooLarge {
        /// The image.
        path: PathBuf,
        /// Announced columns.
        width: u32,
        /// Announced rows.
        height: u32,
        /// The bound that it exceeds.
        why: String,
    },
    /// A processor configuration is missing, malformed, or asks for something that is not implemented.
    #[error("{}: {reason}", path.display())]
    Config {
        /// The configuration file (or the folder in which it was sought).
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
}

impl ImageError {
    fn decode(path: &Path, reason: impl std::fmt::Display) -> Self {
        Self::Decode { path: path.to_path_buf(), reason: reason.to_string() }
    }

    fn config(path: &Path, reason: impl Into<String>) -> Self {
        Self::Config { path: path.to_path_buf(), reason: reason.into() }
    }
}
