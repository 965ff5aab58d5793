//! Frozen weights in 8 and 4 bits, in the formats of bitsandbytes.
//!
//! A weight of 4 bits is cut into blocks, row after row; each element is the number of a level ([`Levels`]) that the block's
//! largest magnitude scales. With double quantization those magnitudes are quantized in turn, to 8 bits. A weight of 8 bits
//! has one scale for each row. Nothing here is trained: what is learned stands beside such a weight.
//!
//! # Source
//! Dettmers et al. 2023 (QLoRA) and 2022 (LLM.int8), of which the latter's weights are taken and not its 8-bit activations;
//! checked against bitsandbytes 0.50.

mod device;
mod encode;
mod levels;

pub use levels::Levels;

use burn::tensor::{Device, Tensor};
use device::DeviceBlocks;
use std::fmt;
#[cfg(feature = "cpu")]
use std::ops::Range;
use std::sync::Arc;

/// What an int8 code counts: this part of its row's scale, as bitsandbytes rounds it.
pub(crate) const INT8_STEP: f32 = 7.874_016e-3;

/// Scales in one block of a double quantization.
pub const NESTED_BLOCK: usize = 256;

/// How a weight is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantFormat {
    /// 8 bits, one scale for each row.
    Int8,
    /// 4 bits, in blocks.
    FourBit {
        /// What the 16 codes stand for.
        levels: Levels,
        /// Elements that share a scale.
        block_size: usize,
        /// Whether the scales are quantized as well.
        double: bool,
    },
}

impl QuantFormat {
    /// Bytes that a weight `[out, in]` takes in memory.
    pub fn bytes_held(self, [outputs, inputs]: [usize; 2]) -> usize {
        let elements = outputs * inputs;
        match self {
            Self::Int8 => elements + 4 * outputs,
            Self::FourBit { block_size, double, .. } => {
                let blocks = elements.div_ceil(block_size);
                let scales = if double { blocks + 4 * blocks.div_ceil(NESTED_BLOCK) + 4 * 257 } else { 4 * blocks };
                elements.div_ceil(2) + scales
            }
        }
    }
}

impl fmt::Display for QuantFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int8 => f.write_str("int8"),
            Self::FourBit { levels, block_size, double } => {
                let double = if *double { ", double" } else { "" };
                write!(f, "{levels} in blocks of {block_size}{double}")
            }
        }
    }
}

/// A quantized weight whose parts do not fit together.
#[derive(Debug, thiserror::Error)]
#[error("{part} has {found} elements, but a weight {outputs} × {inputs} in {format} has {expected}")]
pub struct QuantError {
    /// Codes or scales.
    pub part: &'static str,
    /// How many there are.
    pub found: usize,
    /// How many there must be.
    pub expected: usize,
    /// Rows of the weight.
    pub outputs: usize,
    /// Columns of the weight.
    pub inputs: usize,
    /// Its format.
    pub format: QuantFormat,
}

/// The scales of a weight's blocks or rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// As they are.
    Plain(Vec<f32>),
    /// Quantized in blocks of [`NESTED_BLOCK`].
    Nested {
        /// Numbers of levels.
        codes: Vec<u8>,
        /// The 256 levels.
        levels: Vec<f32>,
        /// The largest magnitude of each block of scales.
        absmax: Vec<f32>,
        /// What was taken from all scales before.
        offset: f32,
    },
}

impl Scales {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Plain(values) => values.len(),
            Self::Nested { codes, .. } => codes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The scale of a block, in f32.
    #[inline(always)]
    pub fn get(&self, block: usize) -> f32 {
        match self {
            Self::Plain(values) => values[block],
            Self::Nested { codes, levels, absmax, offset } => {
                levels[usize::from(codes[block])] * absmax[block / NESTED_BLOCK] + offset
            }
        }
    }

