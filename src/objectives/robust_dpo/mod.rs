//! Direct preference optimisation that is unbiased under noisy judgements.

use super::{Compared, PairLoss, State, Terms, logistic, pair_component};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::Tensor;

pair_component! {
    /// `[−(1−ε)·log σ(β·h) + ε·log σ(−β·h)] / (1 − 2ε)`.
    ///
    /// # Source
    /// Chowdhury, Kini and Natarajan 2024, eq. 12; TRL's `robust`.
    pub struct RobustDpo, RobustDpoBuilder {
        /// How dearly a distance from the reference is paid.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
        /// ε: the share of pairs that are judged the wrong way round.
        pub label_smoothing: f64 = 0.0 => Kind::number().at_least(0.0).below(0.5),
    } Pairs, Compared, scores
}

impl PairLoss for RobustDpo {
    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let x = terms.h() * self.beta;
        let epsilon = self.label_smoothing;
        (logistic(x.clone()) * (1.0 - epsilon) - logistic(x.neg()) * epsilon) * (1.0 / (1.0 - 2.0 * epsilon))
    }

    fn reward_scale(&self) -> Option<f64> {
        Some(self.beta)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::pair_testing::{close, held_to, logistic, mean, of, pair};
    use super::*;

    #[test]
    fn value_gradient_and_extremes() {
        let noisy = RobustDpo { label_smoothing: 0.25, ..RobustDpo::default() };
        held_to(&RobustDpo::default(), |pairs| mean(pairs, |p| logistic(0.1 * p.h())));
        held_to(&noisy, |pairs| mean(pairs, |p| (0.75 * logistic(0.1 * p.h()) - 0.25 * logistic(-0.1 * p.h())) / 0.5));
        // σ(0.1·20) = 0.880797: 1.5·0.126928 − 0.5·2.126928 = −0.873072.
        close(of(&noisy, pair(0.0, -20.0, 0.0, 0.0)), -0.873_072, 1e-6, "twenty nats apart");
    }
}
