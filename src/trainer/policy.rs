//! What the training loop asks of a model.

use crate::data::Batch;
use crate::generation::{Stop, greedy};
use crate::models::CausalLm;
use crate::nn::RateGroup;
use crate::projector::ProjectorModel;
use crate::vision::VisionTower;
use crate::vlm::{Targets, Vlm, VlmInputs};
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use std::collections::BTreeMap;

/// A model that gives log-probabilities of a batch's supervised tokens, and answers prompts.
pub trait Policy: Module + Sync {
    /// How fast an adapter's parameters learn under LoRA+, by name; others learn at the base's rate.
    fn rate_groups(&self) -> BTreeMap<String, RateGroup> {
        BTreeMap::new()
    }

    /// Log-probabilities in nats, row by row; differentiable.
    fn log_probs(&self, batch: &Batch, device: &Device) -> RowLogProbs;

    /// Log-probabilities and greedy hits of a batch, in host memory.
    fn score(&self, batch: &Batch, device: &Device) -> Scored;

    /// Greedy answers to a left-padded batch of prompts; `on_token(row, id)` as in [`greedy`].
    fn generate(
        &self,
        prompts: &Batch,
        stop: &Stop,
        device: &Device,
        on_token: &mut dyn FnMut(usize, u32) -> bool,
    ) -> Vec<Vec<u32>>;
}

/// Log-probabilities of the supervised tokens of a batch.
#[derive(Debug)]
pub struct RowLogProbs {
    /// All rows' values one after another, `[s]`.
    pub values: Tensor<1>,
    /// Number of values of each row.
    pub per_row: Vec<usize>,
}

/// Scores of the supervised tokens of a batch.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Scored {
    /// Log-probability of each supervised token in nats, per row.
    pub log_probs: Vec<Vec<f32>>,
    /// Supervised tokens that the model would have chosen itself.
    pub correct: usize,
    /// Supervised tokens.
    pub total: usize,
}

impl<L: CausalLm, T: VisionTower, P: ProjectorModel> Policy for Vlm<L, T, P> {
    fn rate_groups(&self) -> BTreeMap<String, RateGroup> {
        Vlm::rate_groups(self)
    }

    fn log_probs(&self, batch: &Batch, device: &Device) -> RowLogProbs {
        let inputs = VlmInputs::upload(batch, device);
        let targets = Targets::upload(batch, device);
        RowLogProbs { values: Vlm::log_probs(self, &inputs, &targets), per_row: targets.per_row }
    }

    fn score(&self, batch: &Batch, device: &Device) -> Scored {
        let targets = Targets::upload(batch, device);
        if targets.count == 0 {
            return Scored { log_probs: vec![Vec::new(); batch.rows], ..Scored::default() };
        }
        let stats = self.stats(&VlmInputs::upload(batch, device), &targets);
        let values: Vec<f32> = stats.log_probs.into_data().iter::<f32>().collect();
        let guesses = stats.argmax.into_data();
        let wanted = targets.ids_s.into_data();
        let correct = guesses.iter::<i64>().zip(wanted.iter::<i64>()).filter(|(a, b)| a == b).count();
        let mut rest = values.as_slice();
        let log_probs = targets
            .per_row
            .iter()
            .map(|&n| {
                let (row, after) = rest.split_at(n);
                rest = after;
                row.to_vec()
            })
            .collect();
        Scored { log_probs, correct, total: targets.count }
    }

    fn generate(
        &self,
        prompts: &Batch,
        stop: &Stop,
        device: &Device,
        on_token: &mut dyn FnMut(usize, u32) -> bool,
    ) -> Vec<Vec<u32>> {
        greedy(self, &VlmInputs::upload(prompts, device), stop, on_token)
    }
}
