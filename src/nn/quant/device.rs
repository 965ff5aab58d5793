//! Quantized weights as tensors, for devices without a kernel.

use super::{Blocks, QuantFormat, Scales};
use crate::nn::composed::{self, PackedWeight, Packing};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// A weight on a device.
#[derive(Clone, Debug)]
pub(super) struct DeviceBlocks(PackedWeight);

/// Bytes, four to a word: no GPU of ours has tensors of bytes.
fn packed(bytes: &[u8], device: &Device) -> Tensor<1, Int> {
    let (whole, rest) = bytes.as_chunks::<4>();
    let mut words: Vec<i32> = whole.iter().map(|word| i32::from_le_bytes(*word)).collect();
    if !rest.is_empty() {
        let mut last = [0; 4];
        last[..rest.len()].copy_from_slice(rest);
        words.push(i32::from_le_bytes(last));
    }
    let count = words.len();
    Tensor::from_data(TensorData::new(words, [count]), (device, DType::I32))
}

fn upload<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F32))
}

/// What each byte of codes stands for, as many numbers as it has codes.
fn table(format: QuantFormat, device: &Device) -> Tensor<2> {
    let bytes = 0..=u8::MAX;
    match format {
        QuantFormat::Int8 => upload(bytes.map(|byte| f32::from(byte as i8)).collect(), [256, 1], device),
        QuantFormat::FourBit { levels, .. } => {
            let level = |code: u8| levels.table()[usize::from(code)];
            let pairs = bytes.flat_map(|byte| [level(byte >> 4), level(byte & 15)]);
            upload(pairs.collect(), [256, 2], device)
        }
    }
}

impl DeviceBlocks {
    pub(super) fn new(blocks: &Blocks, device: &Device) -> Self {
        // A constant whatever stands beside it.
        let device = &if device.is_autodiff() { device.clone().inner() } else { device.clone() };
        let flat = |values: &[f32]| upload(values.to_vec(), [values.len()], device);
        let (scales, scale_words, scale_table, offset) = match &blocks.scales {
            Scales::Plain(values) => (flat(values), packed(&[0], device), flat(&[0.0]), None),
            Scales::Nested { codes, levels, absmax, offset } => {
                (flat(absmax), packed(codes, device), flat(levels), Some(*offset))
            }
        };
        Self(PackedWeight {
            words: packed(blocks.codes(), device),
            table: table(blocks.format, device),
            scales,
            scale_words,
            scale_table,
            packing: Packing { shape: blocks.shape, format: blocks.format, offset },
        })
    }

    /// `[out, in]` in f32.
    pub(super) fn dense(&self) -> Tensor<2> {
        composed::dequantize(self.0.clone())
    }

    /// `x·Wᵀ` in the type of `x`.
    pub(super) fn matmul(&self, x_ni: Tensor<2>) -> Tensor<2> {
        composed::quantized_matmul(x_ni, self.0.clone())
    }

    pub(super) fn to_device(&self, device: &Device) -> Self {
        let PackedWeight { words, table, scales, scale_words, scale_table, packing } = self.0.clone();
        Self(PackedWeight {
            words: words.to_device(device),
            table: table.to_device(device),
            scales: scales.to_device(device),
            scale_words: scale_words.to_device(device),
            scale_table: scale_table.to_device(device),
            packing,
        })
    }
}
