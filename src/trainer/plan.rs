//! Which records form which step: a pure function of data, settings and seed, so that a resumed run needs no cursor but
//! its step.

use super::Train;
use crate::data::Sampler;

/// The order of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    sampler: Sampler,
    seed: u64,
    /// Records that can be learned from, and their lengths.
    usable: Vec<usize>,
    lengths: Vec<i64>,
    batch: usize,
    accumulation: usize,
    /// Optimizer steps per pass over the data.
    pub steps_per_epoch: usize,
    /// Optimizer steps of the whole run.
    pub total_steps: usize,
}

impl Plan {
    /// The plan for records of these signed lengths (words; negative without an image); those of length 0 are left out.
    pub fn new(settings: &Train, sampler: Sampler, lengths: &[i64]) -> Self {
        let mut plan = Self {
            sampler,
            seed: settings.seed,
            usable: (0..lengths.len()).filter(|&i| lengths[i] != 0).collect(),
            lengths: lengths.iter().copied().filter(|&length| length != 0).collect(),
            batch: settings.per_device_train_batch_size,
            accumulation: settings.gradient_accumulation_steps,
            steps_per_epoch: 0,
            total_steps: 0,
        };
        plan.steps_per_epoch = plan.epoch(0).len().div_ceil(plan.accumulation);
        let by_epochs = (plan.steps_per_epoch as f64 * settings.num_train_epochs).ceil() as usize;
        plan.total_steps = settings.max_steps.unwrap_or(by_epochs);
        plan
    }

    /// Records of a micro-batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The micro-batches of one pass, as record numbers.
    pub fn epoch(&self, epoch: usize) -> Vec<Vec<usize>> {
        let mut batches = self.sampler.epoch(self.seed, epoch, &self.lengths, self.batch, self.accumulation);
        for index in batches.iter_mut().flatten() {
            *index = self.usable[*index];
        }
        batches
    }

    /// The pass and the step within it that follow `done` steps.
    pub fn place(&self, done: usize) -> (usize, usize) {
        let per = self.steps_per_epoch.max(1);
        (done / per, done % per)
    }
}
