//! Anchored preference optimisation over single answers: KTO without its estimate of the drift.

use super::host::{Answers, MARGINS};
use super::{Compared, Difference, Inputs, Loss, Objective, State, StepTotals, TokenLogProbs, Wants};
use crate::example::Unpaired;
use crate::settings::Kind;
use burn::tensor::activation::sigmoid;

crate::component! {
    /// Mean over the step's answers of `w·(1 − σ(β·a))` for desirable and `w·σ(β·a)` for undesirable ones; `a` is the
    /// policy's log-probability of the answer less the reference's. For answers that are better than the model's own.
    ///
    /// Logged: `rewards/{chosen,rejected}` (`β·a`) and their difference `rewards/margins`, `logps/*`, `logits/*` and
    /// `entropy`. There is no `kl`: TRL logs a constant 0.
    ///
    /// # Source
    /// D'Oosterlinck et al. 2024, eq. 7 without pairs; checked against TRL 1.16.
    pub struct ApoZeroUnpaired, ApoZeroUnpairedBuilder {
        /// Strength of the pull towards the reference.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
        /// Weight of desirable answers.
        pub desirable_weight: f64 = 1.0 => Kind::number().at_least(0.0),
        /// Weight of undesirable answers.
        pub undesirable_weight: f64 = 1.0 => Kind::number().at_least(0.0),
    }
}

impl Objective for ApoZeroUnpaired {
    type Example = Unpaired;
    type Signal = TokenLogProbs;
    type Reference = Compared;

    fn wants(&self) -> Wants {
        Wants { mean_logits: true, entropies: true, ..Wants::default() }
    }

    fn differences(&self) -> &'static [Difference] {
        MARGINS
    }

    fn loss(&self, inputs: Inputs<'_, TokenLogProbs>, step: &StepTotals, _state: &mut State) -> Loss {
        let answers = Answers::of(&inputs);
        let losses = sigmoid(answers.ratios.clone() * answers.choose(-self.beta, self.beta));
        let weights = answers.choose(self.desirable_weight, self.undesirable_weight);
        let value = (losses * weights).sum() / step.examples.max(1) as f64;
        Loss::new(value, answers.desirable.len() as f64, answers.metrics(&inputs.policy, self.beta))
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::testing::{
        Logged, agrees, evaluate, finite, fixture, judged, logged, of_judged, of_two, setting,
    };
    use super::*;
    use crate::settings::audit;

    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    #[test]
    fn is_the_formula_and_so_is_its_gradient() {
        for (beta, w_d, w_u) in [(0.1, 1.0, 1.0), (0.5, 1.33, 0.5), (2.0, 0.0, 2.0)] {
            let objective = ApoZeroUnpaired { beta, desirable_weight: w_d, undesirable_weight: w_u };
            let plain =
                |x: &[f64]| (w_d * (1.0 - sigmoid(beta * (x[0] + 1.5))) + w_u * sigmoid(beta * (x[1] + 0.5))) / 4.0;
            for at in [[-1.0, -2.0], [-0.1, -0.2], [-3.0, -0.5]] {
                // What the policy drifted elsewhere plays no part.
                agrees(|logps| of_two(&objective, logps, 3.0), plain, &at);
            }
        }
    }

    #[test]
    fn hand_worked_values() {
        let (value, gradient) = evaluate(|logps| of_two(&ApoZeroUnpaired::default(), logps, 0.0), &[-1.5, -0.5]);
        assert!((value - 0.25).abs() < 1e-7);
        assert!((gradient[0] + 0.00625).abs() < 1e-8 && (gradient[1] - 0.00625).abs() < 1e-8);
    }

    #[test]
    fn stays_finite() {
        let objective = ApoZeroUnpaired { beta: 1.0, ..ApoZeroUnpaired::default() };
        for at in [[-1e4, 0.0], [0.0, -1e4], [-1e4, -1e4]] {
            finite(|logps| of_two(&objective, logps, 0.0), &at);
        }
        assert!(!objective.compares_mismatched());
    }

    #[test]
    fn the_numbers_of_trl() {
        audit::<ApoZeroUnpaired>().unwrap();
        let fixture = fixture("objectives_unpaired.json");
        let mut compared = 0;
        for policy in ["policy_plain", "policy_perturbed"] {
            let rows = judged(&fixture[policy]["sequences"]);
            let cases = fixture[policy]["kto"].as_array().unwrap().iter();
            for case in cases.filter(|case| case["settings"]["loss_type"] == "apo_zero_unpaired") {
                let objective = ApoZeroUnpaired {
                    beta: setting(case, "beta", 0.1),
                    desirable_weight: setting(case, "desirable_weight", 1.0),
                    undesirable_weight: setting(case, "undesirable_weight", 1.0),
                };
                let loss = of_judged(&objective, &rows, true, &mut State::default());
                let expected = Logged { step: case, but: &["kl"], rebatched: None };
                logged(&objective, &loss, &expected, &case["settings"].to_string());
                compared += 1;
            }
        }
        assert_eq!(compared, 6);
    }
}
