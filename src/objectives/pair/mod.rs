//! What the losses over pairs of answers share: the terms they are made of, their modifiers, and what is logged.
//!
//! A loss is a [`component!`](crate::component) with its parameters and one [`PairLoss`]; [`pair_component!`] makes an
//! [`Objective`](super::Objective) of the two. [`PairObjective`](super::PairObjective) uses the same [`PairLoss`]es, so
//! that every formula stands in one place.

mod component;
mod host;
mod metrics;
mod modifiers;
mod stable;
mod terms;
#[cfg(all(test, feature = "cpu"))]
pub(crate) mod testing;

use super::{Inputs, Loss, Metric, State, StepTotals, TokenLogProbs, Wants};
use crate::settings::SettingError;
use burn::tensor::Tensor;

pub(crate) use component::pair_component;
pub(crate) use host::{Host, host_values, log_odds_of, logistic_of};
pub use modifiers::Divergence;
pub(crate) use modifiers::Modifiers;
pub(crate) use stable::{log_odds, logistic, smoothed, sorted, square};
pub(crate) use terms::{Sides, Terms};

/// One loss over pairs: its formula and what it logs besides the common metrics.
pub(crate) trait PairLoss {
    /// The rules between its own parameters.
    fn rules(&self) -> Result<(), SettingError> {
        Ok(())
    }

    /// Whether it compares with a reference.
    fn with_reference(&self) -> bool {
        true
    }

    /// Whether it reads the tokens before the answers.
    fn reads_prompt(&self) -> bool {
        false
    }

    /// Whether a pair's loss depends on the other pairs of its micro-batch.
    fn mixes_pairs(&self) -> bool {
        false
    }

    /// The loss of each pair. # Shapes: `[pairs]`.
    fn per_pair(&self, terms: &Terms<'_>, state: &mut State) -> Tensor<1>;

    /// The micro-batch's share of the step's loss: by default its pairs' losses over the step's pairs. # Shapes: `[1]`.
    fn share(&self, terms: &Terms<'_>, state: &mut State) -> Tensor<1> {
        terms.over_pairs(self.per_pair(terms, state))
    }

    /// The factor between log-ratios and the rewards that are logged; `None` where the loss defines no reward.
    fn reward_scale(&self) -> Option<f64>;

    /// What the rewards are multiples of.
    fn rewarded(&self, terms: &Terms<'_>) -> Sides<Tensor<1>> {
        if self.with_reference() { terms.ratios() } else { terms.policy() }
    }

    /// Whether it compares means over the answers' tokens, whatever the modifiers say: `logps/*` are then means as well.
    fn averages(&self) -> bool {
        false
    }

    /// Values that [`metrics`](Self::metrics) reads besides the common ones.
    fn observed(&self, _terms: &Terms<'_>) -> Option<Tensor<1>> {
        None
    }

    /// Metrics of its own.
    fn metrics(&self, _host: &Host<'_>) -> Vec<Metric> {
        Vec::new()
    }

    /// The weight of this micro-batch where losses of several are averaged: by default its pairs.
    fn weight(&self, terms: &Terms<'_>) -> f64 {
        terms.pairs() as f64
    }
}

/// What the losses `parts` read, the metrics and modifiers included.
pub(crate) fn wants<'a>(parts: impl IntoIterator<Item = &'a dyn PairLoss>, modifiers: &Modifiers) -> Wants {
    let mut wants = Wants { mean_logits: true, entropies: true, correct: true, ..Wants::default() };
    wants.collisions = modifiers.use_weighting;
    for part in parts {
        wants.prompt |= part.reads_prompt();
    }
    wants
}

/// The weighted sum of `parts` over one micro-batch, with its metrics.
pub(crate) fn loss(
    parts: &[(f64, &dyn PairLoss)],
    modifiers: Modifiers,
    inputs: Inputs<'_, TokenLogProbs>,
    step: &StepTotals,
    state: &mut State,
) -> Loss {
    if inputs.policy.per_row.is_empty() {
        return Loss::new(inputs.policy.values.sum() * 0.0, 0.0, Vec::new());
    }
    let terms = Terms::new(inputs, step, modifiers);
    let mut value = Tensor::zeros([1], &terms.device());
    for (weight, part) in parts {
        value = value + part.share(&terms, state) * *weight;
    }
    let weight = match parts {
        [(_, part)] => part.weight(&terms),
        _ => terms.pairs() as f64,
    };
    Loss::new(value, weight, metrics::all(&terms, parts))
}
