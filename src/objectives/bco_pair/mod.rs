//! Binary classifier optimisation over pairs.

use super::pair_component;
use super::{Compared, PairLoss, State, Terms, host_values, logistic};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::Tensor;

/// Where the mean of all rewards so far stands in the state.
const MEAN: &str = "bco_pair.mean";

/// Where their number does.
const COUNT: &str = "bco_pair.count";

pair_component! {
    /// `−log σ(β·a − δ) − log σ(−(β·b − δ))`.
    ///
    /// δ is 0, or with `running_mean` the mean of all rewards of the run so far, the micro-batch's included: with gradient
    /// accumulation it moves within a step. An evaluation uses it and does not move it.
    ///
    /// # Source
    /// Jung et al. 2024, eq. 8; TRL's `bco_pair`, which has had no δ since 1.0.
    pub struct BcoPair, BcoPairBuilder {
        /// How dearly a distance from the reference is paid.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
        /// Whether rewards are compared with the mean of all rewards so far instead of 0.
        pub running_mean: bool = false => Kind::bool(),
    } Pairs, Compared, sums
}

impl BcoPair {
    fn shift(&self, terms: &Terms<'_>, state: &mut State) -> f64 {
        let (mean, count) = (state.get(MEAN).unwrap_or(0.0), state.get(COUNT).unwrap_or(0.0));
        if !terms.step.training {
            return mean;
        }
        let ratios = terms.ratios();
        let rewards = host_values(Tensor::cat(vec![ratios.chosen.inner(), ratios.rejected.inner()], 0));
        let now = count + rewards.len() as f64;
        let mean = mean + rewards.iter().map(|ratio| self.beta * ratio - mean).sum::<f64>() / now;
        state.set(MEAN, mean);
        state.set(COUNT, now);
        mean
    }
}

impl PairLoss for BcoPair {
    fn per_pair(&self, terms: &Terms<'_>, state: &mut State) -> Tensor<1> {
        let shift = if self.running_mean { self.shift(terms, state) } else { 0.0 };
        let rewards = terms.ratios().map(|ratio| ratio * self.beta - shift);
        logistic(rewards.chosen) + logistic(rewards.rejected.neg())
    }

    fn mixes_pairs(&self) -> bool {
        self.running_mean
    }

    fn reward_scale(&self) -> Option<f64> {
        Some(self.beta)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::pair_testing::{
        close, held_to, logistic, mean, of, pair, run, some_pairs, stays_finite, totals, value,
    };
    use super::*;

    #[test]
    fn value_gradient_and_extremes() {
        held_to(&BcoPair::default(), |pairs| mean(pairs, |p| logistic(0.1 * p.a()) + logistic(-0.1 * p.b())));
        stays_finite(&BcoPair { running_mean: true, ..BcoPair::default() });
        // a = 10, b = −10: 2·log(1 + e⁻¹).
        close(of(&BcoPair::default(), pair(-1.0, -11.0, -11.0, -1.0)), 0.626_523_38, 1e-6, "ten nats each");
    }

    #[test]
    fn the_mean_runs_in_training_and_stands_in_evaluation() {
        let objective = BcoPair { running_mean: true, beta: 0.5, ..BcoPair::default() };
        let pairs = some_pairs();
        let mut step = totals(&pairs);
        let mut state = State::default();
        let at = |pairs: &[super::super::pair_testing::Pair], shift: f64, all: f64| {
            pairs.iter().map(|p| logistic(0.5 * p.a() - shift) + logistic(shift - 0.5 * p.b())).sum::<f64>() / all
        };
        let rewards: Vec<f64> = pairs.iter().flat_map(|p| [0.5 * p.a(), 0.5 * p.b()]).collect();
        let mean_of = |n: usize| rewards[..n].iter().sum::<f64>() / n as f64;
        let (first, _) = run(&objective, &pairs[..1], &step, &mut state);
        close(value(&first), at(&pairs[..1], mean_of(2), 4.0), 1e-6, "the batch moves the mean before its own loss");
        let (rest, _) = run(&objective, &pairs[1..], &step, &mut state);
        close(value(&rest), at(&pairs[1..], mean_of(8), 4.0), 1e-6, "and the next one goes on");
        step.training = false;
        let before = state.clone();
        let (seen, _) = run(&objective, &pairs[..2], &step, &mut state);
        close(value(&seen), at(&pairs[..2], mean_of(8), 4.0), 1e-6, "an evaluation uses it");
        assert_eq!(state, before, "an evaluation moved it");
    }
}
