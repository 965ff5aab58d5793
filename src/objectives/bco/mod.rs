//! Binary classifier optimisation: the implicit reward as a classifier of desirable answers.

use super::host::{Answers, MARGINS, host};
use super::{Compared, Difference, Inputs, Loss, Metric, Objective, State, StepTotals, TokenLogProbs, Wants};
use crate::example::Unpaired;
use crate::settings::Kind;
use burn::tensor::activation::log_sigmoid;

crate::component! {
    /// Mean over the step's answers of `−log σ(r − δ)` for desirable and `−log σ(δ − r)` for undesirable ones; `r` is `β`
    /// times the policy's log-probability of the answer less the reference's.
    ///
    /// `δ` is the mean of all rewards since the run began. A micro-batch's own rewards join it before its loss, without
    /// gradient; an evaluation reads it and leaves it as it is. It is saved with every checkpoint.
    ///
    /// Logged: `rewards/{chosen,rejected}` and their difference `rewards/margins`, `logps/*`, `logits/*`, `delta` and
    /// `entropy`. `logits/*` are KTO's, means over the vocabulary and the answers' tokens: TRL 1.10 logs a sum over the
    /// whole padded row here.
    ///
    /// # Source
    /// Jung et al. 2024; checked against TRL 1.10, without its density-ratio weights.
    pub struct Bco, BcoBuilder {
        /// Strength of the pull towards the reference.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
    }
}

impl Objective for Bco {
    type Example = Unpaired;
    type Signal = TokenLogProbs;
    type Reference = Compared;

    fn wants(&self) -> Wants {
        Wants { mean_logits: true, entropies: true, ..Wants::default() }
    }

    fn mixes_examples(&self) -> bool {
        true
    }

    fn differences(&self) -> &'static [Difference] {
        MARGINS
    }

    fn loss(&self, inputs: Inputs<'_, TokenLogProbs>, step: &StepTotals, state: &mut State) -> Loss {
        let answers = Answers::of(&inputs);
        let rewards = answers.ratios.clone() * self.beta;
        let mut running = Moments::of(state);
        if step.training {
            let [values] = host([&rewards]);
            running.join(&values);
            running.keep(state);
        }
        let losses = -log_sigmoid((rewards - running.mean) * answers.choose(1.0, -1.0));
        let rows = answers.desirable.len() as f64;
        let mut metrics = answers.metrics(&inputs.policy, self.beta);
        metrics.push(Metric { name: "delta".into(), sum: running.mean * rows, weight: rows });
        Loss::new(losses.sum() / step.examples.max(1) as f64, rows, metrics)
    }
}

/// Mean and variance of all values so far.
struct Moments {
    mean: f64,
    /// Divided by the count, not by one less.
    variance: f64,
    count: f64,
}

impl Moments {
    /// Those of `state`; a variance of 1 over next to nothing where it has none, as TRL begins.
    fn of(state: &State) -> Self {
        let read = |name, otherwise| state.get(name).unwrap_or(otherwise);
        Self {
            mean: read("rewards_mean", 0.0),
            variance: read("rewards_variance", 1.0),
            count: read("rewards_count", 1e-24),
        }
    }

    fn keep(&self, state: &mut State) {
        state.set("rewards_mean", self.mean);
        state.set("rewards_variance", self.variance);
        state.set("rewards_count", self.count);
    }

    fn join(&mut self, values: &[f64]) {
        let n = values.len() as f64;
        let mean = values.iter().sum::<f64>() / n;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let (shift, count) = (mean - self.mean, self.count + n);
        let between = shift * shift * self.count * n / count;
        self.variance = (self.variance * self.count + squares + between) / count;
        self.mean += shift * n / count;
        self.count = count;
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests;
