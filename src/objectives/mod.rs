//! Losses: one folder each. They know no model; they receive log-probabilities, scores or logits.

mod host;
mod signal;
#[cfg(all(test, feature = "cpu"))]
mod testing;

pub mod apo_zero_unpaired;
pub mod bco;
pub mod classification;
pub mod cost_model;
pub mod gkd;
pub mod kto;
pub mod process_reward;
pub mod reward_distillation;
pub mod reward_model;
pub mod sft;

// Pairs of answers.
pub mod aot;
pub mod aot_unpaired;
pub mod apo_down;
pub mod apo_zero;
pub mod asft;
pub mod bco_pair;
pub mod cal_dpo;
pub mod chosen_sft;
pub mod cpo;
pub mod dense_dpo;
pub mod discopop;
pub mod dpo;
pub mod dpo_margin;
pub mod dpop;
pub mod exo_pair;
pub mod hinge;
pub mod ipo;
pub mod kto_pair;
pub mod nca_pair;
pub mod orpo;
mod pair;
pub mod pair_objective;
pub mod r_dpo;
pub mod robust_dpo;
pub mod sigmoid_norm;
pub mod simpo;
pub mod slic_hf;
pub mod sppo_hard;

use crate::example::{Facts, Label, Shape};
use crate::settings::Component;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;

pub use apo_zero_unpaired::ApoZeroUnpaired;
pub use bco::Bco;
pub use classification::{ClassWeights, Classification};
pub use cost_model::CostModel;
pub use gkd::Gkd;
pub use kto::Kto;
pub use process_reward::ProcessReward;
pub use reward_distillation::RewardDistillation;
pub use reward_model::{RewardModel, RewardModelMargin};
pub use sft::Sft;
pub use signal::{Distributions, SequenceScores, TokenLogProbs, TokenScores, Wants};

pub use aot::Aot;
pub use aot_unpaired::AotUnpaired;
pub use apo_down::ApoDown;
pub use apo_zero::ApoZero;
pub use asft::Asft;
pub use bco_pair::BcoPair;
pub use cal_dpo::CalDpo;
pub use chosen_sft::ChosenSft;
pub use cpo::{Cpo, CpoLoss};
pub use dense_dpo::DenseDpo;
pub use discopop::Discopop;
pub use dpo::Dpo;
pub use dpo_margin::DpoMargin;
pub use dpop::Dpop;
pub use exo_pair::ExoPair;
pub use hinge::Hinge;
pub use ipo::Ipo;
pub use kto_pair::KtoPair;
pub use nca_pair::NcaPair;
pub use orpo::Orpo;
pub use pair::Divergence;
#[cfg(all(test, feature = "cpu"))]
pub(crate) use pair::testing as pair_testing;
pub(crate) use pair::{
    Host, Modifiers, PairLoss, Sides, Terms, host_values, log_odds, log_odds_of, logistic, logistic_of,
    loss as pair_loss, pair_component, smoothed, sorted, square, wants as pair_wants,
};
pub use pair_objective::{LossWeights, PairLossName, PairObjective};
pub use r_dpo::RDpo;
pub use robust_dpo::RobustDpo;
pub use sigmoid_norm::SigmoidNorm;
pub use simpo::Simpo;
pub use slic_hf::SlicHf;
pub use sppo_hard::SppoHard;

/// What stands in a recipe's `objective` slot.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an objective",
    label = "the slot `objective` takes a training objective, for example `Sft`",
    note = "write `objective: Sft`, or implement `firebrick::objectives::Objective` for `{Self}`"
)]
pub trait Objective: Component {
    /// What one example consists of.
    type Example: Shape;

    /// What the objective reads of a policy: [`TokenLogProbs`], [`SequenceScores`], [`TokenScores`] or [`Distributions`].
    type Signal;

    /// Whether it compares the policy with a reference: [`Compared`], [`Alone`] or [`BySetting`].
    type Reference: ReferenceUse;

    /// What it needs besides its signal's main part.
    fn wants(&self) -> Wants {
        Wants::default()
    }

    /// The head whose scores it reads; `None` for an objective over tokens.
    fn head(&self) -> Option<Head> {
        None
    }

    /// Whether these settings need a reference policy.
    fn compares(&self) -> bool {
        Self::Reference::ALWAYS
    }

    /// Whether it needs the log-probabilities of mismatched pairs ([`Inputs::mismatched`]).
    fn compares_mismatched(&self) -> bool {
        false
    }

    /// Whether the loss of an example depends on which others share its micro-batch, so that smaller micro-batches are
    /// another loss.
    fn mixes_examples(&self) -> bool {
        self.compares_mismatched()
    }

    /// Whether it can learn from a record that says this; the reason where it cannot, in the words that follow the record's
    /// place.
    ///
    /// # Errors
    /// The reason.
    fn accepts(&self, _facts: &Facts) -> Result<(), String> {
        Ok(())
    }

    /// Whether [`begin`](Self::begin) needs to see the facts of all training records.
    fn wants_facts(&self) -> bool {
        false
    }

    /// Called once before the first step of a run with the facts of all training records, for what depends on the whole
    /// data set, such as class weights.
    fn begin(&self, _facts: &[Facts], _state: &mut State) {}

    /// The loss of one micro-batch as its share of the whole optimizer step's loss, so that gradients of micro-batches
    /// add up to those of one large batch.
    fn loss(&self, inputs: Inputs<'_, Self::Signal>, step: &StepTotals, state: &mut State) -> Loss;

    /// Metrics that are the difference of two others, taken after those were joined.
    fn differences(&self) -> &'static [Difference] {
        &[]
    }

