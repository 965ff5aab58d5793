//! Sequence likelihood calibration from preferences.

use super::{BySetting, PairLoss, State, Terms, pair_component};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::{Tensor, activation};

pair_component! {
    /// `max(0, δ − β·(π_w − π_l)) − λ·m`; with `norm`, of the log-ratios' difference `h`.
    ///
    /// `m` is the record's margin, 0 where it has none: it has no gradient and shifts the loss that is logged.
    ///
    /// # Source
    /// Zhao et al. 2023 (SLiC-HF) as turbo-alignment writes it.
    pub struct SlicHf, SlicHfBuilder {
        /// The slope.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
        /// δ: how far apart the answers are to be.
        pub delta: f64 = 1.0 => Kind::number(),
        /// λ: the weight of the record's margin.
        pub lam: f64 = 0.1 => Kind::number(),
        /// Whether log-probabilities are compared with the reference's.
        pub norm: bool = false => Kind::bool(),
    } Pairs, BySetting, sums
}

impl PairLoss for SlicHf {
    fn with_reference(&self) -> bool {
        self.norm
    }

    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let difference = if self.norm { terms.ratios() } else { terms.policy() }.difference();
        let margins: Vec<f32> =
            terms.facts.iter().map(|facts| (self.lam * facts.margin.unwrap_or(0.0)) as f32).collect();
        activation::relu(difference * -self.beta + self.delta) - terms.host(&margins)
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
        let compared = SlicHf { norm: true, beta: 0.5, delta: 2.0, lam: 1.0, ..SlicHf::default() };
        held_to(&SlicHf::default(), |pairs| mean(pairs, |p| (1.0 - 0.1 * (p.pw - p.pl)).max(0.0) - 0.1 * p.margin));
        held_to(&compared, |pairs| mean(pairs, |p| (2.0 - 0.5 * p.h()).max(0.0) - p.margin));
        close(of(&SlicHf::default(), pair(-1.0, -3.0, -9.0, -1.0)), 0.8, 1e-6, "two nats apart");
    }
}
