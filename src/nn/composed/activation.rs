//! `silu(gate)·up`.

use super::ops::{cast, wide};
use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};

/// `1 / (1 + e^-x)`, f32. An exponential that overflows gives 0.
fn sigmoid<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    B::float_recip(B::float_add_scalar(B::float_exp(B::float_neg(x)), 1.0.into()))
}

/// SiLU is rounded to the arguments' type before the product, as torch rounds it.
pub(super) fn swiglu<B: Backend>(gate: FloatTensor<B>, up: FloatTensor<B>) -> FloatTensor<B> {
    let dtype = gate.dtype();
    let gate = wide::<B>(gate);
    let silu = B::float_mul(gate.clone(), sigmoid::<B>(gate));
    B::float_mul(cast::<B>(silu, dtype), up)
}

/// The gradients of the gate and of the other half.
pub(super) fn swiglu_backward<B: Backend>(
    gate: FloatTensor<B>,
    up: FloatTensor<B>,
    upstream: FloatTensor<B>,
) -> [FloatTensor<B>; 2] {
    let dtype = gate.dtype();
    let (gate, up, upstream) = (wide::<B>(gate), wide::<B>(up), wide::<B>(upstream));
    let sigma = sigmoid::<B>(gate.clone());
    let silu = B::float_mul(gate, sigma.clone());
    let dup = B::float_mul(upstream.clone(), silu.clone());
    // silu' = σ + x·σ·(1 − σ)
    let rest = B::float_add_scalar(B::float_neg(sigma.clone()), 1.0.into());
    let slope = B::float_add(sigma, B::float_mul(silu, rest));
    let dgate = B::float_mul(B::float_mul(upstream, up), slope);
    [cast::<B>(dgate, dtype), cast::<B>(dup, dtype)]
}
