//! Activation functions by the names that `config.json` uses.

use burn::tensor::{Tensor, activation};

/// An element-wise activation, as named by `hidden_act` in Hugging Face configurations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x·σ(x)`.
    Silu,
    /// `x·Φ(x)`, with the error function (not its tanh approximation).
    Gelu,
    /// The tanh approximation of [`Activation::Gelu`].
    GeluTanh,
    /// `x·σ(1.702x)`, as OpenAI's CLIP uses it.
    QuickGelu,
    /// `max(0, x)`.
    Relu,
}

/// An activation name that is not implemented.
#[derive(Debug, thiserror::Error)]
#[error("activation `{0}` is not implemented; use silu, gelu, gelu_pytorch_tanh, quick_gelu or relu")]
pub struct UnknownActivation(pub String);

impl Activation {
    /// Parses a Hugging Face activation name.
    ///
    /// # Errors
    /// [`UnknownActivation`] names what is known.
    pub fn parse(name: &str) -> Result<Self, UnknownActivation> {
        Ok(match name {
            "silu" | "swish" => Self::Silu,
            "gelu" => Self::Gelu,
            "gelu_pytorch_tanh" | "gelu_new" => Self::GeluTanh,
            "quick_gelu" => Self::QuickGelu,
            "relu" => Self::Relu,
            other => return Err(UnknownActivation(other.to_owned())),
        })
    }

    /// Applies the function to every element.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        #[cfg(feature = "cpu")]
        if super::fused(&x) {
            match self {
                Self::Gelu => return super::flex::gelu(x),
                Self::QuickGelu => return super::flex::quick_gelu(x),
                _ => {}
            }
        }
        // In bf16 each of the function's steps would round.
        let dtype = x.dtype();
        let x = super::to_f32(x);
        let y = match self {
            Self::Silu => activation::silu(x),
            Self::Gelu => activation::gelu(x),
            Self::GeluTanh => activation::gelu_approximate(x),
            Self::QuickGelu => x.clone() * activation::sigmoid(x * 1.702),
            Self::Relu => activation::relu(x),
        };
        super::cast_to(y, dtype)
    }

    /// `self(gate) · up`, the gated half of a Llama block's MLP, in one pass where that is possible.
    pub fn gated<const D: usize>(self, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
        #[cfg(feature = "cpu")]
        if self == Self::Silu && super::fused(&gate) {
            return super::flex::swiglu(gate, up);
        }
        match self {
            Self::Silu => super::composed::swiglu(gate, up),
            _ => self.forward(gate) * up,
        }
    }
}
