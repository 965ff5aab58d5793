//! What a language model's head says of hidden states, without holding `[tokens, vocabulary]`.
//!
//! Every function here passes the vocabulary once, a few positions at a time, and makes what the gradients need while the
//! logits are at hand.

mod chunked;
mod divergence;

pub use divergence::{Contrast, Divergence, Predictor, divergence};

use super::norm::{cast_to, to_f32};
use burn::tensor::{DType, Int, Tensor};

// n tokens, d model width, v vocabulary

/// What to read of each position's distribution besides the target's log-probability.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// [`TokenReadings::argmax`].
    pub argmax: bool,
    /// [`TokenReadings::spread`].
    pub spread: bool,
    /// [`TokenReadings::normalizers`].
    pub normalizers: bool,
    /// [`TokenReadings::mean_logits`].
    pub mean_logits: bool,
    /// How the loss is going to weigh the positions.
    pub weights: Weights,
}

/// How a loss weighs the log-probabilities of different positions: when the gradient of a trained head is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Weights {
    /// Each in its own way, as preference objectives do. The gradient is made in the backward pass, from logits computed
    /// again.
    #[default]
    Own,
    /// All alike: a sum or a mean over all of them. The gradient is made in the forward pass and scaled in the backward
    /// pass, which saves one product of four. Where the weights differ after all, the CPU makes the gradient anew; on other
    /// devices, which do not look, it is NaN.
    Equal,
}

/// What was read of each position.
#[derive(Clone, Debug)]
pub struct TokenReadings {
    /// Log-probability of each target in nats, `[n]`, f32; differentiable.
    pub log_probs: Tensor<1>,
    /// The likeliest token, `[n]`; without autodiff.
    pub argmax: Option<Tensor<1, Int>>,
    /// How spread out the distribution is; without gradients.
    pub spread: Option<Spread>,
    /// The logarithm of the sum of the exponentials of all logits, `[n]`; differentiable.
    pub normalizers: Option<Tensor<1>>,
    /// The mean of all logits, `[n]`; differentiable.
    pub mean_logits: Option<Tensor<1>>,
}

/// What a model expected at each position as a whole.
#[derive(Clone, Debug)]
pub struct Spread {
    /// Entropy in nats, `[n]`.
    pub entropies: Tensor<1>,
    /// Logarithm of the sum of the squared probabilities, `[n]`.
    pub collisions: Tensor<1>,
}

impl Spread {
    /// On the device with autodiff where `like` is.
    fn beside(self, like: &Tensor<1>) -> Self {
        match like.device().is_autodiff() {
            true => Self { entropies: self.entropies.autodiff(), collisions: self.collisions.autodiff() },
            false => self,
        }
    }
}

/// What a pass over the vocabulary yields besides log-probabilities, on the device without autodiff.
#[derive(Debug, Default)]
pub(super) struct Aside {
    pub(super) argmax: Option<Tensor<1, Int>>,
    pub(super) spread: Option<Spread>,
}

/// Log-probability of each target under `softmax(hidden · headᵀ)`, and what else is asked for.
///
/// # Shapes
/// `hidden_nd`, `head_vd`, `targets_n`.
pub fn token_readings(
    hidden_nd: Tensor<2>,
    head_vd: Tensor<2>,
    targets_n: Tensor<1, Int>,
    asked: Asked,
) -> TokenReadings {
    let (log_probs, aside) = pass(hidden_nd.clone(), head_vd.clone(), targets_n.clone(), asked);
    let normalizers =
        asked.normalizers.then(|| normalizers(log_probs.clone(), hidden_nd.clone(), head_vd.clone(), targets_n));
    TokenReadings {
        argmax: aside.argmax,
        spread: aside.spread.map(|spread| spread.beside(&log_probs)),
        normalizers,
        mean_logits: asked.mean_logits.then(|| mean_logits(hidden_nd, head_vd)),
        log_probs,
    }
}

/// Log-probability of each target under `softmax(hidden · headᵀ)`, in nats; differentiable.
///
/// # Shapes
/// `hidden_nd`, `head_vd`, `targets_n` to `[n]`, f32.
pub fn token_log_probs(hidden_nd: Tensor<2>, head_vd: Tensor<2>, targets_n: Tensor<1, Int>) -> Tensor<1> {
    pass(hidden_nd, head_vd, targets_n, Asked::default()).0
}

/// What evaluation reads per token, without gradients.
#[derive(Clone, Debug)]
pub struct TokenStats {
    /// Log-probability of each target, `[n]`.
    pub log_probs: Tensor<1>,
    /// The likeliest token at each position, `[n]`.
    pub argmax: Tensor<1, Int>,
}

/// Log-probabilities and greedy predictions.
///
/// # Shapes
/// As [`token_log_probs`].
pub fn token_stats(hidden_nd: Tensor<2>, head_vd: Tensor<2>, targets_n: Tensor<1, Int>) -> TokenStats {
    let asked = Asked { argmax: true, ..Asked::default() };
    let (log_probs, aside) = pass(hidden_nd.inner(), head_vd.inner(), targets_n.inner(), asked);
    TokenStats { log_probs, argmax: aside.argmax.expect("it was asked for") }
}

fn pass(hidden_nd: Tensor<2>, head_vd: Tensor<2>, targets_n: Tensor<1, Int>, asked: Asked) -> (Tensor<1>, Aside) {
    #[cfg(feature = "cpu")]
    if super::fused(&hidden_nd) {
        return super::flex::token_pass(hidden_nd, cast_to(head_vd, DType::F32), targets_n, asked);
    }
    let rows = chunked::rows(head_vd.dims()[0]);
    chunked::token_pass(hidden_nd, head_vd, targets_n, asked, rows)
}

/// Per target, the logarithm of the sum of the exponentials of all logits, from its log-probability.
fn normalizers(
    log_probs_n: Tensor<1>,
    hidden_nd: Tensor<2>,
    head_vd: Tensor<2>,
    targets_n: Tensor<1, Int>,
) -> Tensor<1> {
    // log p(t) = z_t - log Σ exp z, and z_t is one row of the head: no logit but the target's is needed.
    let n = hidden_nd.dims()[0];
    let rows_nd = to_f32(head_vd.select(0, targets_n));
    (to_f32(hidden_nd) * rows_nd).sum_dim(1).reshape([n]) - log_probs_n
}

/// The mean of all logits at each position. The mean of products is the product with the mean.
fn mean_logits(hidden_nd: Tensor<2>, head_vd: Tensor<2>) -> Tensor<1> {
    let n = hidden_nd.dims()[0];
    let mean_1d = to_f32(head_vd).mean_dim(0);
    (to_f32(hidden_nd) * mean_1d).sum_dim(1).reshape([n])
}

/// `x` without autodiff.
fn plain<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    match x.device().is_autodiff() {
        true => x.inner(),
        false => x,
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests;
