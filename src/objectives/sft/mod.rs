//! Supervised fine-tuning: token cross-entropy.

use super::host::entropy;
use super::{Alone, Inputs, Loss, Metric, Objective, State, StepTotals, TokenLogProbs, Wants};
use crate::example::Supervised;
use crate::nn::Weights;
use crate::settings::{Kind, SettingError};
use burn::tensor::Tensor;

crate::component! {
    /// `-Σ log p(token) / N`, `N` the supervised tokens of the whole optimizer step; every option is 0 or off by default.
    ///
    /// With `label_smoothing` ε a token counts `(1 − ε)·(−log p) + ε·(mean over the vocabulary of −log p)`. `z_loss` adds
    /// its coefficient times the square of the logarithm of the sum of the exponentials of all logits. With `dft` a token
    /// counts `−p·log p`, the factor `p` without gradient.
    ///
    /// Logged with `token_metrics`: `mean_token_accuracy` and `entropy` over the supervised tokens.
    ///
    /// # Source
    /// `ForCausalLMLoss` of transformers with `num_items_in_batch`, its label smoothing and its NEFTune (Jain et al. 2023);
    /// Wu et al. 2025 for DFT; PaLM for the z-loss; checked against TRL 1.16.
    pub struct Sft, SftBuilder {
        /// Share of a token's weight that is spread over the whole vocabulary.
        pub label_smoothing: f64 = 0.0 => Kind::number().at_least(0.0).below(1.0),
        /// Holds the logits near 0; PaLM has 0.0001.
        pub z_loss: f64 = 0.0 => Kind::number().at_least(0.0),
        /// NEFTune's α: uniform noise within ±α/√(tokens·width) on the embeddings, in training; 5 to 15 are common.
        pub neftune_noise_alpha: f64 = 0.0 => Kind::number().at_least(0.0),
        /// Weighs every token by its own probability.
        pub dft: bool = false => Kind::bool(),
        /// Logs how many tokens are the likeliest ones, and the entropy.
        pub token_metrics: bool = false => Kind::bool(),
    }
    check = Sft::check_losses;
}

impl Sft {
    fn check_losses(&self) -> Result<(), SettingError> {
        match self.dft && self.label_smoothing > 0.0 {
            true => Err(SettingError::rule(format!(
                "`label_smoothing` is {} and `dft` is true, whose loss has no smoothing; leave one of them out",
                self.label_smoothing
            ))),
            false => Ok(()),
        }
    }

    /// What is to be made larger: a value for each token, `[s]`.
    fn gains(&self, policy: &TokenLogProbs) -> Tensor<1> {
        let values = policy.values.clone();
        let mut gains = match self.dft {
            true => values.clone().exp().detach() * values,
            false => values,
        };
        let normalizers = || policy.normalizers.clone().expect("the objective wants the normalizers");
        if self.label_smoothing > 0.0 {
            let mean_logits = policy.mean_logits.clone().expect("the objective wants the mean logits");
            gains = gains * (1.0 - self.label_smoothing) + (mean_logits - normalizers()) * self.label_smoothing;
        }
        if self.z_loss > 0.0 {
            gains = gains - normalizers().square() * self.z_loss;
        }
        gains
    }
}

impl Objective for Sft {
    type Example = Supervised;
    type Signal = TokenLogProbs;
    type Reference = Alone;

    fn wants(&self) -> Wants {
        Wants {
            normalizers: self.label_smoothing > 0.0 || self.z_loss > 0.0,
            mean_logits: self.label_smoothing > 0.0,
            entropies: self.token_metrics,
            correct: self.token_metrics,
            weights: match self.dft || self.z_loss > 0.0 {
                true => Weights::Own,
                false => Weights::Equal,
            },
            embedding_noise: self.neftune_noise_alpha,
            ..Wants::default()
        }
    }

    fn loss(&self, inputs: Inputs<'_, TokenLogProbs>, step: &StepTotals, _state: &mut State) -> Loss {
        let tokens: usize = inputs.policy.per_row.iter().sum();
        // An empty micro-batch has a sum of 0 and no gradient; the step's total is never 0, which the trainer checks.
        let gains = self.gains(&inputs.policy);
        let exact = (!step.training).then(|| -gains.clone().into_data().iter::<f32>().map(f64::from).sum::<f64>());
        let value = gains.sum() * (-1.0 / step.supervised_tokens().max(1) as f64);
        let mut metrics = Vec::new();
        if let Some(correct) = inputs.policy.correct.as_ref().filter(|_| self.token_metrics) {
            metrics.push(Metric::mean("mean_token_accuracy", correct.iter().map(|&is| f64::from(is))));
        }
        metrics.extend(entropy(&inputs.policy));
        Loss { exact, ..Loss::new(value, tokens as f64, metrics) }
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests;
