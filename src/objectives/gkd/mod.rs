//! Distillation: a student learns what a teacher expects at every token of an answer.

#[cfg(all(test, feature = "cpu"))]
mod tests;

use super::{Distributions, Inputs, Loss, Metric, Objective, State, StepTotals, Taught};
use crate::example::Supervised;
use crate::settings::Kind;
use burn::tensor::Tensor;
use burn::tensor::activation::log_softmax;

// s supervised tokens, v vocabulary

crate::component! {
    /// Mean over the step's supervised tokens of the generalised Jensen–Shannon divergence between the teacher's
    /// distribution `t` and the student's `s`: `β·KL(t ‖ m) + (1 − β)·KL(s ‖ m)`, `m = β·t + (1 − β)·s`.
    ///
    /// `β` 0 is `KL(t ‖ s)` and 1 is `KL(s ‖ t)`, the limits of the divergence divided by `β·(1 − β)`. The teacher is the
    /// recipe's reference.
    ///
    /// Both logits are divided by `temperature` before anything else. The result is not multiplied by its square: gradients
    /// shrink with about `1/temperature²`, which the learning rate has to make good.
    ///
    /// Logged: `kl` (`KL(t ‖ s)` at that temperature, whatever β) and `token_agreement` (the share of tokens where both
    /// expect the same one most).
    ///
    /// # Source
    /// Agarwal et al. 2024 (GKD), eq. 1; checked against TRL 1.16, whose trainer never passes its temperature (0.9 by
    /// default) on to the loss. Answers are the records' own: sampling them from the student is online training.
    pub struct Gkd, GkdBuilder {
        /// From 0, which covers all the teacher expects, to 1, which keeps to what it expects most.
        pub beta: f64 = 0.5 => Kind::number().at_least(0.0).at_most(1.0),
        /// What both logits are divided by.
        pub temperature: f64 = 1.0 => Kind::number().above(0.0),
    }
}

impl Gkd {
    /// Sum over the tokens of the divergence, `[1]`. Both are log-probabilities.
    fn divergence(&self, student_sv: Tensor<2>, teacher_sv: Tensor<2>) -> Tensor<1> {
        if self.beta == 0.0 {
            return relative_entropy(teacher_sv, student_sv);
        }
        if self.beta == 1.0 {
            return relative_entropy(student_sv, teacher_sv);
        }
        let ours_sv = student_sv.clone() + (1.0 - self.beta).ln();
        let theirs_sv = teacher_sv.clone() + self.beta.ln();
        let top_sv = ours_sv.clone().detach().max_pair(theirs_sv.clone());
        let mixed_sv = ((ours_sv - top_sv.clone()).exp() + (theirs_sv - top_sv.clone()).exp()).log() + top_sv;
        relative_entropy(teacher_sv, mixed_sv.clone()) * self.beta
            + relative_entropy(student_sv, mixed_sv) * (1.0 - self.beta)
    }
}

impl Objective for Gkd {
    type Example = Supervised;
    type Signal = Distributions;
    type Reference = Taught;

    fn loss(&self, inputs: Inputs<'_, Distributions>, step: &StepTotals, _state: &mut State) -> Loss {
        let teacher_sv = inputs.reference.expect("the objective compares with a reference").logits.detach();
        let student_sv = inputs.policy.logits;
        let tokens = inputs.policy.per_row.iter().sum::<usize>();
        if tokens == 0 {
            return Loss::new(student_sv.sum(), 0.0, Vec::new());
        }
        let agreement = student_sv.clone().detach().argmax(1).equal(teacher_sv.clone().argmax(1)).int().sum();
        let student_sv = log_softmax(student_sv / self.temperature, 1);
        let teacher_sv = log_softmax(teacher_sv / self.temperature, 1);
        let kl = relative_entropy(teacher_sv.clone(), student_sv.clone().detach());
        let value = self.divergence(student_sv, teacher_sv) / step.supervised_tokens().max(1) as f64;
        let mean = |name: &'static str, sum: f64| Metric { name: name.into(), sum, weight: tokens as f64 };
        let metrics = vec![
            mean("kl", f64::from(kl.into_scalar::<f32>())),
            mean("token_agreement", agreement.into_scalar::<i64>() as f64),
        ];
        Loss::new(value, tokens as f64, metrics)
    }
}

/// `Σ p·(log p − log q)` over everything, of log-probabilities.
fn relative_entropy(p_sv: Tensor<2>, q_sv: Tensor<2>) -> Tensor<1> {
    (p_sv.clone().exp() * (p_sv - q_sv)).sum()
}
