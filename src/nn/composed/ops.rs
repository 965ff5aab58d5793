//! Small words over burn's backend operations.

use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::{DType, Shape, Slice};
use std::ops::Range;

/// `x` in `dtype`; the same tensor where it is already.
pub(super) fn cast<B: Backend>(x: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    if x.dtype() == dtype { x } else { B::float_cast(x, dtype.into()) }
}

/// `x` in f32.
pub(super) fn wide<B: Backend>(x: FloatTensor<B>) -> FloatTensor<B> {
    cast::<B>(x, DType::F32)
}

/// `x` in another shape.
pub(super) fn shaped<B: Backend, const D: usize>(x: FloatTensor<B>, shape: [usize; D]) -> FloatTensor<B> {
    B::float_reshape(x, Shape::new(shape))
}

/// The indices `range` of one axis.
pub(super) fn part<B: Backend>(x: FloatTensor<B>, axis: usize, range: Range<usize>) -> FloatTensor<B> {
    let slices = along(&x.shape(), axis, range);
    match slices {
        None => x,
        Some(slices) => B::float_slice(x, &slices),
    }
}

/// Slices that pick `range` of one axis; none where that is all of it.
pub(super) fn along(shape: &Shape, axis: usize, range: Range<usize>) -> Option<Vec<Slice>> {
    if range == (0..shape[axis]) {
        return None;
    }
    let whole = (0..shape.num_dims()).map(|other| if other == axis { range.clone() } else { 0..shape[other] });
    Some(whole.map(Slice::from).collect())
}