    fn bytes_held(&self) -> usize {
        match self {
            Self::Plain(values) => 4 * values.len(),
            Self::Nested { codes, levels, absmax, .. } => codes.len() + 4 * (levels.len() + absmax.len() + 1),
        }
    }
}

/// Bytes that are owned, or a window into a mapped file.
pub type CodeBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A quantized weight in host memory, `[out, in]`.
#[derive(Clone)]
pub struct Blocks {
    format: QuantFormat,
    shape: [usize; 2],
    codes: CodeBytes,
    scales: Scales,
}

impl fmt::Debug for Blocks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blocks({:?}, {})", self.shape, self.format)
    }
}

impl Blocks {
    /// A weight from its parts: of 4 bits two codes a byte, the first in the upper half; of 8 bits one signed byte each.
    ///
    /// # Errors
    /// [`QuantError`] where there are more or fewer codes or scales than the shape has.
    pub fn new(format: QuantFormat, shape: [usize; 2], codes: CodeBytes, scales: Scales) -> Result<Self, QuantError> {
        let [outputs, inputs] = shape;
        let elements = outputs * inputs;
        let (bytes, count) = match format {
            QuantFormat::Int8 => (elements, outputs),
            QuantFormat::FourBit { block_size, .. } => (elements.div_ceil(2), elements.div_ceil(block_size.max(1))),
        };
        let check = |part, found, expected| match found == expected {
            true => Ok(()),
            false => Err(QuantError { part, found, expected, outputs, inputs, format }),
        };
        check("codes", (*codes).as_ref().len(), bytes)?;
        check("scales", scales.len(), count)?;
        if let Scales::Nested { levels, absmax, .. } = &scales {
            check("levels of the scales", levels.len(), 256)?;
            check("scales of the scales", absmax.len(), count.div_ceil(NESTED_BLOCK))?;
        }
        Ok(Self { format, shape, codes, scales })
    }

    /// Quantizes `values`, row-major `[out, in]`, as bitsandbytes does: to the nearest level, of two equally near ones the
    /// lower.
    ///
    /// # Panics
    /// Where there are more or fewer values than the shape has.
    pub fn quantize(values: &[f32], shape: [usize; 2], format: QuantFormat) -> Self {
        assert_eq!(values.len(), shape[0] * shape[1], "a weight of {shape:?}");
        encode::quantize(values, shape, format)
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The format.
    pub fn format(&self) -> QuantFormat {
        self.format
    }

    /// The codes, as [`new`](Self::new) takes them.
    pub fn codes(&self) -> &[u8] {
        (*self.codes).as_ref()
    }

    /// The scales.
    pub fn scales(&self) -> &Scales {
        &self.scales
    }

    /// Bytes in memory.
    pub fn bytes_held(&self) -> usize {
        self.codes().len() + self.scales.bytes_held()
    }

    /// The whole weight in f32, row-major, element by element: the reference for the kernels.
    pub fn dequantize(&self) -> Vec<f32> {
        let [outputs, inputs] = self.shape;
        (0..outputs * inputs).map(|at| self.element(at)).collect()
    }

    /// Element `at` of the row-major weight.
    #[inline(always)]
    pub(crate) fn element(&self, at: usize) -> f32 {
        let codes = self.codes();
        match self.format {
            QuantFormat::Int8 => f32::from(codes[at] as i8) * self.scales.get(at / self.shape[1]) * INT8_STEP,
            QuantFormat::FourBit { levels, block_size, .. } => {
                let code = if at.is_multiple_of(2) { codes[at / 2] >> 4 } else { codes[at / 2] & 15 };
                levels.table()[usize::from(code)] * self.scales.get(at / block_size)
            }
        }
    }

    /// Calls `piece` for each run of elements in `range` that share a scale, with the run and the scale.
    #[cfg(feature = "cpu")]
    #[inline(always)]
    pub(crate) fn runs(&self, range: Range<usize>, mut piece: impl FnMut(Range<usize>, f32)) {
        let run = match self.format {
            QuantFormat::Int8 => self.shape[1],
            QuantFormat::FourBit { block_size, .. } => block_size,
        };
        let mut at = range.start;
        while at < range.end {
            let block = at / run;
            let end = range.end.min((block + 1) * run);
            piece(at..end, self.scales.get(block));
            at = end;
        }
    }
}

/// A frozen weight in fewer bits, where a device can multiply with it.
#[derive(Clone, Debug)]
pub struct Quantized {
    shape: [usize; 2],
    format: QuantFormat,
    bytes: usize,
    device: Device,
    storage: Storage,
}

#[expect(clippy::large_enum_variant, reason = "one for each layer: a box would save nothing")]
#[derive(Clone, Debug)]
enum Storage {
    /// For the CPU's kernels.
    Host(Arc<Blocks>),
    /// For compositions of burn's operations.
    Device(DeviceBlocks),
}

impl Quantized {
    /// Puts a weight on a device.
    pub fn on(blocks: Blocks, device: &Device) -> Self {
        let (shape, format, bytes) = (blocks.shape, blocks.format, blocks.bytes_held());
        let storage = match super::is_flex(device) {
            true => Storage::Host(Arc::new(blocks)),
            false => Storage::Device(DeviceBlocks::new(&blocks, device)),
        };
        Self { shape, format, bytes, device: device.clone(), storage }
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        self.shape
    }

