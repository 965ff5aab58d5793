//! Kahneman–Tversky optimisation: answers that are desirable or not, one at a time.

#[cfg(all(test, feature = "cpu"))]
mod tests;

use super::host::{Answers, MARGINS, host};
use super::{Compared, Difference, Inputs, Loss, Metric, Objective, State, StepTotals, TokenLogProbs, Wants};
use crate::example::Unpaired;
use crate::settings::Kind;
use burn::tensor::Tensor;
use burn::tensor::activation::sigmoid;

crate::component! {
    /// Mean over the step's answers of `w·(1 − σ(±β·(a − KL)))`, `+` and the desirable weight for a desirable answer, `−`
    /// and the other weight for an undesirable one; `a` is the policy's log-probability of the answer less the reference's.
    ///
    /// `KL` is what the policy drifted from the reference in general: the mean of the same difference over the
    /// micro-batch's questions, each with the answer of another, at least 0 and without gradient. It belongs to a
    /// micro-batch, so that the loss of several small ones is not that of one large one.
    ///
    /// Logged: `rewards/{chosen,rejected}` (`β·a`) and their difference `rewards/margins`, `logps/*`, `logits/*`, `kl`
    /// (not times β) and `entropy`.
    ///
    /// # Source
    /// Ethayarajh et al. 2024, eq. 7; checked against TRL 1.16, whose weights are 1. turbo-alignment's desirable weight is
    /// 1.33. Unlike turbo-alignment's, the estimate passes no gradient.
    pub struct Kto, KtoBuilder {
        /// Strength of the pull towards the reference.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
        /// Weight of desirable answers.
        pub desirable_weight: f64 = 1.0 => Kind::number().at_least(0.0),
        /// Weight of undesirable answers.
        pub undesirable_weight: f64 = 1.0 => Kind::number().at_least(0.0),
    }
}

impl Objective for Kto {
    type Example = Unpaired;
    type Signal = TokenLogProbs;
    type Reference = Compared;

    fn wants(&self) -> Wants {
        Wants { mean_logits: true, entropies: true, ..Wants::default() }
    }

    fn compares_mismatched(&self) -> bool {
        true
    }

    fn differences(&self) -> &'static [Difference] {
        MARGINS
    }

    fn loss(&self, inputs: Inputs<'_, TokenLogProbs>, step: &StepTotals, _state: &mut State) -> Loss {
        let answers = Answers::of(&inputs);
        // Where no mismatched row could be had, nothing is known of the drift.
        let kl = match &inputs.mismatched {
            Some((policy, reference)) => (policy.sums() - reference.sums()).mean().clamp_min(0.0).detach(),
            None => Tensor::zeros([1], &answers.ratios.device()),
        };
        let signs = answers.choose(self.beta, -self.beta);
        // 1 − σ(x) is σ(−x), which keeps its digits where it is small.
        let losses = sigmoid((kl.clone() - answers.ratios.clone()) * signs);
        let weights = answers.choose(self.desirable_weight, self.undesirable_weight);
        let value = (losses * weights).sum() / step.examples.max(1) as f64;
        let mut metrics = answers.metrics(&inputs.policy, self.beta);
        let ([kl], rows) = (host([&kl]), answers.desirable.len() as f64);
        metrics.push(Metric { name: "kl".into(), sum: kl[0] * rows, weight: rows });
        Loss::new(value, rows, metrics)
    }
}