    /// Metrics over a whole evaluation that are no means, from all its observations.
    fn summarise(&self, _observations: &[Observation]) -> Vec<(Cow<'static, str>, f64)> {
        Vec::new()
    }
}

/// Whether an objective compares the policy with a reference. A marker: it exists in types only.
pub trait ReferenceUse: 'static {
    /// Whether it always does.
    const ALWAYS: bool;

    /// Whether the reference must be another model than the one that is trained.
    const OTHER: bool = false;
}

/// It does, always.
#[derive(Clone, Copy, Debug)]
pub enum Compared {}

/// It does, and the reference must be another model than the one that is trained: a teacher.
#[derive(Clone, Copy, Debug)]
pub enum Taught {}

/// It never does; a reference would be ignored.
#[derive(Clone, Copy, Debug)]
pub enum Alone {}

/// Its settings decide, so that the check is made when the recipe starts.
#[derive(Clone, Copy, Debug)]
pub enum BySetting {}

impl ReferenceUse for Compared {
    const ALWAYS: bool = true;
}

impl ReferenceUse for Taught {
    const ALWAYS: bool = true;
    const OTHER: bool = true;
}

impl ReferenceUse for Alone {
    const ALWAYS: bool = false;
}

impl ReferenceUse for BySetting {
    const ALWAYS: bool = false;
}

/// What an objective is given of one micro-batch.
#[derive(Debug)]
pub struct Inputs<'a, S> {
    /// Of the policy, differentiable. The rows of one example follow one another: chosen, rejected, chosen, …
    pub policy: S,
    /// Of the reference, without gradients; there where the objective [`compares`](Objective::compares).
    pub reference: Option<S>,
    /// Of the policy and the reference, both without gradients, for rows whose answer is another example's; there where the
    /// objective asks for them.
    pub mismatched: Option<(S, S)>,
    /// What the records say besides, one per example.
    pub facts: &'a [Facts],
}

/// A head in place of the language model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Numbers it yields.
    pub outputs: usize,
    /// Whether it has a bias.
    pub bias: bool,
    /// Whether it reads the last token of a row, or every token.
    pub level: Level,
    /// transformers' `problem_type`, where it has one for this objective.
    pub problem_type: Option<&'static str>,
}

/// What a head's scores belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// A whole row: transformers' `…ForSequenceClassification`.
    Sequence,
    /// Single tokens: transformers' `…ForTokenClassification`.
    Token,
}

/// Counts over the whole optimizer step, all micro-batches together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StepTotals {
    /// Examples.
    pub examples: usize,
    /// Supervised tokens, by the place of the row in its example: all chosen answers', all rejected answers'.
    pub tokens: Vec<usize>,
    /// Whether the step is trained on; false in evaluation, which must not change an objective's state.
    pub training: bool,
}

impl StepTotals {
    /// Supervised tokens of all rows.
    pub fn supervised_tokens(&self) -> usize {
        self.tokens.iter().sum()
    }
}

/// Numbers that an objective carries from step to step, such as a running mean. Saved with every checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State(BTreeMap<String, u64>);

impl State {
    /// A number by its name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.get(name).copied().map(f64::from_bits)
    }

    /// Keeps a number. It is held as its bits: decimal text may come back one bit off.
    pub fn set(&mut self, name: &str, value: f64) {
        self.0.insert(name.to_owned(), value.to_bits());
    }
}

/// What is minimised, and what is logged of it.
#[derive(Debug)]
pub struct Loss {
    /// `[1]`, f32, differentiable: this micro-batch's share of the step's loss.
    pub value: Tensor<1>,
    /// The part of the step's total that this micro-batch makes up, in the unit the loss is a mean over (tokens, pairs):
    /// the weight of `value` where losses of several batches are averaged.
    pub weight: f64,
    /// In evaluation, `value` times `weight` in f64, where the objective adds it up on the host: then it does not depend on
    /// the size of the batches.
    pub exact: Option<f64>,
    /// Means that are logged, in the order they are written.
    pub metrics: Vec<Metric>,
    /// What [`Objective::summarise`] is to see of this batch.
    pub observations: Vec<Observation>,
}

impl Loss {
    /// A loss with its means and nothing to summarise.
    pub fn new(value: Tensor<1>, weight: f64, metrics: Vec<Metric>) -> Self {
        Self { value, weight, exact: None, metrics, observations: Vec::new() }
    }
}

/// What a model said of one example, and what it should have said.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    /// What the record says.
    pub label: Label,
    /// The model's scores, one per output.
    pub scores: Vec<f64>,
}

/// A mean, in a form that can be joined with that of other micro-batches.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// The name in the logs, for example `rewards/margins`.
    pub name: Cow<'static, str>,
    /// Sum of the values.
    pub sum: f64,
    /// How many values, or their total weight.
    pub weight: f64,
}

impl Metric {
    /// The mean of `values`.
    pub fn mean(name: impl Into<Cow<'static, str>>, values: impl IntoIterator<Item = f64>) -> Self {
        let (mut sum, mut weight) = (0.0, 0.0);
        for value in values {
            sum += value;
            weight += 1.0;
        }
        Self { name: name.into(), sum, weight }
    }
}

/// A metric that is the difference of two means which may count different rows, so that it is no mean itself. There where
/// both of them are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The name in the logs, for example `rewards/margins`.
    pub name: &'static str,
    /// The name of the mean that is taken whole.
    pub of: &'static str,
    /// The name of the mean that is taken away from it.
    pub less: &'static str,
}