    /// The format.
    pub fn format(&self) -> QuantFormat {
        self.format
    }

    /// Bytes in memory.
    pub fn bytes_held(&self) -> usize {
        self.bytes
    }

    /// Where it was put.
    pub(crate) fn device(&self) -> Device {
        self.device.clone()
    }

    /// For the CPU's kernels; `None` on other devices.
    #[cfg(feature = "cpu")]
    pub(crate) fn host(&self) -> Option<&Arc<Blocks>> {
        match &self.storage {
            Storage::Host(blocks) => Some(blocks),
            Storage::Device(_) => None,
        }
    }

    /// The whole weight in f32, a constant beside any tensor: for what needs it once, and for devices without a kernel.
    ///
    /// # Shapes
    /// `[out, in]`.
    pub fn dense(&self) -> Tensor<2> {
        match &self.storage {
            Storage::Host(blocks) => host_dense(blocks),
            Storage::Device(blocks) => blocks.dense(),
        }
    }

    /// `x·Wᵀ` in the type of `x`, where there is no kernel: the whole weight exists for as long as the product takes.
    ///
    /// # Shapes
    /// `[n, i]` to `[n, o]`.
    pub(crate) fn matmul(&self, x_ni: Tensor<2>) -> Tensor<2> {
        match &self.storage {
            Storage::Device(blocks) => blocks.matmul(x_ni),
            // The CPU's kernels are f32 only.
            Storage::Host(_) => {
                let weight_oi = super::cast_to(self.dense(), x_ni.dtype());
                let weight_oi = if x_ni.is_autodiff() { weight_oi.autodiff() } else { weight_oi };
                super::linear(x_ni, weight_oi, None)
            }
        }
    }

    pub(crate) fn to_device(&self, device: &Device) -> Self {
        let storage = match &self.storage {
            Storage::Host(_) => self.storage.clone(),
            Storage::Device(blocks) => Storage::Device(blocks.to_device(device)),
        };
        Self { device: device.clone(), storage, ..self.clone() }
    }
}

#[cfg(feature = "cpu")]
fn host_dense(blocks: &Blocks) -> Tensor<2> {
    let values = super::flex::dequantize(blocks);
    Tensor::from_data(burn::tensor::TensorData::new(values, blocks.shape), &Device::flex())
}

#[cfg(not(feature = "cpu"))]
fn host_dense(_blocks: &Blocks) -> Tensor<2> {
    unreachable!("a build without the CPU's kernels keeps no weight for them")
}

#[cfg(test)]
mod tests;
