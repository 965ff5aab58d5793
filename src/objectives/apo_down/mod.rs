//! Anchored preference optimisation for answers that are worse than the model's own.

use super::{Compared, PairLoss, State, Terms, pair_component};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::{Tensor, activation};

pair_component! {
    /// `σ(β·a) + 1 − σ(β·h)`: both answers become less likely than under the reference, the rejected one more so.
    ///
    /// # Source
    /// D'Oosterlinck et al. 2024, eq. 8; TRL's and turbo-alignment's `apo_down`.
    pub struct ApoDown, ApoDownBuilder {
        /// How dearly a distance from the reference is paid.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
    } Pairs, Compared, sums
}

impl PairLoss for ApoDown {
    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let ratios = terms.ratios();
        activation::sigmoid(ratios.chosen.clone() * self.beta) + activation::sigmoid(ratios.difference() * -self.beta)
    }

    fn reward_scale(&self) -> Option<f64> {
        Some(self.beta)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::pair_testing::{close, held_to, mean, of, pair, sigmoid};
    use super::*;

    #[test]
    fn value_gradient_and_extremes() {
        held_to(&ApoDown::default(), |pairs| mean(pairs, |p| sigmoid(0.1 * p.a()) + 1.0 - sigmoid(0.1 * p.h())));
        // a = 0, h = 10: 1/2 + σ(−1).
        close(of(&ApoDown::default(), pair(-1.0, -11.0, -1.0, -1.0)), 0.768_941_42, 1e-6, "ten nats apart");
    }
}
