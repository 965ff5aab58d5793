//! Contrastive preference optimisation: preferences and the likelihood of the chosen answers, without a reference.

use super::{BySetting, Host, Metric, PairLoss, Sides, State, Terms, pair_component, smoothed, square};
use crate::example::Pairs;
use crate::settings::{Kind, SettingError};
use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

pair_component! {
    /// `−(1−ε)·log σ(β·Δ) − ε·log σ(−β·Δ) − α·π_w`, `Δ = π_w − π_l`, or with `norm` the log-ratios' difference.
    ///
    /// # Source
    /// Xu et al. 2024, eq. 3 and 5; turbo-alignment's `cpo` (`norm` is its), TRL's `CPOTrainer` (`trl_nll`,
    /// `cpo_loss_type`).
    pub struct Cpo, CpoBuilder {
        /// How steep the preference is.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
        /// ε: the share of pairs that are taken to be judged the wrong way round.
        pub label_smoothing: f64 = 0.0 => Kind::number().at_least(0.0).below(0.5),
        /// Whether log-probabilities are compared with the reference's.
        pub norm: bool = false => Kind::bool(),
        /// α: the weight of the chosen answers' likelihood.
        pub cpo_alpha: f64 = 1.0 => Kind::number().at_least(0.0),
        /// The likelihood as TRL takes it: the mean over all chosen answers' tokens instead of each answer's sum.
        pub trl_nll: bool = false => Kind::bool(),
        /// The preference's form; `ipo` compares means over the answers' tokens.
        pub cpo_loss_type: CpoLoss = CpoLoss::Sigmoid => Kind::choice(&["sigmoid", "hinge", "ipo"]),
    } Pairs, BySetting, sums
}

/// The form of CPO's preference: TRL's `loss_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CpoLoss {
    /// `−log σ(β·Δ)`.
    Sigmoid,
    /// `max(0, 1 − β·Δ)`.
    Hinge,
    /// `(Δ̄ − 1/(2β))²`, of means over the answers' tokens.
    Ipo,
}

impl Cpo {
    fn compared(&self, terms: &Terms<'_>) -> Sides<Tensor<1>> {
        let whole = if self.norm { terms.ratios() } else { terms.policy() };
        match self.cpo_loss_type {
            CpoLoss::Ipo => terms.per_token(whole),
            CpoLoss::Sigmoid | CpoLoss::Hinge => whole,
        }
    }
}

impl PairLoss for Cpo {
    fn rules(&self) -> Result<(), SettingError> {
        let refuse = |message: &str| Err(SettingError::rule(message));
        match self.cpo_loss_type {
            CpoLoss::Hinge | CpoLoss::Ipo if self.label_smoothing > 0.0 => {
                refuse("`label_smoothing` acts on the `cpo_loss_type` sigmoid only; leave it out")
            }
            CpoLoss::Ipo if self.average_log_prob => {
                refuse("`cpo_loss_type` ipo takes means itself; leave `average_log_prob` out")
            }
            _ => Ok(()),
        }
    }

    fn with_reference(&self) -> bool {
        self.norm
    }

    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let difference = self.compared(terms).difference();
        let preference = match self.cpo_loss_type {
            CpoLoss::Sigmoid => smoothed(difference * self.beta, self.label_smoothing),
            CpoLoss::Hinge => activation::relu(difference * -self.beta + 1.0),
            CpoLoss::Ipo => square(difference - 0.5 / self.beta),
        };
        if self.trl_nll { preference } else { preference - terms.policy().chosen * self.cpo_alpha }
    }

    fn share(&self, terms: &Terms<'_>, state: &mut State) -> Tensor<1> {
        let share = terms.over_pairs(self.per_pair(terms, state));
        if self.trl_nll { share + terms.chosen_nll() * self.cpo_alpha } else { share }
    }

    fn reward_scale(&self) -> Option<f64> {
        Some(self.beta)
    }

    fn averages(&self) -> bool {
        self.cpo_loss_type == CpoLoss::Ipo
    }

    fn rewarded(&self, terms: &Terms<'_>) -> Sides<Tensor<1>> {
        self.compared(terms)
    }

    fn observed(&self, terms: &Terms<'_>) -> Option<Tensor<1>> {
        Some(terms.chosen_sums())
    }

    /// `nll_loss`, per token of the chosen answers.
    fn metrics(&self, host: &Host<'_>) -> Vec<Metric> {
        vec![host.nll()]
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::pair_testing::{close, held_to, logistic, mean, of, pair};
    use super::*;

    #[test]
    fn value_gradient_and_extremes() {
        held_to(&Cpo::default(), |pairs| mean(pairs, |p| logistic(0.1 * (p.pw - p.pl)) - p.pw));
        let compared = Cpo { norm: true, cpo_alpha: 0.5, ..Cpo::default() };
        held_to(&compared, |pairs| mean(pairs, |p| logistic(0.1 * p.h()) - 0.5 * p.pw));
        let smoothed = Cpo { label_smoothing: 0.25, trl_nll: true, ..Cpo::default() };
        held_to(&smoothed, |pairs| {
            let nll = -pairs.iter().map(|p| p.pw).sum::<f64>() / pairs.iter().map(|p| p.nw as f64).sum::<f64>();
            let x = |p: &super::super::pair_testing::Pair| 0.1 * (p.pw - p.pl);
            mean(pairs, |p| 0.75 * logistic(x(p)) + 0.25 * logistic(-x(p))) + nll
        });
        // −log σ(0.1·2) + 1.
        close(of(&Cpo::default(), pair(-1.0, -3.0, 0.0, 0.0)), 1.598_138_9, 1e-6, "two nats apart");
    }

    #[test]
    fn other_forms_of_the_preference() {
        let hinge = Cpo { cpo_loss_type: CpoLoss::Hinge, cpo_alpha: 0.0, ..Cpo::default() };
        held_to(&hinge, |pairs| mean(pairs, |p| (1.0 - 0.1 * (p.pw - p.pl)).max(0.0)));
        let ipo = Cpo { cpo_loss_type: CpoLoss::Ipo, cpo_alpha: 0.0, ..Cpo::default() };
        held_to(&ipo, |pairs| mean(pairs, |p| (p.pw / p.nw as f64 - p.pl / p.nl as f64 - 5.0).powi(2)));
        let error = Cpo { label_smoothing: 0.1, ..ipo }.check_settings().unwrap_err();
        assert!(error.to_string().contains("sigmoid only"), "{error}");
    }
}
