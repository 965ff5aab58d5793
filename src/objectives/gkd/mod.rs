//! Distillation: a student learns what a teacher expects at every token of an answer.

#[cfg(all(test, feature = "cpu"))]
mod tests;

use super::{Distributions, Inputs, Loss, Metric, Objective, State, StepTotals, Taught};
use crate::example::Supervised;
use crate::nn::{Divergence, divergence};
use crate::settings::Kind;

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

impl Objective for Gkd {
    type Example = Supervised;
    type Signal = Distributions;
    type Reference = Taught;

    fn loss(&self, inputs: Inputs<'_, Distributions>, step: &StepTotals, _state: &mut State) -> Loss {
        let teacher = inputs.reference.expect("the objective compares with a reference").predictor;
        let tokens = inputs.policy.per_row.iter().sum::<usize>();
        let rule = Divergence { beta: self.beta, temperature: self.temperature };
        let found = divergence(inputs.policy.predictor, teacher, rule);
        let value = found.value / step.supervised_tokens().max(1) as f64;
        if tokens == 0 {
            return Loss::new(value, 0.0, Vec::new());
        }
        let mean = |name: &'static str, sum: f64| Metric { name: name.into(), sum, weight: tokens as f64 };
        let metrics = vec![mean("kl", found.relative_entropy), mean("token_agreement", found.agreeing as f64)];
        Loss::new(value, tokens as f64, metrics)
    }
}
