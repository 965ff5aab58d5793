//! The weight of a linear map: a parameter, or a constant in fewer bits.

// n rows, i in_features, o out_features, r rank
use super::linear::linear;
use super::norm::{cast_to, to_f32};
use super::quant::Quantized;
use burn::module::{
    Content, Devices, Module, ModuleDisplay, ModuleDisplayDefault, ModuleMapper, ModuleVisitor, Param, ParamId,
};
use burn::tensor::{Device, Tensor};

/// The weight of a [`Linear`](super::Linear), `[out, in]` as PyTorch has it.
///
/// Adapters multiply with it through [`linear`](Weight::linear) and [`lora`](Weight::lora), whatever it is.
#[expect(clippy::large_enum_variant, reason = "one for each layer: a box would save nothing")]
#[derive(Clone, Debug)]
pub enum Weight {
    /// A parameter, f32 or, frozen on a GPU, bf16.
    Dense(Param<Tensor<2>>),
    /// A constant in 8 or 4 bits. It is no parameter: nothing lists, trains or saves it.
    Quantized(Quantized),
}

/// The matrices of a low-rank update `scale·B·A`.
#[derive(Clone, Debug)]
pub struct LowRank {
    /// Down, `[r, i]`.
    pub a_ri: Tensor<2>,
    /// Up, `[o, r]`.
    pub b_or: Tensor<2>,
    /// Factor of the update.
    pub scale: f32,
}

impl From<Tensor<2>> for Weight {
    /// A constant.
    fn from(weight_oi: Tensor<2>) -> Self {
        Self::Dense(Param::initialized(ParamId::new(), weight_oi).set_require_grad(false))
    }
}

impl Weight {
    /// `[out, in]`.
    pub fn shape(&self) -> [usize; 2] {
        match self {
            Self::Dense(param) => param.lazy_shape().dims(),
            Self::Quantized(weight) => weight.shape(),
        }
    }

    /// The parameter; `None` of a quantized weight, which is none.
    pub fn param(&self) -> Option<&Param<Tensor<2>>> {
        match self {
            Self::Dense(param) => Some(param),
            Self::Quantized(_) => None,
        }
    }

    /// The quantized weight; `None` of a parameter.
    pub fn quantized(&self) -> Option<&Quantized> {
        match self {
            Self::Dense(_) => None,
            Self::Quantized(weight) => Some(weight),
        }
    }

    /// Where it is.
    pub fn device(&self) -> Device {
        match self {
            Self::Dense(param) => param.lazy_device(),
            Self::Quantized(weight) => weight.device(),
        }
    }

    /// The weight as a tensor: the parameter's own value, or a quantized weight in f32, which takes the memory of a whole one
    /// as long as the tensor lives.
    ///
    /// # Shapes
    /// `[out, in]`.
    pub fn dense(&self) -> Tensor<2> {
        match self {
            Self::Dense(param) => param.val(),
            Self::Quantized(weight) => weight.dense(),
        }
    }

    /// With the parameter changed; a quantized weight stays as it is.
    pub fn map_param(self, change: impl FnOnce(Param<Tensor<2>>) -> Param<Tensor<2>>) -> Self {
        match self {
            Self::Dense(param) => Self::Dense(change(param)),
            quantized @ Self::Quantized(_) => quantized,
        }
    }

    /// `x·Wᵀ + b` in the type of `x`.
    ///
    /// # Shapes
    /// `x_ni`, `bias_o` to `[n, o]`.
    pub fn linear(&self, x_ni: Tensor<2>, bias_o: Option<Tensor<1>>) -> Tensor<2> {
        #[cfg(feature = "cpu")]
        if let Some(weight) = self.kernel(&x_ni) {
            return super::flex::quantized_linear(x_ni, weight, bias_o, None);
        }
        match self {
            Self::Dense(_) => {
                let weight_oi = self.beside(&x_ni);
                linear(x_ni, weight_oi, bias_o)
            }
            Self::Quantized(weight) => {
                let y_no = weight.matmul(x_ni);
                match bias_o {
                    Some(bias) => y_no + bias.unsqueeze(),
                    None => y_no,
                }
            }
        }
    }

