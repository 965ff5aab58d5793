//! Direct preference optimisation that does not let the chosen answer become less likely.

use super::{Compared, PairLoss, State, Terms, logistic, pair_component};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::{Tensor, activation};

pair_component! {
    /// `−log σ(β·(h − λ·max(0, ρ_w − π_w)))`.
    ///
    /// # Source
    /// Pal et al. 2024 (Smaug), eq. 3, whose λ is 50.
    pub struct Dpop, DpopBuilder {
        /// How dearly a distance from the reference is paid.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
        /// λ: the price of a chosen answer that is less likely than under the reference.
        pub lam: f64 = 0.1 => Kind::number().at_least(0.0),
    } Pairs, Compared, sums
}

impl PairLoss for Dpop {
    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let ratios = terms.ratios();
        let lost = activation::relu(ratios.chosen.clone().neg());
        logistic((ratios.difference() - lost * self.lam) * self.beta)
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
        held_to(&Dpop::default(), |pairs| mean(pairs, |p| logistic(0.1 * (p.h() - 0.1 * (-p.a()).max(0.0)))));
        let steep = Dpop { lam: 50.0, ..Dpop::default() };
        held_to(&steep, |pairs| mean(pairs, |p| logistic(0.1 * (p.h() - 50.0 * (-p.a()).max(0.0)))));
        // a = −1, b = −3, h = 2: 0.1·(2 − 50) = −4.8.
        close(of(&steep, pair(-2.0, -4.0, -1.0, -1.0)), 4.808_196_7, 1e-6, "one nat lost");
    }
}
