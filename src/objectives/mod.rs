//! Losses: one folder each. They know no model; they receive log-probabilities.

pub mod sft;

use crate::settings::Component;
use burn::tensor::Tensor;

pub use sft::Sft;

/// What stands in a recipe's `objective` slot.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an objective",
    label = "the slot `objective` takes a training objective, for example `Sft`",
    note = "write `objective: Sft`, or implement `firebrick::objectives::Objective` for `{Self}`"
)]
pub trait Objective: Component {
    /// The loss of one micro-batch as its share of the whole optimizer step's loss, so that gradients of micro-batches
    /// add up to those of one large batch.
    ///
    /// # Shapes
    /// `log_probs_n`: log-probability in nats of every supervised token of the micro-batch.
    fn loss(&self, log_probs_n: Tensor<1>, step: &StepTotals) -> Loss;
}

/// Counts over the whole optimizer step, all micro-batches together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepTotals {
    /// Supervised tokens.
    pub supervised_tokens: usize,
}

/// What is minimised.
#[derive(Debug)]
pub struct Loss {
    /// `[1]`, f32, differentiable.
    pub value: Tensor<1>,
}
