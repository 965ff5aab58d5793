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

/// Per target, the logarithm of the sum of the exponentials of all logits, from its log-probability; differentiable.
///
/// # Shapes
/// As [`token_log_probs`], `log_probs_n` being what that returned.
pub fn normalizers(
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

/// The mean of all logits at each position; differentiable. The mean of products is the product with the mean.
///
/// # Shapes
/// `hidden_nd`, `head_vd` to `[n]`, f32.
pub fn mean_logits(hidden_nd: Tensor<2>, head_vd: Tensor<2>) -> Tensor<1> {
    let n = hidden_nd.dims()[0];
    let mean_1d = to_f32(head_vd).mean_dim(0);
    (to_f32(hidden_nd) * mean_1d).sum_dim(1).reshape([n])
}

/// What a model expected at each position as a whole, without gradients.
#[derive(Clone, Debug)]
pub struct Spread {
    /// Entropy in nats, `[n]`.
    pub entropies: Tensor<1>,
    /// Logarithm of the sum of the squared probabilities, `[n]`.
    pub collisions: Tensor<1>,
}

/// Positions whose logits are held at once.
const CHUNK: usize = 256;

/// Entropy and collision probability at each position, a few positions at a time.
///
/// # Shapes
/// As [`mean_logits`].
pub fn spread(hidden_nd: Tensor<2>, head_vd: Tensor<2>) -> Spread {
    let (hidden_nd, head_vd) = (hidden_nd.inner(), head_vd.inner());
    let n = hidden_nd.dims()[0];
    let (mut entropies, mut collisions) = (Vec::new(), Vec::new());
    for start in (0..n).step_by(CHUNK) {
        let length = CHUNK.min(n - start);
        let logs = log_probs(hidden_nd.clone().narrow(0, start, length), head_vd.clone());
        let p = logs.clone().exp();
        entropies.push((p.clone() * logs).sum_dim(1).neg().reshape([length]));
        collisions.push((p.clone() * p).sum_dim(1).log().reshape([length]));
    }
    if n == 0 {
        let none = Tensor::zeros([0], &hidden_nd.device());
        return Spread { entropies: none.clone(), collisions: none };
    }
    Spread { entropies: Tensor::cat(entropies, 0), collisions: Tensor::cat(collisions, 0) }
}

/// Logits at each position, f32; differentiable.
///
/// # Shapes
/// `hidden_nd`, `head_vd` to `[n, v]`.
pub fn logits(hidden_nd: Tensor<2>, head_vd: Tensor<2>) -> Tensor<2> {
    to_f32(super::linear::linear(hidden_nd.clone(), cast_to(head_vd, hidden_nd.dtype()), None))
}

fn log_probs(hidden_nd: Tensor<2>, head_vd: Tensor<2>) -> Tensor<2> {
    let head_vd = cast_to(head_vd, hidden_nd.dtype());
    log_softmax(to_f32(hidden_nd.matmul(head_vd.transpose())), 1)
}
