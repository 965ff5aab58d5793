//! A linear map that can carry an adapter.

// n rows, i in_features, o out_features
use super::norm::cast_to;
use super::params::{constant, uniform};
use super::weight::Weight;
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Tensor};
use std::fmt::Debug;
use std::sync::Arc;

/// `y = x·Wᵀ + b`, with an optional adapter acting beside the frozen weight.
#[derive(Module, Debug)]
pub struct Linear {
    /// Weight in PyTorch's layout, `[out, in]`.
    pub weight: Weight,
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
    /// Matrices that the rule reads and no step changes; no file holds them.
    pub fixed: Vec<Param<Tensor<2>>>,
    /// How they change the map.
    #[module(skip)]
    pub rule: Arc<dyn LinearAdapter>,
}

/// What stands in the name of a parameter of [`AdapterSlot::fixed`].
pub const FIXED: &str = ".adapter.fixed.";

/// A parameter's learning rate under LoRA+ (Hayou et al. 2024; PEFT's `create_loraplus_optimizer`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RateGroup {
    /// The learning rate itself.
    #[default]
    Base,
    /// The rate times `loraplus_lr_ratio`.
    Raised,
}

/// A map without an adapter.
#[derive(Clone, Debug)]
pub struct PlainMap {
    /// Weight, `[out, in]`.
    pub weight_oi: Tensor<2>,
    /// Bias, `[out]`.
    pub bias_o: Option<Tensor<1>>,
}

/// What a tuner does to a linear map.
///
/// Implement it to write a tuner of one's own: the matrices live in the [`AdapterSlot`], so that they are trained,
/// saved and resumed like every other parameter.
pub trait LinearAdapter: Debug + Send + Sync {
    /// The names of the trainable matrices in a PEFT file, for example `lora_A.weight`.
    fn names(&self) -> &[&'static str];

    /// The adapted map. Whatever acts in training only (dropout) acts where `params` are tracked for a gradient.
    ///
    /// # Shapes
    /// `x_ni` to `[n, o]`, with `weight` `[o, i]`, which is multiplied with by its own [`Weight::linear`]: it may be quantized;
    /// `params` are the trainable matrices in the order of [`LinearAdapter::names`], then the fixed ones.
    fn forward(&self, x_ni: Tensor<2>, weight: &Weight, bias_o: Option<Tensor<1>>, params: &[Tensor<2>]) -> Tensor<2>;

    /// The plain map that does what the adapted layer does, for merging at export; `None` where there is none.
    fn merged(&self, plain: PlainMap, params: &[Tensor<2>]) -> Option<PlainMap>;

    /// The matrices that a file holds under [`LinearAdapter::names`], from `params` as [`forward`](Self::forward) takes them;
    /// the trainable ones, where nothing else is said.
    fn saved(&self, params: &[Tensor<2>]) -> Vec<Tensor<2>> {
        params[..self.names().len()].to_vec()
    }

    /// The shape that a file has for the matrix `index` of `shape`.
    fn file_shape(&self, _index: usize, shape: [usize; 2]) -> Vec<usize> {
        shape.to_vec()
    }

    /// How fast the trainable matrix `index` learns under LoRA+.
    fn rate_group(&self, _index: usize) -> RateGroup {
        RateGroup::Base
    }
}

impl AdapterSlot {
    /// An adapter whose matrices are all trained.
    pub fn new(params: Vec<Param<Tensor<2>>>, rule: Arc<dyn LinearAdapter>) -> Self {
        Self { params, fixed: Vec::new(), rule }
    }

    /// The matrices as the rule takes them: the trainable ones, then the fixed ones.
    pub fn matrices(&self) -> Vec<Tensor<2>> {
        self.params.iter().chain(&self.fixed).map(|param| param.val()).collect()
    }
}

impl Linear {
    /// A layer with PyTorch's default initialisation, uniform in `±1/√in`.
    pub fn new(inputs: usize, outputs: usize, bias: bool, device: &Device) -> Self {
        let bound = 1.0 / (inputs.max(1) as f64).sqrt();
        Self {
            weight: Weight::Dense(uniform([outputs, inputs], bound, device)),
            bias: bias.then(|| constant([outputs], 0.0, device)),
            adapter: None,
        }
    }

    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        self.weight.shape()
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
        let bias = self.bias.as_ref().map(|b| cast_to(b.val(), dtype));
        match &self.adapter {
            None => self.weight.linear(x_ni, bias),
            Some(slot) => slot.rule.forward(x_ni, &self.weight, bias, &slot.matrices()),
        }
    }

    /// The map as a plain one, the adapter's part in it and differentiable; `None` where an adapter has none.
    pub fn plain(&self) -> Option<PlainMap> {
        let plain = PlainMap { weight_oi: self.weight.dense(), bias_o: self.bias.as_ref().map(|bias| bias.val()) };
        match &self.adapter {
            None => Some(plain),
            Some(slot) => slot.rule.merged(plain, &slot.matrices()),
        }
    }

    /// Writes the adapter into the weight and the bias, and takes it off; `false` where it has no plain map. A quantized weight
    /// becomes a whole one first.
    pub fn merge(&mut self) -> bool {
        let Some(slot) = self.adapter.take() else { return true };
        let matrices: Vec<_> = slot.matrices().into_iter().map(Tensor::inner).collect();
        let bias_o = self.bias.as_ref().map(|bias| bias.val().inner());
        let plain = PlainMap { weight_oi: self.weight.dense().inner(), bias_o };
        let Some(merged) = slot.rule.merged(plain, &matrices) else { return false };
        self.weight = Weight::Dense(Param::initialized(ParamId::new(), merged.weight_oi));
        self.bias = merged.bias_o.map(|bias| Param::initialized(ParamId::new(), bias));
        true
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
