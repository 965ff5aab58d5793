//! Rotary positions.

// b batch, t tokens, h heads, k head width
use super::ops::{cast, part, shaped, wide};
use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};

/// Which way a rotation turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Forward.
    By,
    /// Backward: the transposed map, which a gradient takes.
    Back,
}

/// `[x1·cos ∓ x2·sin, x2·cos ± x1·sin]` for the halves of every head.
pub(super) fn rotate<B: Backend>(x: FloatTensor<B>, rows: FloatTensor<B>, heads: usize, turn: Turn) -> FloatTensor<B> {
    let (dtype, [b, t, width]) = (x.dtype(), x.shape().dims::<3>());
    let k = width / heads;
    let half = k / 2;
    let like = rows.shape()[0];
    let rows = shaped::<B, 4>(wide::<B>(rows), [like, t, 1, k]);
    let (cos, sin) = (part::<B>(rows.clone(), 3, 0..half), part::<B>(rows, 3, half..k));
    let x = shaped::<B, 4>(x, [b, t, heads, k]);
    let (x1, x2) = (wide::<B>(part::<B>(x.clone(), 3, 0..half)), wide::<B>(part::<B>(x, 3, half..k)));
    let (a, c) = (B::float_mul(x1.clone(), cos.clone()), B::float_mul(x2.clone(), sin.clone()));
    let (d, e) = (B::float_mul(x2, cos), B::float_mul(x1, sin));
    let (y1, y2) = match turn {
        Turn::By => (B::float_sub(a, c), B::float_add(d, e)),
        Turn::Back => (B::float_add(a, c), B::float_sub(d, e)),
    };
    shaped::<B, 3>(B::float_cat(vec![cast::<B>(y1, dtype), cast::<B>(y2, dtype)], 3), [b, t, width])
}
