//! Calibrated direct preference optimisation: rewards of a fixed size.

use super::{Compared, PairLoss, State, Terms, logistic, pair_component, square};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::Tensor;

pair_component! {
    /// `−log σ(h) + (a − 1/(2β))² + (b + 1/(2β))²`.
    ///
    /// # Source
    /// Xiao et al. 2024 (Cal-DPO), eq. 10.
    pub struct CalDpo, CalDpoBuilder {
        /// 1/(2β) is the log-ratio that answers are calibrated to.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
    } Pairs, Compared, sums
}

impl PairLoss for CalDpo {
    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let ratios = terms.ratios();
        let target = 0.5 / self.beta;
        let calibration = square(ratios.chosen.clone() - target) + square(ratios.rejected.clone() + target);
        logistic(ratios.difference()) + calibration
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
        let at = |p: &super::super::pair_testing::Pair, target: f64| {
            logistic(p.h()) + (p.a() - target).powi(2) + (p.b() + target).powi(2)
        };
        held_to(&CalDpo::default(), |pairs| mean(pairs, |p| at(p, 5.0)));
        let half = CalDpo { beta: 0.5, ..CalDpo::default() };
        held_to(&half, |pairs| mean(pairs, |p| at(p, 1.0)));
        // a = 1, b = −1: log(1 + e⁻²) alone.
        close(of(&half, pair(-1.0, -2.0, -2.0, -1.0)), 0.126_928_01, 1e-6, "calibrated");
    }
}
