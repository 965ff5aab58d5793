//! Reward models: a score for a whole answer, learned from which of two is better.

#[cfg(all(test, feature = "cpu"))]
mod tests;

use super::host::{column, host};
use super::{Alone, Head, Inputs, Level, Loss, Metric, Objective, SequenceScores, State, StepTotals};
use crate::example::{Margin, Pairs};
use crate::settings::Kind;
use burn::tensor::Tensor;
use burn::tensor::activation::log_sigmoid;

crate::component! {
    /// Mean over the step's pairs of `−log σ(r_w − r_l) + c·(r_w + r_l)² + m·(r_w² + r_l²)/2`, `r_w` and `r_l` the scores of
    /// the chosen and the rejected answer, `c` the centering and `m` the regularization.
    ///
    /// Logged: `accuracy` (chosen strictly above rejected; turbo-alignment's `pair_accuracy`), `margin` (mean of
    /// `r_w − r_l`; its `reward_difference`), `chosen_reward`, `rejected_reward`, and over both sides `min_reward`,
    /// `mean_reward`, `max_reward`. The least and the greatest are a batch's; several batches' are averaged.
    ///
    /// # Source
    /// Ouyang et al. 2022, eq. 1; Eisenstein et al. 2023 for the centering; checked against TRL 1.16. The regularization,
    /// `m` times the mean of all squared scores, is align-anything's.
    pub struct RewardModel, RewardModelBuilder {
        /// Holds the two scores' sum near 0; 0.01 is common.
        pub center_rewards_coefficient: f64 = 0.0 => Kind::number().at_least(0.0),
        /// Holds all scores near 0; align-anything has 0.001.
        pub regularization: f64 = 0.0 => Kind::number().at_least(0.0),
    }
}

crate::component! {
    /// [`RewardModel`] over pairs with margins, `−log σ(r_w − r_l − margin)`: the chosen answer's score is to be above the
    /// other by what the record says. The metric `margin` is without the record's.
    ///
    /// # Source
    /// Touvron et al. 2023 (Llama 2), eq. 2; checked against TRL 1.16.
    pub struct RewardModelMargin, RewardModelMarginBuilder {
        /// Holds the two scores' sum near 0; 0.01 is common.
        pub center_rewards_coefficient: f64 = 0.0 => Kind::number().at_least(0.0),
        /// Holds all scores near 0; align-anything has 0.001.
        pub regularization: f64 = 0.0 => Kind::number().at_least(0.0),
    }
}

/// One score for a row: transformers' sequence classification with one label, as TRL's reward trainer makes it.
const HEAD: Head = Head { outputs: 1, bias: false, level: Level::Sequence, problem_type: None };

impl Objective for RewardModel {
    type Example = Pairs;
    type Signal = SequenceScores;
    type Reference = Alone;

    fn head(&self) -> Option<Head> {
        Some(HEAD)
    }

    fn loss(&self, inputs: Inputs<'_, SequenceScores>, step: &StepTotals, _state: &mut State) -> Loss {
        let [chosen, rejected] = inputs.policy.pairs();
        let wanted = chosen.clone() - rejected.clone();
        loss([chosen, rejected], wanted, [self.center_rewards_coefficient, self.regularization], step)
    }
}

impl Objective for RewardModelMargin {
    type Example = Pairs<Margin>;
    type Signal = SequenceScores;
    type Reference = Alone;

    fn head(&self) -> Option<Head> {
        Some(HEAD)
    }

    fn loss(&self, inputs: Inputs<'_, SequenceScores>, step: &StepTotals, _state: &mut State) -> Loss {
        let [chosen, rejected] = inputs.policy.pairs();
        let margins = inputs.facts.iter().map(|facts| facts.margin.expect("the records have margins"));
        let wanted = chosen.clone() - rejected.clone() - column(margins, &chosen.device());
        loss([chosen, rejected], wanted, [self.center_rewards_coefficient, self.regularization], step)
    }
}

/// `wanted` is what is to be positive, `[pairs]`.
fn loss(sides: [Tensor<1>; 2], wanted: Tensor<1>, [center, magnitude]: [f64; 2], step: &StepTotals) -> Loss {
    let [chosen, rejected] = sides;
    let mut losses = -log_sigmoid(wanted);
    if center != 0.0 {
        losses = losses + (chosen.clone() + rejected.clone()).square() * center;
    }
    if magnitude != 0.0 {
        losses = losses + (chosen.clone().square() + rejected.clone().square()) * (magnitude / 2.0);
    }
    let [chosen, rejected] = host([&chosen, &rejected]);
    let value = losses.sum() / step.examples.max(1) as f64;
    Loss::new(value, chosen.len() as f64, metrics(&chosen, &rejected))
}

fn metrics(chosen: &[f64], rejected: &[f64]) -> Vec<Metric> {
    let pairs = || chosen.iter().zip(rejected);
    let all = || chosen.iter().chain(rejected).copied();
    vec![
        Metric::mean("accuracy", pairs().map(|(chosen, rejected)| f64::from(chosen > rejected))),
        Metric::mean("margin", pairs().map(|(chosen, rejected)| chosen - rejected)),
        Metric::mean("chosen_reward", chosen.iter().copied()),
        Metric::mean("rejected_reward", rejected.iter().copied()),
        Metric::mean("min_reward", [all().fold(f64::INFINITY, f64::min)]),
        Metric::mean("mean_reward", all()),
        Metric::mean("max_reward", [all().fold(f64::NEG_INFINITY, f64::max)]),
    ]
}
