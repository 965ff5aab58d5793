//! Log-probabilities of target tokens without holding `[tokens, vocabulary]` where that can be avoided.

// n tokens, d model width, v vocabulary
use super::norm::{cast_to, to_f32};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor};

/// Log-probability of each target under `softmax(hidden · headᵀ)`, in nats; differentiable.
///
/// # Shapes
/// `hidden_nd`, `head_vd`, `targets_n` to `[n]`, f32.
pub fn token_log_probs(hidden_nd: Tensor<2>, head_vd: Tensor<2>, targets_n: Tensor<1, Int>) -> Tensor<1> {
    #[cfg(feature = "cpu")]
    if super::fused(&hidden_nd) {
        return super::flex::token_nll(hidden_nd, cast_to(head_vd, burn::tensor::DType::F32), targets_n).neg();
    }
    let n = hidden_nd.dims()[0];
    log_probs(hidden_nd, head_vd).gather(1, targets_n.reshape([n, 1])).reshape([n])
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
    let (hidden_nd, head_vd, targets_n) = (hidden_nd.inner(), head_vd.inner(), targets_n.inner());
    #[cfg(feature = "cpu")]
    if super::fused(&hidden_nd) {
        let head_vd = cast_to(head_vd, burn::tensor::DType::F32);
        return super::flex::token_stats(hidden_nd, head_vd, targets_n);
    }
    let n = hidden_nd.dims()[0];
    let all = log_probs(hidden_nd, head_vd);
    let argmax = all.clone().argmax(1).reshape([n]);
    TokenStats { log_probs: all.gather(1, targets_n.reshape([n, 1])).reshape([n]), argmax }
}

fn log_probs(hidden_nd: Tensor<2>, head_vd: Tensor<2>) -> Tensor<2> {
    let head_vd = cast_to(head_vd, hidden_nd.dtype());
    log_softmax(to_f32(hidden_nd.matmul(head_vd.transpose())), 1)
}
