//! Anchored preference optimisation for answers that are better than the model's own.

use super::{Compared, PairLoss, State, Terms, pair_component};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::{Tensor, activation};

pair_component! {
    /// `1 − σ(β·a) + σ(β·b)`: the chosen answer becomes likelier than under the reference, the rejected one less likely.
    ///
    /// # Source
    /// D'Oosterlinck et al. 2024, eq. 7; TRL's and turbo-alignment's `apo_zero`.
    pub struct ApoZero, ApoZeroBuilder {
        /// How dearly a distance from the reference is paid.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
    } Pairs, Compared, sums
}

impl PairLoss for ApoZero {
    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let ratios = terms.ratios();
        // 1 − σ(x) as σ(−x), which keeps its digits where σ(x) is nearly 1.
        activation::sigmoid(ratios.chosen * -self.beta) + activation::sigmoid(ratios.rejected * self.beta)
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
        held_to(&ApoZero::default(), |pairs| mean(pairs, |p| 1.0 - sigmoid(0.1 * p.a()) + sigmoid(0.1 * p.b())));
        // a = 10, b = −10: 2·σ(−1).
        close(of(&ApoZero::default(), pair(-1.0, -11.0, -11.0, -1.0)), 0.537_882_84, 1e-6, "ten nats each");
    }
}
