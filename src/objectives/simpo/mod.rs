//! Simple preference optimisation: mean log-probabilities as rewards, without a reference; with AlphaPO's reward.

use super::{Alone, Host, Metric, PairLoss, Sides, State, Terms, pair_component, smoothed};
use crate::example::Pairs;
use crate::settings::{Kind, SettingError};
use burn::tensor::Tensor;

/// The largest exponent of AlphaPO's reward: e⁸⁰ is a number in f32.
const MAX_EXPONENT: f64 = 80.0;

pair_component! {
    /// `−log σ(β·(r_w − r_l) − γ)`, `r` the mean log-probability of an answer's tokens.
    ///
    /// With `alpha` (AlphaPO) `r = (1 − p^(−α))/α`, `p` the exponential of that mean.
    ///
    /// # Source
    /// Meng, Xia and Chen 2024, eq. 6; Gupta et al. 2025 (AlphaPO); `simpo` and `alphapo` of TRL's `CPOTrainer`, with
    /// `cpo_alpha` and `label_smoothing`. turbo-alignment has γ inside of β (`scaled_gamma`).
    pub struct Simpo, SimpoBuilder {
        /// Scale of the rewards.
        pub beta: f64 = 2.5 => Kind::number().above(0.0),
        /// γ: by how much the chosen answer's reward is to exceed the other's.
        pub gamma: f64 = 1.4 => Kind::number(),
        /// Whether β scales γ too.
        pub scaled_gamma: bool = false => Kind::bool(),
        /// ε: the share of pairs that are taken to be judged the wrong way round.
        pub label_smoothing: f64 = 0.0 => Kind::number().at_least(0.0).below(0.5),
        /// α of AlphaPO's reward; 0 is SimPO.
        pub alpha: f64 = 0.0 => Kind::number(),
        /// Weight of the likelihood of the chosen answers, a mean over their tokens (TRL's default is 1).
        pub cpo_alpha: f64 = 0.0 => Kind::number().at_least(0.0),
    } Pairs, Alone, none
}

impl PairLoss for Simpo {
    fn rules(&self) -> Result<(), SettingError> {
        match self.alpha != 0.0 && self.alpha.abs() < 1e-4 {
            false => Ok(()),
            true => Err(SettingError::rule(format!(
                "`alpha` is {}, where 1 − p^(−α) keeps no digits; set 0, which is its limit",
                self.alpha
            ))),
        }
    }

    fn with_reference(&self) -> bool {
        false
    }

    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let gamma = if self.scaled_gamma { self.beta * self.gamma } else { self.gamma };
        smoothed(self.rewarded(terms).difference() * self.beta - gamma, self.label_smoothing)
    }

    fn share(&self, terms: &Terms<'_>, state: &mut State) -> Tensor<1> {
        let share = terms.over_pairs(self.per_pair(terms, state));
        if self.cpo_alpha == 0.0 { share } else { share + terms.chosen_nll() * self.cpo_alpha }
    }

    fn reward_scale(&self) -> Option<f64> {
        Some(self.beta)
    }

    fn averages(&self) -> bool {
        true
    }

    fn rewarded(&self, terms: &Terms<'_>) -> Sides<Tensor<1>> {
        let means = terms.means();
        if self.alpha == 0.0 {
            return means;
        }
        means.map(|mean| ((mean * -self.alpha).clamp_max(MAX_EXPONENT).exp().neg() + 1.0) * (1.0 / self.alpha))
    }

    fn observed(&self, terms: &Terms<'_>) -> Option<Tensor<1>> {
        (self.cpo_alpha != 0.0).then(|| terms.chosen_sums())
    }

    /// `nll_loss`, where it is minimised.
    fn metrics(&self, host: &Host<'_>) -> Vec<Metric> {
        if self.cpo_alpha == 0.0 { Vec::new() } else { vec![host.nll()] }
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::pair_testing::{Pair, close, held_to, logistic, mean, of, pair};
    use super::*;

    fn apart(p: &Pair) -> f64 {
        p.pw / p.nw as f64 - p.pl / p.nl as f64
    }

    #[test]
    fn value_gradient_and_extremes() {
        held_to(&Simpo::default(), |pairs| mean(pairs, |p| logistic(2.5 * apart(p) - 1.4)));
        let scaled = Simpo { scaled_gamma: true, beta: 0.5, ..Simpo::default() };
        held_to(&scaled, |pairs| mean(pairs, |p| logistic(0.5 * (apart(p) - 1.4))));
        // 2.5·1 − 1.4 = 1.1.
        close(of(&Simpo::default(), pair(-1.0, -2.0, 0.0, 0.0)), 0.287_335, 1e-5, "one nat apart");
    }

    #[test]
    fn with_likelihood_and_alpha_po_s_reward() {
        let nll = Simpo { cpo_alpha: 0.5, label_smoothing: 0.25, ..Simpo::default() };
        held_to(&nll, |pairs| {
            let tokens: f64 = pairs.iter().map(|p| p.nw as f64).sum();
            let x = |p: &Pair| 2.5 * apart(p) - 1.4;
            mean(pairs, |p| 0.75 * logistic(x(p)) + 0.25 * logistic(-x(p)))
                - 0.5 * pairs.iter().map(|p| p.pw).sum::<f64>() / tokens
        });
        for alpha in [0.25, -0.5] {
            let r = |sum: f64, n: usize| (1.0 - (-alpha * sum / n as f64).exp()) / alpha;
            let objective = Simpo { alpha, gamma: 0.1, ..Simpo::default() };
            held_to(&objective, |pairs| mean(pairs, |p| logistic(2.5 * (r(p.pw, p.nw) - r(p.pl, p.nl)) - 0.1)));
        }
        let error = Simpo { alpha: 1e-6, ..Simpo::default() }.check_settings().unwrap_err();
        assert!(error.to_string().contains("set 0"), "{error}");
    }
}
