//! A linear map that can carry an adapter.

// n rows, i in_features, o out_features
use super::norm::cast_to;
use super::params::{constant, uniform};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use std::fmt::Debug;
use std::sync::Arc;

/// `y = x·Wᵀ + b`, with an optional adapter acting beside the frozen weight.
#[derive(Module, Debug)]
pub struct Linear {
    /// Weight in PyTorch's layout, `[out, in]`.
    pub weight: Param<Tensor<2>>,
    /// Bias, `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// What a tuner has put beside the weight.
    pub adapter: Option<AdapterSlot>,
}

/// The parameters and the rule of one adapter on one [`Linear`].
#[derive(Module, Debug)]
pub struct AdapterSlot {
    /// The adapter's trainable matrices, in the order of [`LinearAdapter::names`].
    pub params: Vec<Param<Tensor<2>>>,
    /// How they change the map.
    #[module(skip)]
    pub rule: Arc<dyn LinearAdapter>,
}

/// What a tuner does to a linear map.
///
/// Implement it to write a tuner of one's own: the matrices live in the [`AdapterSlot`], so that they are trained,
/// saved and resumed like every other parameter.
pub trait LinearAdapter: Debug + Send + Sync {
    /// The names of the matrices in a PEFT file, for example `lora_A.weight`.
    fn names(&self) -> &[&'static str];

    /// The adapted map. Whatever acts in training only (dropout) acts where `params` are tracked for a gradient.
    ///
    /// # Shapes
    /// `x_ni` to `[n, o]`, with `params` in the order of [`LinearAdapter::names`].
    fn forward(
        &self,
        x_ni: Tensor<2>,
        weight_oi: Tensor<2>,
        bias_o: Option<Tensor<1>>,
        params: &[Tensor<2>],
    ) -> Tensor<2>;

    /// The plain weight `[o, i]` that maps as the adapted layer does, for merging at export; `None` where there is none.
    fn merged(&self, weight_oi: Tensor<2>, params: &[Tensor<2>]) -> Option<Tensor<2>>;
}

impl Linear {
    /// A layer with PyTorch's default initialisation, uniform in `±1/√in`.
    pub fn new(inputs: usize, outputs: usize, bias: bool, device: &Device) -> Self {
        let bound = 1.0 / (inputs.max(1) as f64).sqrt();
        Self {
            weight: uniform([outputs, inputs], bound, device),
            bias: bias.then(|| constant([outputs], 0.0, device)),
            adapter: None,
        }
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        self.weight.lazy_shape().dims()
    }

    /// # Shapes
    /// `[.., in]` to `[.., out]`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let mut shape = x.dims();
        let inputs = shape[D - 1];
        let rows = shape[..D - 1].iter().product::<usize>();
        let [outputs, _] = self.shape();
        let y = self.rows(x.reshape([rows, inputs]));
        shape[D - 1] = outputs;
        y.reshape(shape)
    }

    fn rows(&self, x_ni: Tensor<2>) -> Tensor<2> {
        let dtype = x_ni.dtype();
        let weight = cast_to(self.weight.val(), dtype);
        let bias = self.bias.as_ref().map(|b| cast_to(b.val(), dtype));
        match &self.adapter {
            None => linear(x_ni, weight, bias),
            Some(slot) => {
                let params: Vec<_> = slot.params.iter().map(|p| p.val()).collect();
                slot.rule.forward(x_ni, weight, bias, &params)
            }
        }
    }
}

/// `x·Wᵀ + b` on matrices.
///
/// # Shapes
/// `x_ni`, `weight_oi`, `bias_o` to `[n, o]`; all of one type.
pub(crate) fn linear(x_ni: Tensor<2>, weight_oi: Tensor<2>, bias_o: Option<Tensor<1>>) -> Tensor<2> {
    #[cfg(feature = "cpu")]
    if super::fused(&x_ni) {
        return super::flex::linear(x_ni, weight_oi, bias_o);
    }
    let y = x_ni.matmul(weight_oi.transpose());
    match bias_o {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}
