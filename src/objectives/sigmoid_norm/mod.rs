//! Direct preference optimisation of log-ratios per token.

use super::{Compared, PairLoss, State, Terms, logistic, pair_component};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::Tensor;

pair_component! {
    /// `−log σ(β·(a/n_w − b/n_l))`, `n` the answers' numbers of tokens. The logged rewards are not divided.
    ///
    /// # Source
    /// TRL's `sigmoid_norm`, the length-normalised loss of Tülu 3 (Lambert et al. 2024, eq. 6).
    pub struct SigmoidNorm, SigmoidNormBuilder {
        /// How dearly a distance from the reference is paid, per token.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
    } Pairs, Compared, averages
}

impl PairLoss for SigmoidNorm {
    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        logistic(terms.per_token(terms.scores()).difference() * self.beta)
    }

    fn reward_scale(&self) -> Option<f64> {
        Some(self.beta)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::pair_testing::{Pair, close, held_to, logistic, mean, of, pair};
    use super::*;

    #[test]
    fn value_gradient_and_extremes() {
        let steep = SigmoidNorm { beta: 5.0, ..SigmoidNorm::default() };
        held_to(&steep, |pairs| mean(pairs, |p| logistic(5.0 * (p.a() / p.nw as f64 - p.b() / p.nl as f64))));
        // 8/4 − 3/3 = 1 at β = 5.
        let uneven = Pair { nw: 4, nl: 3, ..pair(-1.0, -2.0, -9.0, -5.0) };
        close(of(&steep, uneven), 0.006_715_348, 1e-6, "one nat per token apart");
    }
}
