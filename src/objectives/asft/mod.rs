//! Aligned supervised fine-tuning: each answer's odds by themselves, without a reference.

use super::{
    Alone, Host, Metric, PairLoss, Sides, State, Terms, log_odds, log_odds_of, logistic, logistic_of, pair_component,
};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::Tensor;

pair_component! {
    /// `−c·π̄_w + λ·(−log σ(β·o_w) − log σ(−β·o_l))`, `o` the log-odds `x − log(1 − eˣ)` of the mean over an answer's tokens.
    ///
    /// λ is `beta` of turbo-alignment; the logged rewards are λ·π̄, as there.
    ///
    /// # Source
    /// Wang et al. 2024 (ASFT), eq. 10; turbo-alignment's `asft`.
    pub struct Asft, AsftBuilder {
        /// β: a factor on the log-odds inside of the logarithms.
        pub beta: f64 = 1.0 => Kind::number().above(0.0),
        /// λ: the weight of the preference.
        pub lam: f64 = 1.0 => Kind::number().above(0.0),
        /// c: the weight of the chosen answers' likelihood.
        pub nll_weight: f64 = 1.0 => Kind::number().at_least(0.0),
    } Pairs, Alone, none
}

impl PairLoss for Asft {
    fn with_reference(&self) -> bool {
        false
    }

    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let means = terms.means();
        let odds = means.clone().map(log_odds);
        let preference = logistic(odds.chosen * self.beta) + logistic(odds.rejected * -self.beta);
        preference * self.lam - means.chosen * self.nll_weight
    }

    fn reward_scale(&self) -> Option<f64> {
        Some(self.lam)
    }

    fn averages(&self) -> bool {
        true
    }

    fn rewarded(&self, terms: &Terms<'_>) -> Sides<Tensor<1>> {
        terms.means()
    }

    fn observed(&self, terms: &Terms<'_>) -> Option<Tensor<1>> {
        let means = terms.means();
        Some(Tensor::cat(vec![means.chosen.inner(), means.rejected.inner()], 0))
    }

    /// turbo-alignment's `asft/*`.
    fn metrics(&self, host: &Host<'_>) -> Vec<Metric> {
        let pairs = host.lengths.chosen.len();
        let (chosen, rejected) = host.observed.split_at(pairs);
        let up: f64 = chosen.iter().map(|&x| logistic_of(self.beta * log_odds_of(x))).sum();
        let down: f64 = rejected.iter().map(|&x| logistic_of(-self.beta * log_odds_of(x))).sum();
        let metric = |name: &'static str, sum| Metric { name: name.into(), sum, weight: pairs as f64 };
        vec![
            metric("asft/nll_loss", -chosen.iter().sum::<f64>()),
            metric("asft/asft_loss", self.lam * (up + down)),
            metric("asft/chosen_logsig", up),
            metric("asft/rejected_logsig", down),
        ]
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::pair_testing::{Pair, close, held_to, logistic, mean, metric, of, pair, run, totals};
    use super::*;

    #[test]
    fn value_gradient_and_extremes() {
        let odds = |x: f64| x - (-x.exp_m1()).ln();
        let at = |p: &Pair, beta: f64| {
            logistic(beta * odds(p.pw / p.nw as f64)) + logistic(-beta * odds(p.pl / p.nl as f64))
        };
        held_to(&Asft::default(), |pairs| mean(pairs, |p| at(p, 1.0) - p.pw / p.nw as f64));
        let weighted = Asft { beta: 0.5, lam: 0.1, nll_weight: 2.0 };
        held_to(&weighted, |pairs| mean(pairs, |p| 0.1 * at(p, 0.5) - 2.0 * p.pw / p.nw as f64));
        // Probabilities 1/2 and 1/5: σ of the log-odds is the probability: log 2 + log 2 + log(5/4).
        let one = pair(0.5_f64.ln(), 0.2_f64.ln(), 0.0, 0.0);
        close(of(&Asft::default(), one), 1.609_437_9, 1e-6, "1/2 and 1/5");
        let metrics = run(&Asft::default(), &[one], &totals(&[one]), &mut State::default()).0.metrics;
        close(metric(&metrics, "asft/rejected_logsig"), 0.223_143_55, 1e-6, "log(5/4)");
        close(metric(&metrics, "asft/asft_loss"), 0.916_290_7, 1e-6, "log 2 + log(5/4)");
    }
}
