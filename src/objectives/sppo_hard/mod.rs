//! Self-play preference optimisation with hard preferences.

use super::{Compared, PairLoss, State, Terms, pair_component, square};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::Tensor;

pair_component! {
    /// `(a − 1/(2β))² + (b + 1/(2β))²`.
    ///
    /// # Source
    /// Wu et al. 2024, eq. 4.7 with probabilities 1 and 0; TRL's `sppo_hard`.
    pub struct SppoHard, SppoHardBuilder {
        /// 1/(2β) is the log-ratio that answers are driven to.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
    } Pairs, Compared, sums
}

impl PairLoss for SppoHard {
    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let ratios = terms.ratios();
        let target = 0.5 / self.beta;
        square(ratios.chosen - target) + square(ratios.rejected + target)
    }

    fn reward_scale(&self) -> Option<f64> {
        Some(self.beta)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::pair_testing::{close, held_to, mean, of, pair};
    use super::*;

    #[test]
    fn value_gradient_and_extremes() {
        held_to(&SppoHard::default(), |pairs| mean(pairs, |p| (p.a() - 5.0).powi(2) + (p.b() + 5.0).powi(2)));
        // a = 2, b = −4: 9 + 1.
        close(of(&SppoHard::default(), pair(-1.0, -5.0, -3.0, -1.0)), 10.0, 1e-6, "9 + 1");
    }
}
