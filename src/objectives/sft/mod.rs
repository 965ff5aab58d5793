//! Supervised fine-tuning: token cross-entropy.

use super::{Alone, Inputs, Loss, Objective, State, StepTotals, TokenLogProbs};
use crate::example::Supervised;

crate::component! {
    /// `-Σ log p(token) / N`, `N` the supervised tokens of the whole optimizer step.
    ///
    /// # Source
    /// `ForCausalLMLoss` of transformers with `num_items_in_batch`.
    pub struct Sft, SftBuilder {}
}

impl Objective for Sft {
    type Example = Supervised;
    type Signal = TokenLogProbs;
    type Reference = Alone;

    fn loss(&self, inputs: Inputs<'_, TokenLogProbs>, step: &StepTotals, _state: &mut State) -> Loss {
        let tokens: usize = inputs.policy.per_row.iter().sum();
        // An empty micro-batch has a sum of 0 and no gradient; the step's total is never 0, which the trainer checks.
        let value = inputs.policy.values.sum() * (-1.0 / step.supervised_tokens().max(1) as f64);
        Loss::new(value, tokens as f64, Vec::new())
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use burn::tensor::{Device, Tensor};

    fn loss(log_probs: Tensor<1>, total: usize) -> Tensor<1> {
        let n = log_probs.dims()[0];
        let inputs = Inputs {
            policy: TokenLogProbs::new(log_probs, vec![n], vec![0; n]),
            reference: None,
            mismatched: None,
            facts: &[],
        };
        let step = StepTotals { examples: 1, tokens: vec![total], training: true };
        Sft {}.loss(inputs, &step, &mut State::default()).value
    }

    fn check(values: &[f32], total: usize, expected: f32) {
        let value = loss(Tensor::<1>::from_floats(values, &Device::flex()), total);
        assert!((value.into_scalar::<f32>() - expected).abs() < 1e-6);
    }

    #[test]
    fn hand_worked_values() {
        check(&[-1.0, -3.0], 2, 2.0);
        // Half of a step's tokens contribute half of its loss.
        check(&[-1.0, -3.0], 4, 1.0);
        check(&[-80.0], 1, 80.0);
    }

    #[test]
    fn the_gradient_is_minus_one_over_the_steps_tokens() {
        let log_probs = Tensor::<1>::from_floats([-1.0, -2.0], &Device::flex().autodiff()).require_grad();
        let gradient = log_probs.grad(&loss(log_probs.clone(), 4).backward()).unwrap().into_data_as::<f32>();
        assert_eq!(gradient.as_slice::<f32>().unwrap(), &[-0.25, -0.25]);
    }
}
