//! RMSNorm and LayerNorm over the last axis.

// n rows, d width
use super::ops::{cast, shaped, wide};
use burn::backend::{Backend, TensorMetadata, tensor::FloatTensor};
use burn::tensor::DType;

/// What the backward pass needs. No f32 copy of a bf16 input is among it.
#[derive(Clone, Debug)]
pub(super) struct NormKept<B: Backend> {
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    /// Mean of each row, for LayerNorm.
    mean: Option<FloatTensor<B>>,
    /// Reciprocal of each row's root, `[.., 1]`, f32.
    recip: FloatTensor<B>,
}

/// Gradients of the scale and the shift that are asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) weight: bool,
    pub(super) bias: bool,
}

/// Gradients of a norm, the parameters' in their own type.
pub(super) struct NormGradients<B: Backend> {
    pub(super) x: FloatTensor<B>,
    pub(super) weight: Option<FloatTensor<B>>,
    pub(super) bias: Option<FloatTensor<B>>,
}

/// The weight's and the bias's shape is `[d]`, the last axis of `x`.
fn beside<B: Backend>(weight: FloatTensor<B>, x: &FloatTensor<B>) -> FloatTensor<B> {
    let mut shape = x.shape();
    let last = shape.num_dims() - 1;
    let d = shape[last];
    (0..=last).for_each(|axis| shape[axis] = if axis == last { d } else { 1 });
    B::float_reshape(weight, shape)
}

fn mean_square_recip<B: Backend>(x: FloatTensor<B>, eps: f64) -> FloatTensor<B> {
    let last = x.shape().num_dims() - 1;
    let mean = B::float_mean_dim(B::float_mul(x.clone(), x), last);
    B::float_recip(B::float_sqrt(B::float_add_scalar(mean, eps.into())))
}

/// The scale multiplies in the type of `x`, as transformers has it.
pub(super) fn rms<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>, eps: f64) -> (FloatTensor<B>, NormKept<B>) {
    let dtype = x.dtype();
    let recip = mean_square_recip::<B>(wide::<B>(x.clone()), eps);
    let y = cast::<B>(B::float_mul(wide::<B>(x.clone()), recip.clone()), dtype);
    let y = B::float_mul(y, beside::<B>(cast::<B>(weight.clone(), dtype), &x));
    (y, NormKept { x, weight, mean: None, recip })
}

pub(super) fn layer<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
    eps: f64,
) -> (FloatTensor<B>, NormKept<B>) {
    let (dtype, last) = (x.dtype(), x.shape().num_dims() - 1);
    let mean = B::float_mean_dim(wide::<B>(x.clone()), last);
    let centred = B::float_sub(wide::<B>(x.clone()), mean.clone());
    let recip = mean_square_recip::<B>(centred.clone(), eps);
    let y = B::float_mul(centred, recip.clone());
    let y = B::float_mul(y, beside::<B>(wide::<B>(weight.clone()), &x));
    let y = cast::<B>(B::float_add(y, beside::<B>(wide::<B>(bias), &x)), dtype);
    (y, NormKept { x, weight, mean: Some(mean), recip })
}

/// `dx = r·(g − mean(g·x̂)·x̂)` with `g = dy·weight`, less `mean(g)` for LayerNorm. `like` is the parameters' type.
pub(super) fn backward<B: Backend>(
    kept: NormKept<B>,
    upstream: FloatTensor<B>,
    wanted: Wanted,
    like: DType,
) -> NormGradients<B> {
    let NormKept { x, weight, mean, recip } = kept;
    let (dtype, last) = (x.dtype(), x.shape().num_dims() - 1);
    let upstream = wide::<B>(upstream);
    let centred = match &mean {
        None => wide::<B>(x.clone()),
        Some(mean) => B::float_sub(wide::<B>(x.clone()), mean.clone()),
    };
    let unit = B::float_mul(centred, recip.clone());
    let g = B::float_mul(upstream.clone(), beside::<B>(wide::<B>(weight), &x));
    let along = B::float_mean_dim(B::float_mul(g.clone(), unit.clone()), last);
    let g = match mean {
        None => g,
        Some(_) => {
            let level = B::float_mean_dim(g.clone(), last);
            B::float_sub(g, level)
        }
    };
    let dx = B::float_mul(B::float_sub(g, B::float_mul(unit.clone(), along)), recip);
    NormGradients {
        x: cast::<B>(dx, dtype),
        weight: wanted.weight.then(|| over_rows::<B>(B::float_mul(upstream.clone(), unit), like)),
        bias: wanted.bias.then(|| over_rows::<B>(upstream, like)),
    }
}

/// The sum over all axes but the last, `[d]`.
fn over_rows<B: Backend>(x: FloatTensor<B>, dtype: DType) -> FloatTensor<B> {
    let shape = x.shape();
    let d = shape[shape.num_dims() - 1];
    let x_nd = shaped::<B, 2>(x, [shape.num_elements() / d.max(1), d]);
    cast::<B>(shaped::<B, 1>(B::float_sum_dim(x_nd, 0), [d]), dtype)
}
