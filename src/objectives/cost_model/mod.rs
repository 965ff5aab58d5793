//! Cost models: how harmful an answer is, with a sign that says whether it is.

use super::host::{column, host};
use super::{Alone, Head, Inputs, Level, Loss, Metric, Objective, SequenceScores, State, StepTotals};
use crate::example::{Pairs, Safety};
use crate::settings::Kind;
use burn::tensor::activation::log_sigmoid;

crate::component! {
    /// Mean over the step's pairs of `β·(−log σ(y_w·c_w) − log σ(y_l·c_l)) − log σ(c_w − c_l) + m·(c_w² + c_l²)/2`.
    ///
    /// A pair's chosen answer is the more harmful one, which costs more. `y` is +1 for a harmful answer and −1 for a
    /// harmless one: costs above 0 say harmful, costs below 0 say harmless, and of two harmless answers the less harmless
    /// still costs more.
    ///
    /// Logged: `accuracy` (chosen strictly above rejected), `accuracy_sign` (costs on their side of 0, over both answers),
    /// `margin` (mean of `c_w − c_l`), `chosen_cost`, `rejected_cost`.
    ///
    /// # Source
    /// Dai et al. 2023 (Safe RLHF), the loss of its cost model, where β is 1; β and the regularization, `m` times the mean
    /// of all squared costs, are align-anything's.
    pub struct CostModel, CostModelBuilder {
        /// Weight of the signs against the order.
        pub beta: f64 = 1.0 => Kind::number().at_least(0.0),
        /// Holds all costs near 0; align-anything has 0.001.
        pub regularization: f64 = 0.0 => Kind::number().at_least(0.0),
    }
}

impl Objective for CostModel {
    type Example = Pairs<Safety>;
    type Signal = SequenceScores;
    type Reference = Alone;

    fn head(&self) -> Option<Head> {
        Some(Head { outputs: 1, bias: false, level: Level::Sequence, problem_type: None })
    }

    fn loss(&self, inputs: Inputs<'_, SequenceScores>, step: &StepTotals, _state: &mut State) -> Loss {
        let [chosen, rejected] = inputs.policy.pairs();
        let harm = |place: usize| -> Vec<f64> {
            let sign = |safe: [bool; 2]| if safe[place] { -1.0 } else { 1.0 };
            inputs.facts.iter().map(|facts| sign(facts.safe.expect("the records say what is harmless"))).collect()
        };
        let signs = [harm(0), harm(1)];
        let [harm_w, harm_l] = signs.clone().map(|signs| column(signs, &chosen.device()));
        let of_signs = log_sigmoid(chosen.clone() * harm_w) + log_sigmoid(rejected.clone() * harm_l);
        let mut losses = -log_sigmoid(chosen.clone() - rejected.clone()) - of_signs * self.beta;
        if self.regularization != 0.0 {
            let squares = chosen.clone().square() + rejected.clone().square();
            losses = losses + squares * (self.regularization / 2.0);
        }
        let [chosen, rejected] = host([&chosen, &rejected]);
        let pairs = || chosen.iter().zip(&rejected);
        let signed = signs.concat().into_iter().zip(chosen.iter().chain(&rejected));
        let metrics = vec![
            Metric::mean("accuracy", pairs().map(|(chosen, rejected)| f64::from(chosen > rejected))),
            Metric::mean("accuracy_sign", signed.map(|(sign, cost)| f64::from(sign * cost > 0.0))),
            Metric::mean("margin", pairs().map(|(chosen, rejected)| chosen - rejected)),
            Metric::mean("chosen_cost", chosen.iter().copied()),
            Metric::mean("rejected_cost", rejected.iter().copied()),
        ];
        Loss::new(losses.sum() / step.examples.max(1) as f64, chosen.len() as f64, metrics)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::testing::{agrees, finite, metric};
    use super::*;
    use crate::example::Facts;
    use burn::tensor::Tensor;

    /// Of the costs `[chosen, rejected]` of one pair, half of a step.
    fn run(objective: &CostModel, costs: Tensor<1>, safe: [bool; 2]) -> Loss {
        let inputs = Inputs {
            policy: SequenceScores { values: costs.reshape([2, 1]) },
            reference: None,
            mismatched: None,
            facts: &[Facts { safe: Some(safe), ..Facts::default() }],
        };
        let step = StepTotals { examples: 2, tokens: vec![0, 0], training: true };
        objective.loss(inputs, &step, &mut State::default())
    }

    fn softplus(x: f64) -> f64 {
        x.exp().ln_1p()
    }

    #[test]
    fn is_the_formula_and_so_is_its_gradient() {
        for (safe, [y_w, y_l]) in
            [([false, true], [1.0, -1.0]), ([true, true], [-1.0, -1.0]), ([false, false], [1.0, 1.0])]
        {
            for (beta, m) in [(1.0, 0.0), (0.4, 0.25)] {
                let objective = CostModel { beta, regularization: m };
                let plain = |c: &[f64]| {
                    let signs = softplus(-y_w * c[0]) + softplus(-y_l * c[1]);
                    (beta * signs + softplus(c[1] - c[0]) + m * (c[0] * c[0] + c[1] * c[1]) / 2.0) / 2.0
                };
                for at in [[0.3, -1.2], [2.0, 2.5], [-3.0, 0.1]] {
                    agrees(|costs| run(&objective, costs, safe).value, plain, &at);
                }
            }
        }
    }

    #[test]
    fn a_harmful_answer_costs_more_than_nothing() {
        // ln 2 each for the order and for both signs.
        let value = |costs: [f32; 2]| run(&CostModel::default(), Tensor::from(costs), [false, true]).value;
        assert!((value([0.0, 0.0]).into_scalar::<f32>() - 1.5 * std::f32::consts::LN_2).abs() < 1e-6);
        // Right on both sides of 0 is nearly free, the other way round is not: 10 + 10 + 20 in half a step.
        assert!(value([10.0, -10.0]).into_scalar::<f32>() < 1e-4);
        assert!((value([-10.0, 10.0]).into_scalar::<f32>() - 20.0).abs() < 1e-3);
    }

    #[test]
    fn signs_and_order_are_counted_apart() {
        let loss = run(&CostModel::default(), Tensor::from([2.0, 1.0]), [false, true]);
        assert_eq!(metric(&loss.metrics, "accuracy"), 1.0);
        assert_eq!(metric(&loss.metrics, "accuracy_sign"), 0.5);
        assert_eq!(metric(&loss.metrics, "margin"), 1.0);
        // Equal costs are no order, and 0 is on no side.
        let loss = run(&CostModel::default(), Tensor::from([0.0, 0.0]), [false, true]);
        assert_eq!(metric(&loss.metrics, "accuracy") + metric(&loss.metrics, "accuracy_sign"), 0.0);
    }

    #[test]
    fn stays_finite() {
        for at in [[1e4, -1e4], [-1e4, 1e4], [1e4, 1e4]] {
            finite(|costs| run(&CostModel::default(), costs, [false, true]).value, &at);
        }
    }
}
