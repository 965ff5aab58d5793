//! Supervised fine-tuning: token cross-entropy.

use super::{Loss, Objective, StepTotals};
use burn::tensor::Tensor;

crate::component! {
    /// `-Σ log p(token) / N`, `N` the supervised tokens of the whole optimizer step.
    ///
    /// # Source
    /// `ForCausalLMLoss` of transformers with `num_items_in_batch`.
    pub struct Sft, SftBuilder {}
}

impl Objective for Sft {
    fn loss(&self, log_probs_n: Tensor<1>, step: &StepTotals) -> Loss {
        // An empty micro-batch has a sum of 0 and no gradient; the step's total is never 0, which the trainer checks.
        let value = log_probs_n.sum() * (-1.0 / step.supervised_tokens.max(1) as f64);
        Loss { value }
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use burn::tensor::Device;

    fn check(values: &[f32], total: usize, expected: f32) {
        let log_probs = Tensor::<1>::from_floats(values, &Device::flex());
        let loss = Sft {}.loss(log_probs, &StepTotals { supervised_tokens: total }).value;
        assert!((loss.into_scalar::<f32>() - expected).abs() < 1e-6);
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
        let loss = Sft {}.loss(log_probs.clone(), &StepTotals { supervised_tokens: 4 }).value;
        let gradient = log_probs.grad(&loss.backward()).unwrap().into_data_as::<f32>();
        assert_eq!(gradient.as_slice::<f32>().unwrap(), &[-0.25, -0.25]);
    }
}
