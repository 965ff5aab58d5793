//! `CLIPImageProcessor` and LLaVA's padding: resize, crop, rescale, normalise.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::Rgb8;
use super::geometry::{Canvas, center_crop};
use super::resize::{Filter, resize_window};

/// Mean of CLIP's training pixels, per channel of `[0, 1]`.
const CLIP_MEAN: [f64; 3] = [0.48145466, 0.4578275, 0.40821073];
/// Their standard deviation.
const CLIP_STD: [f64; 3] = [0.26862954, 0.26130258, 0.27577711];

/// What happens to the part of a picture that is not square.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AspectRatio {
    /// The shorter side is fitted and the centre kept. LLaVA calls it `square`.
    #[default]
    #[serde(alias = "square")]
    Crop,
    /// The picture is first centred on a square in the mean colour, so that nothing is lost.
    Pad,
}

/// The size a picture is resized to before the crop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizeTo {
    /// The shorter side becomes this long, the other follows, rounded down.
    ShortestEdge(usize),
    /// Exactly this, whatever the aspect.
    Exact {
        /// Rows.
        height: usize,
        /// Columns.
        width: usize,
    },
}

impl ResizeTo {
    /// `(height, width)` of a picture of the given size after resizing, as transformers' `get_resize_output_image_size`:
    /// the longer side in f64, truncated.
    fn target(self, height: usize, width: usize) -> (usize, usize) {
        match self {
            Self::Exact { height, width } => (height, width),
            Self::ShortestEdge(edge) => {
                let long = |long: usize, short: usize| ((edge * long) as f64 / short as f64) as usize;
                if width <= height { (long(height, width), edge) } else { (edge, long(width, height)) }
            }
        }
    }
}

/// How a checkpoint wants its pictures: every step of `CLIPImageProcessor`, in its order.
///
/// Read with [`ImageProcessor::from_dir`]; each step is `None` where its `do_*` flag is off.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageProcessor {
    /// Crop to the centre or pad to a square, before everything else.
    pub aspect_ratio: AspectRatio,
    /// Target of the resize, and its filter.
    pub resize: Option<(ResizeTo, Filter)>,
    /// `(height, width)` of the centre crop.
    pub crop: Option<(usize, usize)>,
    /// Factor from bytes to `[0, 1]`.
    pub rescale: Option<f64>,
    /// Mean and standard deviation per channel, after rescaling.
    pub normalize: Option<([f64; 3], [f64; 3])>,
    /// Mean whose colour fills the padding; as a rule that of `normalize`.
    pub(super) pad_mean: [f64; 3],
}

impl ImageProcessor {
    /// CLIP's processor for square inputs of `size` pixels a side.
    pub fn clip(size: usize) -> Self {
        Self {
            aspect_ratio: AspectRatio::Crop,
            resize: Some((ResizeTo::ShortestEdge(size), Filter::Bicubic)),
            crop: Some((size, size)),
            rescale: Some(1.0 / 255.0),
            normalize: Some((CLIP_MEAN, CLIP_STD)),
            pad_mean: CLIP_MEAN,
        }
    }

    /// The same processor with another treatment of pictures that are not square.
    pub fn with_aspect_ratio(mut self, aspect_ratio: AspectRatio) -> Self {
        self.aspect_ratio = aspect_ratio;
        self
    }

    /// `(height, width)` of every result.
    pub fn crop_size(&self) -> (usize, usize) {
        match (self.crop, self.resize) {
            (Some(size), _) => size,
            (None, Some((ResizeTo::Exact { height, width }, _))) => (height, width),
            // `from_dir` refuses a processor without a fixed size; by hand, the square that padding gives.
            (None, Some((ResizeTo::ShortestEdge(edge), _))) => (edge, edge),
            (None, None) => (0, 0),
        }
    }

    /// The pixel values of one picture.
    ///
    /// # Shapes
    /// `[3, height, width]`, row-major, `(height, width)` being [`ImageProcessor::crop_size`].
    /// # Panics
    /// If a side of the picture is 0; [`super::decode`] never returns such a picture.
    /// # Source
    /// `CLIPImageProcessorPil` of transformers 5.23: rescaled in f64 and rounded to f32, then normalised in f32.
    pub fn preprocess(&self, image: &Rgb8) -> Vec<f32> {
        let image = self.fit(image);
        let tables: [[f32; 256]; 3] = std::array::from_fn(|channel| self.table(channel));
        let mut values = Vec::with_capacity(image.data.len());
        for (channel, table) in tables.iter().enumerate() {
            values.extend(image.data[channel..].iter().step_by(3).map(|&byte| table[usize::from(byte)]));
        }
        values
    }

    /// The picture padded, resized and cropped, still in bytes: what the vision tower sees.
    pub fn fit(&self, image: &Rgb8) -> Rgb8 {
        let canvas = match self.aspect_ratio {
            AspectRatio::Crop => Canvas::of(image),
            AspectRatio::Pad => Canvas::square(image, self.pad_mean.map(|mean| (mean * 255.0) as u8)),
        };
        let (height, width, filter) = match self.resize {
            Some((to, filter)) => {
                let (height, width) = to.target(canvas.height, canvas.width);
                (height, width, filter)
            }
            None => (canvas.height, canvas.width, Filter::Bicubic),
        };
        let (crop_height, crop_width) = self.crop.unwrap_or((height, width));
        let rows = centre(height, crop_height);
        let columns = centre(width, crop_width);
        let kept = resize_window(&canvas, (height, width), rows, columns, filter);
        center_crop(&kept, crop_height, crop_width)
    }

    /// The value of each byte in one channel.
    fn table(&self, channel: usize) -> [f32; 256] {
        std::array::from_fn(|byte| {
            let value = self.rescale.map_or(byte as f32, |factor| (byte as f64 * factor) as f32);
            match &self.normalize {
                Some((mean, std)) => (value - mean[channel] as f32) / std[channel] as f32,
                None => value,
            }
        })
    }
}

/// The part of `have` positions that a centre crop to `want` keeps.
fn centre(have: usize, want: usize) -> Range<usize> {
    let first = have.saturating_sub(want) / 2;
    first..first + have.min(want)
}
