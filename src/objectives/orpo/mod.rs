//! Odds ratio preference optimisation: likelihood and preference in one stage, without a reference.

use super::{
    Alone, Host, Metric, PairLoss, Sides, State, Terms, log_odds, log_odds_of, logistic, logistic_of, pair_component,
};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::Tensor;

pair_component! {
    /// `−c·π̄_w + λ·(−log σ(β·LO))`, `LO` the difference of the answers' log-odds `x − log(1 − eˣ)`, all of means over the
    /// answers' tokens.
    ///
    /// λ is `beta` of TRL's `ORPOConfig` and of turbo-alignment. The logged rewards are λ·π̄, as theirs.
    ///
    /// # Source
    /// Hong et al. 2024, eq. 4 to 7; TRL's `ORPOTrainer` with `trl_nll`.
    pub struct Orpo, OrpoBuilder {
        /// β: a factor on the log-odds inside of the logarithm.
        pub beta: f64 = 1.0 => Kind::number().above(0.0),
        /// λ: the weight of the preference.
        pub lam: f64 = 0.1 => Kind::number().above(0.0),
        /// c: the weight of the chosen answers' likelihood.
        pub nll_weight: f64 = 1.0 => Kind::number().at_least(0.0),
        /// The likelihood as TRL takes it: the mean over the tokens of prompts and chosen answers of a micro-batch.
        pub trl_nll: bool = false => Kind::bool(),
    } Pairs, Alone, none
}

impl PairLoss for Orpo {
    fn with_reference(&self) -> bool {
        false
    }

    fn reads_prompt(&self) -> bool {
        self.trl_nll
    }

    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let means = terms.means();
        let odds = means.clone().map(log_odds).difference();
        let preference = logistic(odds * self.beta) * self.lam;
        if self.trl_nll { preference } else { preference - means.chosen * self.nll_weight }
    }

    fn share(&self, terms: &Terms<'_>, state: &mut State) -> Tensor<1> {
        let share = terms.over_pairs(self.per_pair(terms, state));
        if self.trl_nll { share + terms.by_pairs(terms.chosen_rows_nll()) * self.nll_weight } else { share }
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

    /// Both sides' means, then the likelihood over the whole rows where that is minimised.
    fn observed(&self, terms: &Terms<'_>) -> Option<Tensor<1>> {
        let means = terms.means();
        let mut parts = vec![means.chosen.inner(), means.rejected.inner()];
        parts.extend(self.trl_nll.then(|| terms.chosen_rows_nll().inner()));
        Some(Tensor::cat(parts, 0))
    }

    /// turbo-alignment's `orpo/*`, and the same under TRL's names.
    fn metrics(&self, host: &Host<'_>) -> Vec<Metric> {
        let pairs = host.lengths.chosen.len();
        let (chosen, rest) = host.observed.split_at(pairs);
        let rejected = &rest[..pairs];
        let nll = match rest.get(pairs) {
            Some(nll) => nll * pairs as f64,
            None => -chosen.iter().sum::<f64>(),
        };
        let odds: Vec<f64> = chosen.iter().zip(rejected).map(|(&w, &l)| log_odds_of(w) - log_odds_of(l)).collect();
        let (sum, ratio) = (odds.iter().sum::<f64>(), odds.iter().map(|x| logistic_of(self.beta * x)).sum::<f64>());
        let metric = |name: &'static str, sum| Metric { name: name.into(), sum, weight: pairs as f64 };
        vec![
            metric("orpo/nll_loss", nll),
            metric("orpo/or_loss", self.lam * ratio),
            metric("orpo/ratio", ratio),
            metric("orpo/log_odds", sum),
            metric("nll_loss", nll),
            metric("log_odds_ratio", -ratio),
            metric("log_odds_chosen", sum),
        ]
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::pair_testing::{
        Pair, close, held_to, log_probs, logistic, mean, metric, of, pair, totals, value,
    };
    use super::super::{Inputs, Objective};
    use super::*;
    use burn::tensor::Device;

    fn odds(x: f64) -> f64 {
        x - (-x.exp_m1()).ln()
    }

    fn difference(p: &Pair) -> f64 {
        odds(p.pw / p.nw as f64) - odds(p.pl / p.nl as f64)
    }

    #[test]
    fn value_gradient_and_extremes() {
        held_to(&Orpo::default(), |pairs| mean(pairs, |p| 0.1 * logistic(difference(p)) - p.pw / p.nw as f64));
        let weighted = Orpo { beta: 0.5, lam: 2.0, nll_weight: 0.25, ..Orpo::default() };
        held_to(&weighted, |pairs| mean(pairs, |p| 2.0 * logistic(0.5 * difference(p)) - 0.25 * p.pw / p.nw as f64));
        // Probabilities 1/2 and 1/5: odds 1 and 1/4, ratio 4: log 2 + 0.1·log(5/4).
        let quarter = pair(0.5_f64.ln(), 0.2_f64.ln(), 0.0, 0.0);
        close(of(&Orpo::default(), quarter), std::f64::consts::LN_2 + 0.022_314_36, 1e-6, "odds of 4");
    }

    #[test]
    fn trl_counts_the_prompt() {
        let objective = Orpo { trl_nll: true, ..Orpo::default() };
        assert!(objective.wants().prompt && !Orpo::default().wants().prompt);
        let pairs = [Pair { nw: 2, ..pair(-3.0, -2.0, 0.0, 0.0) }, pair(-1.0, -4.0, 0.0, 0.0)];
        let mut policy = log_probs(&pairs, false, &Device::flex()).0;
        // Rows of 2, 1, 3 and 0 tokens before the answer; those of the rejected answers do not count.
        let before = Tensor::from_floats([-1.0, -1.0, -100.0, -2.0, -3.0, -2.0], &Device::flex());
        policy.prompt = Some((before, vec![2, 1, 3, 0]));
        let inputs = Inputs { policy, reference: None, mismatched: None, facts: &[] };
        let loss = objective.loss(inputs, &totals(&pairs), &mut State::default());
        let nll = (2.0 + 3.0 + 7.0 + 1.0) / 8.0;
        close(value(&loss), nll + 0.1 * mean(&pairs, |p| logistic(difference(p))), 1e-6, "the loss");
        close(metric(&loss.metrics, "nll_loss"), nll, 1e-6, "nll_loss");
        close(metric(&loss.metrics, "log_odds_chosen"), mean(&pairs, difference), 1e-6, "log_odds_chosen");
        close(metric(&loss.metrics, "log_odds_ratio"), -mean(&pairs, |p| logistic(difference(p))), 1e-6, "ratio");
    }
}
