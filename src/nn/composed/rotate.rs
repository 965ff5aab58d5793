//! Rotary positions.
//!
//! The halves of a head change places by a lookup along its width. Slices of half a head would be copies on a GPU, where a
//! view has to begin at a multiple of 256 or 512 bytes, and two halves of a result would have to be joined by one more; a
//! lookup, the products and the sum are one kernel.

// b batch, t tokens, h heads, k head width
use super::ops::{cast, shaped, wide};
use burn::backend::{
    Backend, TensorMetadata,
    tensor::{FloatTensor, IntTensor},
};

/// Which way a rotation turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Forward.
    By,
    /// Backward: the transposed map, which a gradient takes.
    Back,
}

/// How far to rotate; see [`super::Angles`].
#[derive(Clone, Debug)]
pub(super) struct RotateKept<B: Backend> {
    pub(super) cos: FloatTensor<B>,
    pub(super) sin: FloatTensor<B>,
    pub(super) other_half: IntTensor<B>,
    pub(super) heads: usize,
}

/// `x·cos ± swap(x)·sin`, `swap` exchanging the halves of every head.
pub(super) fn rotate<B: Backend>(x: FloatTensor<B>, by: RotateKept<B>, turn: Turn) -> FloatTensor<B> {
    let (dtype, [b, t, width]) = (x.dtype(), x.shape().dims::<3>());
    let k = width / by.heads;
    let beside = |rows: FloatTensor<B>| {
        let like = rows.shape()[0];
        shaped::<B, 4>(wide::<B>(rows), [like, t, 1, k])
    };
    let (cos, sin) = (beside(by.cos), beside(by.sin));
    let x = shaped::<B, 4>(x, [b, t, by.heads, k]);
    let swapped = B::float_select(x.clone(), 3, by.other_half);
    let (own, other) = (B::float_mul(wide::<B>(x), cos), B::float_mul(wide::<B>(swapped), sin));
    let y = match turn {
        Turn::By => B::float_add(own, other),
        Turn::Back => B::float_sub(own, other),
    };
    shaped::<B, 3>(cast::<B>(y, dtype), [b, t, width])
}