    /// `x·Wᵀ + b + scale·(x·Aᵀ)·Bᵀ` in the type of `x`, the update in f32.
    ///
    /// # Shapes
    /// As [`linear`](Self::linear).
    pub fn lora(&self, x_ni: Tensor<2>, bias_o: Option<Tensor<1>>, update: LowRank) -> Tensor<2> {
        #[cfg(feature = "cpu")]
        if super::fused(&x_ni) {
            let LowRank { a_ri: a, b_or: b, scale } = update;
            let factors = super::flex::LoraFactors { a, b, scale };
            if let Some(weight) = self.kernel(&x_ni) {
                return super::flex::quantized_linear(x_ni, weight, bias_o, Some(factors));
            }
            let weight_oi = self.beside(&x_ni);
            return super::flex::lora_linear(x_ni, weight_oi, bias_o, factors);
        }
        let dtype = x_ni.dtype();
        let y_no = self.linear(x_ni.clone(), bias_o);
        y_no + cast_to(update.on(to_f32(x_ni)), dtype)
    }

    /// What the CPU's kernels multiply with.
    #[cfg(feature = "cpu")]
    fn kernel(&self, x_ni: &Tensor<2>) -> Option<&std::sync::Arc<super::quant::Blocks>> {
        self.quantized().filter(|_| super::fused(x_ni))?.host()
    }

    /// The whole weight in the type of `x` and, beside one that tracks gradients, on its tape.
    pub(crate) fn beside(&self, x_ni: &Tensor<2>) -> Tensor<2> {
        match self {
            Self::Dense(param) => cast_to(param.val(), x_ni.dtype()),
            Self::Quantized(weight) => {
                let weight_oi = cast_to(weight.dense(), x_ni.dtype());
                if x_ni.is_autodiff() { weight_oi.autodiff() } else { weight_oi }
            }
        }
    }
}

impl LowRank {
    /// `scale·(x·Aᵀ)·Bᵀ`.
    ///
    /// # Shapes
    /// `x_ni`, f32, to `[n, o]`.
    pub fn on(self, x_ni: Tensor<2>) -> Tensor<2> {
        linear(linear(x_ni, self.a_ri, None), self.b_or, None) * self.scale
    }
}

/// A quantized weight has no parameters: visitors pass by it.
impl Module for Weight {
    fn collect_devices(&self, devices: Devices) -> Devices {
        match self {
            Self::Dense(param) => param.collect_devices(devices),
            Self::Quantized(_) => devices,
        }
    }

    fn fork(self, device: &Device) -> Self {
        match self {
            Self::Dense(param) => Self::Dense(param.fork(device)),
            Self::Quantized(weight) => Self::Quantized(weight.to_device(device)),
        }
    }

    fn to_device(self, device: &Device) -> Self {
        match self {
            Self::Dense(param) => Self::Dense(param.to_device(device)),
            Self::Quantized(weight) => Self::Quantized(weight.to_device(device)),
        }
    }

    fn visit<V: ModuleVisitor>(&self, visitor: &mut V) {
        if let Self::Dense(param) = self {
            Module::visit(param, visitor);
        }
    }

    fn map<M: ModuleMapper>(self, mapper: &mut M) -> Self {
        self.map_param(|param| Module::map(param, mapper))
    }

    fn train(self) -> Self {
        self.map_param(Module::train)
    }

    fn valid(&self) -> Self {
        match self {
            Self::Dense(param) => Self::Dense(param.valid()),
            Self::Quantized(weight) => Self::Quantized(weight.clone()),
        }
    }

    fn materialize(self) -> Self {
        self.map_param(Module::materialize)
    }
}

impl ModuleDisplayDefault for Weight {
    fn content(&self, content: Content) -> Option<Content> {
        let text = match self {
            Self::Dense(_) => format!("Weight {:?}", self.shape()),
            Self::Quantized(weight) => format!("Weight {:?}, {}", self.shape(), weight.format()),
        };
        content.add_single(&text).optional()
    }
}

impl ModuleDisplay for Weight {}

#[cfg(all(test, feature = "cpu"))]
mod tests;
