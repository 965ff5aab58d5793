//! Reward distillation: the implicit reward learns the preference of a reward model.

use super::host::{by_class, column, host};
use super::{Compared, Inputs, Loss, Metric, Objective, State, StepTotals, TokenLogProbs, Wants};
use crate::example::{Pairs, Scores};
use crate::settings::Kind;
use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;

crate::component! {
    /// Mean over the step's pairs of `KL(Bernoulli(p₁) ‖ Bernoulli(p₂))`: `p₁ = σ(β·h)` is how likely the policy finds the
    /// chosen answer the better one, `h` the difference of the two answers' log-ratios to the reference, and
    /// `p₂ = σ(s_w − s_l)`, the softmax of the scores that a reward model gave them. With `forward_kl` the two are swapped.
    ///
    /// Logged: `rewards/{chosen,rejected}` (β times the log-ratio), `rewards/margins`, `rewards/accuracies` (chosen
    /// strictly above rejected), `logps/*`, `logps/ref_*`, `logits/*` and `entropy`.
    ///
    /// # Source
    /// turbo-alignment's `ddpo`.
    pub struct RewardDistillation, RewardDistillationBuilder {
        /// Strength of the pull towards the reference.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
        /// `KL(p₂ ‖ p₁)`: covers the reward model's preference rather than keeping to its likelier side.
        pub forward_kl: bool = false => Kind::bool(),
    }
}

impl Objective for RewardDistillation {
    type Example = Pairs<Scores>;
    type Signal = TokenLogProbs;
    type Reference = Compared;

    fn wants(&self) -> Wants {
        Wants { mean_logits: true, entropies: true, ..Wants::default() }
    }

    fn loss(&self, inputs: Inputs<'_, TokenLogProbs>, step: &StepTotals, _state: &mut State) -> Loss {
        let sums = inputs.policy.sums();
        let reference = inputs.reference.as_ref().expect("the objective compares with a reference").sums();
        let ratios = sums.clone() - reference.clone();
        let pairs = inputs.facts.len();
        let sides = ratios.clone().reshape([pairs, 2]);
        let logits = (sides.clone().narrow(1, 0, 1) - sides.narrow(1, 1, 1)).reshape([pairs]) * self.beta;
        let scores = inputs.facts.iter().map(|facts| facts.scores.expect("the records have scores"));
        let target = column(scores.map(|[chosen, rejected]| chosen - rejected), &logits.device());
        let losses = match self.forward_kl {
            true => bernoulli_kl(target, logits),
            false => bernoulli_kl(logits, target),
        };
        let [logps, reference, ratios] = host([&sums, &reference, &ratios]);
        let rewards: Vec<f64> = ratios.iter().map(|ratio| self.beta * ratio).collect();
        let metrics = metrics(&inputs.policy, &logps, &reference, &rewards);
        Loss::new(losses.sum() / step.examples.max(1) as f64, pairs as f64, metrics)
    }
}

/// Of two coins whose log-odds are `p` and `q`.
fn bernoulli_kl(p: Tensor<1>, q: Tensor<1>) -> Tensor<1> {
    let side = |p: Tensor<1>, q: Tensor<1>| {
        let p = log_sigmoid(p);
        p.clone().exp() * (p - log_sigmoid(q))
    };
    side(p.clone(), q.clone()) + side(-p, -q)
}

/// Rows are chosen, rejected, chosen, …
fn metrics(policy: &TokenLogProbs, logps: &[f64], reference: &[f64], rewards: &[f64]) -> Vec<Metric> {
    let chosen: Vec<bool> = (0..rewards.len()).map(|row| row % 2 == 0).collect();
    let mut metrics = by_class(policy, logps, rewards, &chosen);
    let pairs = || rewards.chunks_exact(2);
    metrics.extend([
        Metric::mean("rewards/margins", pairs().map(|pair| pair[0] - pair[1])),
        Metric::mean("rewards/accuracies", pairs().map(|pair| f64::from(pair[0] > pair[1]))),
        Metric::mean("logps/ref_chosen", reference.iter().step_by(2).copied()),
        Metric::mean("logps/ref_rejected", reference.iter().skip(1).step_by(2).copied()),
    ]);
    metrics
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::testing::{agrees, finite, metric};
    use super::*;
    use crate::example::Facts;
    use crate::settings::audit;

    /// Of the log-probabilities of one pair, half of a step: the chosen answer has two tokens, the rejected one has one.
    fn run(objective: &RewardDistillation, policy: Tensor<1>, reference: [f32; 3], scores: [f64; 2]) -> Loss {
        let of = |values: Tensor<1>| TokenLogProbs::new(values, vec![2, 1], vec![0; 3]);
        let reference = Tensor::from_data(reference.as_slice(), &policy.device());
        let inputs = Inputs {
            policy: of(policy),
            reference: Some(of(reference)),
            mismatched: None,
            facts: &[Facts { scores: Some(scores), ..Facts::default() }],
        };
        let step = StepTotals { examples: 2, tokens: vec![4, 2], training: true };
        objective.loss(inputs, &step, &mut State::default())
    }

    fn sigmoid(x: f64) -> f64 {
        1.0 / (1.0 + (-x).exp())
    }

    #[test]
    fn is_the_formula_and_so_is_its_gradient() {
        for (beta, forward_kl, scores) in [(0.1, false, [1.0, 0.2]), (0.5, true, [-1.0, 1.5]), (2.0, false, [3.0, 3.0])]
        {
            let objective = RewardDistillation { beta, forward_kl };
            let plain = |x: &[f64]| {
                let p = sigmoid(beta * (x[0] + x[1] + 2.5 - (x[2] + 1.0)));
                let q = 1.0 / (1.0 + f64::exp(scores[1] - scores[0]));
                let (p, q) = if forward_kl { (q, p) } else { (p, q) };
                0.5 * (p * (p / q).ln() + (1.0 - p) * ((1.0 - p) / (1.0 - q)).ln())
            };
            for at in [[-1.0, -2.0, -0.5], [-0.2, -0.3, -3.0]] {
                agrees(|policy| run(&objective, policy, [-1.0, -1.5, -1.0], scores).value, plain, &at);
            }
        }
    }

    #[test]
    fn agreement_with_the_reward_model_has_no_loss() {
        // h is 2, so β·h is 1, which is what the scores differ by.
        let objective = RewardDistillation { beta: 0.5, forward_kl: false };
        let loss = run(&objective, Tensor::from([-1.0, -1.0, -3.0]), [-1.0, -1.0, -1.0], [4.0, 3.0]);
        assert!(loss.value.into_scalar::<f32>().abs() < 1e-6);
        for (name, expected) in [
            ("rewards/chosen", 0.0),
            ("rewards/rejected", -1.0),
            ("rewards/margins", 1.0),
            ("rewards/accuracies", 1.0),
            ("logps/chosen", -2.0),
            ("logps/rejected", -3.0),
            ("logps/ref_chosen", -2.0),
            ("logps/ref_rejected", -1.0),
        ] {
            assert_eq!(metric(&loss.metrics, name), expected, "{name}");
        }
    }

    #[test]
    fn stays_finite() {
        for forward_kl in [false, true] {
            for (at, scores) in
                [([-1e4, 0.0, 0.0], [0.0, 1e4]), ([0.0, 0.0, -1e4], [-1e4, 1e4]), ([-1.0; 3], [1e4, 0.0])]
            {
                let objective = RewardDistillation { beta: 1.0, forward_kl };
                finite(|policy| run(&objective, policy, [0.0; 3], scores).value, &at);
            }
        }
        audit::<RewardDistillation>().unwrap();
    }
}
