//! The loss that a search found: a blend of logistic and exponential.

use super::{Compared, PairLoss, State, Terms, logistic, pair_component};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::{Tensor, activation};

pair_component! {
    /// `(1 − σ(x/τ))·(−log σ(x)) + σ(x/τ)·e^(−x)`, `x = β·h`.
    ///
    /// # Source
    /// Lu et al. 2024 (DiscoPOP), eq. 5; TRL's `discopop`. The second term is taken as one exponential, which stays finite
    /// for τ up to 1.
    pub struct Discopop, DiscopopBuilder {
        /// How dearly a distance from the reference is paid.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
        /// τ: how sharply the one form gives way to the other.
        pub discopop_tau: f64 = 0.05 => Kind::number().above(0.0).at_most(1.0),
    } Pairs, Compared, scores
}

impl PairLoss for Discopop {
    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let x = terms.h() * self.beta;
        let sharp = x.clone() * (1.0 / self.discopop_tau);
        let exponential = (activation::log_sigmoid(sharp.clone()) - x.clone()).exp();
        logistic(x) * activation::sigmoid(sharp.neg()) + exponential
    }

    fn reward_scale(&self) -> Option<f64> {
        Some(self.beta)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::pair_testing::{close, held_to, logistic, mean, of, pair, sigmoid};
    use super::*;

    #[test]
    fn value_gradient_and_extremes() {
        let at = |x: f64, tau: f64| logistic(x) * (1.0 - sigmoid(x / tau)) + (-x).exp() * sigmoid(x / tau);
        held_to(&Discopop::default(), |pairs| mean(pairs, |p| at(0.1 * p.h(), 0.05)));
        let soft = Discopop { beta: 0.5, discopop_tau: 1.0, ..Discopop::default() };
        held_to(&soft, |pairs| mean(pairs, |p| at(0.5 * p.h(), 1.0)));
        // At 0: half of log 2 and half of 1.
        close(of(&soft, pair(-1.0, -1.0, -1.0, -1.0)), 0.846_573_6, 1e-6, "no difference");
    }
}
