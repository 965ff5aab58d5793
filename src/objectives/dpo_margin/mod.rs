//! Direct preference optimisation with a margin of each pair's own.

use super::{Compared, PairLoss, State, Terms, logistic, pair_component};
use crate::example::{Margin, Pairs};
use crate::settings::Kind;
use burn::tensor::Tensor;

pair_component! {
    /// `−log σ(β·h − m)`, `m` the margin that the record gives.
    ///
    /// # Source
    /// turbo-alignment's `sigmoid_with_margin`, after the margin of Llama 2's reward models (Touvron et al. 2023, eq. 2).
    pub struct DpoMargin, DpoMarginBuilder {
        /// How dearly a distance from the reference is paid.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
    } Pairs<Margin>, Compared, scores
}

impl PairLoss for DpoMargin {
    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        // The data kind's type, or `PairObjective::needs_margins`, has made sure that every record has one.
        let margin = |fact: &crate::example::Facts| fact.margin.expect("pairs with margins") as f32;
        let margins: Vec<f32> = terms.facts.iter().map(margin).collect();
        logistic(terms.h() * self.beta - terms.host(&margins))
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
        let half = DpoMargin { beta: 0.5, ..DpoMargin::default() };
        held_to(&DpoMargin::default(), |pairs| mean(pairs, |p| logistic(0.1 * p.h() - p.margin)));
        held_to(&half, |pairs| mean(pairs, |p| logistic(0.5 * p.h() - p.margin)));
        // β·h = 0.5·4 = 2 is just the margin: log 2.
        let even = super::super::pair_testing::Pair { margin: 2.0, ..pair(-1.0, -3.0, -2.0, 0.0) };
        close(of(&half, even), std::f64::consts::LN_2, 1e-6, "at the margin");
    }
}
