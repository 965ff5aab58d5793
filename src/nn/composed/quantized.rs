//! Products with weights in 8 and 4 bits.
//!
//! The step on the tape keeps codes and scales. The weight in numbers is made for the forward product, dropped, and made once
//! more for the backward one: at no time is there more than one layer's.

// n rows, i in_features, o out_features
use super::ops::{cast, part, shaped};
use crate::nn::quant::{INT8_STEP, NESTED_BLOCK, QuantFormat};
use burn::backend::{
    Backend, TensorMetadata,
    tensor::{FloatTensor, IntTensor},
};
use burn::tensor::{DType, Shape, Slice};

/// Shape and format of a weight, and what its quantized scales are counted from.
#[derive(Clone, Copy, Debug)]
pub(in crate::nn) struct Packing {
    pub(in crate::nn) shape: [usize; 2],
    pub(in crate::nn) format: QuantFormat,
    /// Of scales that are quantized as well.
    pub(in crate::nn) offset: Option<f32>,
}

/// A quantized weight's tensors.
#[derive(Clone, Debug)]
pub(super) struct QuantizedKept<B: Backend> {
    /// Four bytes of codes to a word.
    pub(super) words: IntTensor<B>,
    /// What each byte stands for, `[256, codes of a byte]`.
    pub(super) table: FloatTensor<B>,
    /// Scales, or those of the scales.
    pub(super) scales: FloatTensor<B>,
    /// Four codes of scales to a word; of no meaning where the scales are plain.
    pub(super) scale_words: IntTensor<B>,
    /// What each code of a scale stands for, `[256]`; likewise.
    pub(super) scale_table: FloatTensor<B>,
    pub(super) packing: Packing,
}

/// `count` bytes out of words, `[count]`.
fn bytes<B: Backend>(words: IntTensor<B>, count: usize) -> IntTensor<B> {
    let n = words.shape()[0];
    let column = B::int_reshape(words, Shape::new([n, 1]));
    let byte = |shift: i32| {
        let moved =
            if shift == 0 { column.clone() } else { B::bitwise_right_shift_scalar(column.clone(), shift.into()) };
        B::bitwise_and_scalar(moved, 255_i32.into())
    };
    let all = B::int_cat([0, 8, 16, 24].map(byte).to_vec(), 1);
    let all = B::int_reshape(all, Shape::new([4 * n]));
    if count == 4 * n { all } else { B::int_slice(all, &[Slice::from(0..count)]) }
}

/// A block of `values` for each scale, the last one filled up, times its scale; `[values]`.
fn scaled<B: Backend>(values: FloatTensor<B>, scales: FloatTensor<B>, block: usize) -> FloatTensor<B> {
    let (n, blocks) = (values.shape()[0], scales.shape()[0]);
    let missing = blocks * block - n;
    let values = match missing {
        0 => values,
        _ => {
            let filling = B::float_zeros(Shape::new([missing]), &values.device(), DType::F32.into());
            B::float_cat(vec![values, filling], 0)
        }
    };
    let values = B::float_mul(shaped::<B, 2>(values, [blocks, block]), shaped::<B, 2>(scales, [blocks, 1]));
    part::<B>(shaped::<B, 1>(values, [blocks * block]), 0, 0..n)
}

/// The whole weight, `[o, i]` in f32.
pub(super) fn dequantize<B: Backend>(weight: QuantizedKept<B>) -> FloatTensor<B> {
    let QuantizedKept { words, table, scales, scale_words, scale_table, packing } = weight;
    let [outputs, inputs] = packing.shape;
    let elements = outputs * inputs;
    let (per_byte, run) = match packing.format {
        QuantFormat::Int8 => (1, inputs),
        QuantFormat::FourBit { block_size, .. } => (2, block_size),
    };
    let scales = match packing.offset {
        None => scales,
        Some(offset) => {
            let codes = bytes::<B>(scale_words, elements.div_ceil(run));
            let values = B::float_select(scale_table, 0, codes);
            B::float_add_scalar(scaled::<B>(values, scales, NESTED_BLOCK), offset.into())
        }
    };
    let count = elements.div_ceil(per_byte);
    let values = B::float_select(table, 0, bytes::<B>(words, count));
    let values = part::<B>(shaped::<B, 1>(values, [count * per_byte]), 0, 0..elements);
    let values = scaled::<B>(values, scales, run);
    let values = match packing.format {
        QuantFormat::Int8 => B::float_mul_scalar(values, INT8_STEP.into()),
        QuantFormat::FourBit { .. } => values,
    };
    shaped::<B, 2>(values, packing.shape)
}

/// `x·Wᵀ` in the type of `x`, `[n, o]`.
pub(super) fn forward<B: Backend>(x: FloatTensor<B>, weight: QuantizedKept<B>) -> FloatTensor<B> {
    let weight = cast::<B>(dequantize::<B>(weight), x.dtype());
    B::float_matmul(x, B::float_transpose(weight))
}

/// `g·W`, the gradient of `x`, `[n, i]`.
pub(super) fn backward<B: Backend>(upstream: FloatTensor<B>, weight: QuantizedKept<B>) -> FloatTensor<B> {
    let weight = cast::<B>(dequantize::<B>(weight), upstream.dtype());
    B::float_matmul(upstream, weight)
}
