//! Quantized weights as tensors, for devices without a kernel: codes are taken apart by shifts and looked up. The whole weight
//! in f32 lives as long as the product that it is made for.

use super::{Blocks, INT8_STEP, NESTED_BLOCK, QuantFormat, Scales};
use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// A weight on a device.
#[derive(Clone, Debug)]
pub(super) struct DeviceBlocks {
    format: QuantFormat,
    shape: [usize; 2],
    codes: Packed,
    scales: DeviceScales,
}

#[derive(Clone, Debug)]
enum DeviceScales {
    Plain(Tensor<1>),
    Nested { codes: Packed, levels: Tensor<1>, absmax: Tensor<1>, offset: f32 },
}

/// Bytes, four to a word: no GPU of ours has tensors of bytes.
#[derive(Clone, Debug)]
struct Packed {
    words: Tensor<1, Int>,
    bytes: usize,
}

impl Packed {
    fn new(bytes: &[u8], device: &Device) -> Self {
        let (whole, rest) = bytes.as_chunks::<4>();
        let mut words: Vec<i32> = whole.iter().map(|word| i32::from_le_bytes(*word)).collect();
        if !rest.is_empty() {
            let mut last = [0; 4];
            last[..rest.len()].copy_from_slice(rest);
            words.push(i32::from_le_bytes(last));
        }
        let count = words.len();
        let words = Tensor::from_data(TensorData::new(words, [count]), (device, DType::I32));
        Self { words, bytes: bytes.len() }
    }

    /// Fields of `bits`, in the order of `shifts` within each word.
    fn fields(&self, shifts: &[u32], mask: u32) -> Tensor<1, Int> {
        let count = self.words.dims()[0];
        let fields = shifts.iter().map(|shift| {
            let words = self.words.clone().reshape([count, 1]);
            let words = if *shift == 0 { words } else { words.bitwise_right_shift_scalar(*shift as i32) };
            words.bitwise_and_scalar(mask as i32)
        });
        Tensor::cat(fields.collect(), 1).reshape([count * shifts.len()])
    }

    fn bytes(&self) -> Tensor<1, Int> {
        self.fields(&[0, 8, 16, 24], 255).narrow(0, 0, self.bytes)
    }

    /// The upper half of each byte goes before the lower.
    fn halves(&self) -> Tensor<1, Int> {
        self.fields(&[4, 0, 12, 8, 20, 16, 28, 24], 15).narrow(0, 0, 2 * self.bytes)
    }

    fn to_device(&self, device: &Device) -> Self {
        Self { words: self.words.clone().to_device(device), bytes: self.bytes }
    }
}

fn upload(values: &[f32], device: &Device) -> Tensor<1> {
    Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), (device, DType::F32))
}

/// A block of values for each scale, the last one filled up, times its scale.
fn scaled(values: Tensor<1>, scales: Tensor<1>, block: usize) -> Tensor<1> {
    let (n, blocks) = (values.dims()[0], scales.dims()[0]);
    let missing = blocks * block - n;
    let values = match missing {
        0 => values,
        _ => {
            let filling = Tensor::zeros([missing], (&values.device(), values.dtype()));
            Tensor::cat(vec![values, filling], 0)
        }
    };
    let values = values.reshape([blocks, block]) * scales.reshape([blocks, 1]);
    values.reshape([blocks * block]).narrow(0, 0, n)
}

impl DeviceBlocks {
    pub(super) fn new(blocks: &Blocks, device: &Device) -> Self {
        // A constant whatever stands beside it.
        let device = &if device.is_autodiff() { device.clone().inner() } else { device.clone() };
        let scales = match &blocks.scales {
            Scales::Plain(values) => DeviceScales::Plain(upload(values, device)),
            Scales::Nested { codes, levels, absmax, offset } => DeviceScales::Nested {
                codes: Packed::new(codes, device),
                levels: upload(levels, device),
                absmax: upload(absmax, device),
                offset: *offset,
            },
        };
        Self { format: blocks.format, shape: blocks.shape, codes: Packed::new(blocks.codes(), device), scales }
    }

    /// `[out, in]` in f32.
    pub(super) fn dense(&self) -> Tensor<2> {
        let [outputs, inputs] = self.shape;
        let scales = match &self.scales {
            DeviceScales::Plain(scales) => scales.clone(),
            DeviceScales::Nested { codes, levels, absmax, offset } => {
                let values = levels.clone().select(0, codes.bytes());
                scaled(values, absmax.clone(), NESTED_BLOCK) + *offset
            }
        };
        match self.format {
            QuantFormat::Int8 => {
                // The sign of a byte: the upper half of its range counts from below.
                let codes = self.codes.bytes().bitwise_xor_scalar(128).sub_scalar(128);
                let values = codes.float().cast(DType::F32).reshape([outputs, inputs]);
                values * scales.reshape([outputs, 1]) * INT8_STEP
            }
            QuantFormat::FourBit { levels, block_size, .. } => {
                let levels = upload(levels.table(), &self.codes.words.device());
                let codes = self.codes.halves().narrow(0, 0, outputs * inputs);
                scaled(levels.select(0, codes), scales, block_size).reshape([outputs, inputs])
            }
        }
    }

    pub(super) fn to_device(&self, device: &Device) -> Self {
        let scales = match &self.scales {
            DeviceScales::Plain(scales) => DeviceScales::Plain(scales.clone().to_device(device)),
            DeviceScales::Nested { codes, levels, absmax, offset } => DeviceScales::Nested {
                codes: codes.to_device(device),
                levels: levels.clone().to_device(device),
                absmax: absmax.clone().to_device(device),
                offset: *offset,
            },
        };
        Self { codes: self.codes.to_device(device), scales, ..self.clone() }
    }
}
