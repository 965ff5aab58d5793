//! Normalisation that reduces in f32 whatever the activations' type.

use super::params::constant;
use burn::module::{Module, Param};
use burn::tensor::{DType, Device, FloatDType, Tensor};

/// Root-mean-square normalisation, `x / sqrt(mean(x²) + ε) · weight`.
///
/// # Source
/// `LlamaRMSNorm` of transformers: the statistics and the division are in f32, the product with the weight in the
/// activations' type.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// Scale, `[d]`.
    pub weight: Param<Tensor<1>>,
    /// Added to the mean square.
    pub epsilon: f64,
}

impl RmsNorm {
    /// A norm over the last axis of width `d`, scale one.
    pub fn new(d: usize, epsilon: f64, device: &Device) -> Self {
        Self { weight: constant([d], 1.0, device), epsilon }
    }

    /// # Shapes
    /// `[.., d]` to the same.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let weight = self.weight.val();
        #[cfg(feature = "cpu")]
        if super::fused(&x) {
            return super::flex::rms_norm(x, weight, self.epsilon as f32);
        }
        super::composed::rms_norm(x, weight, self.epsilon)
    }
}

/// Layer normalisation with a bias, reduced in f32.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// Scale, `[d]`.
    pub weight: Param<Tensor<1>>,
    /// Shift, `[d]`.
    pub bias: Param<Tensor<1>>,
    /// Added to the variance.
    pub epsilon: f64,
}

impl LayerNorm {
    /// A norm over the last axis of width `d`, scale one and shift zero.
    pub fn new(d: usize, epsilon: f64, device: &Device) -> Self {
        Self { weight: constant([d], 1.0, device), bias: constant([d], 0.0, device), epsilon }
    }

    /// # Shapes
    /// `[.., d]` to the same.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let (weight, bias) = (self.weight.val(), self.bias.val());
        #[cfg(feature = "cpu")]
        if super::fused(&x) {
            return super::flex::layer_norm(x, weight, bias, self.epsilon as f32);
        }
        super::composed::layer_norm(x, weight, bias, self.epsilon)
    }
}

/// `x` in f32; the same tensor where it is already.
pub(crate) fn to_f32<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    cast_to(x, DType::F32)
}

/// `x` in `dtype`; the same tensor where it is already.
pub(crate) fn cast_to<const D: usize>(x: Tensor<D>, dtype: DType) -> Tensor<D> {
    if x.dtype() == dtype { x } else { x.cast(FloatDType::from(dtype)) }
}
