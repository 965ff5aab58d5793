//! Which records form which step: a pure function of data, settings and seed, so that a resumed run needs no cursor but
//! its step.

use super::Train;
use crate::data::{Lines, Sampler, pack};
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The order of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    order: Order,
    seed: u64,
    batch: usize,
    accumulation: usize,
    /// Optimizer steps per pass over the data.
    pub steps_per_epoch: usize,
    /// Optimizer steps of the whole run.
    pub total_steps: usize,
}

/// What is put in order anew for each pass.
#[derive(Clone, Debug)]
enum Order {
    /// Records that can be learned from, and their lengths as the sampler takes them.
    Records { sampler: Sampler, usable: Vec<usize>, lengths: Vec<i64> },
    /// Lines of records, packed once, so that all passes have as many steps; and the tokens of each.
    Lines { lines: Vec<Vec<usize>>, tokens: Vec<usize>, shuffled: bool },
}

impl Plan {
    /// The plan for records of these signed lengths (words, or tokens; negative without an image); those of length 0 are
    /// left out.
    pub fn new(settings: &Train, sampler: Sampler, lengths: &[i64]) -> Self {
        let usable = (0..lengths.len()).filter(|&i| lengths[i] != 0).collect();
        let lengths = lengths.iter().copied().filter(|&length| length != 0).collect();
        Self::of(settings, Order::Records { sampler, usable, lengths })
    }

    /// The plan for records of these numbers of tokens, packed into lines of at most `capacity`; those of length 0 are left
    /// out. A micro-batch is as many lines as it would have records. Shuffled, a line is made of records from all over the
    /// data, and that with the most tokens comes first; else lines and records are as they stand.
    pub fn packed(settings: &Train, shuffled: bool, tokens: &[usize], capacity: usize) -> Self {
        let usable: Vec<usize> = (0..tokens.len()).filter(|&i| tokens[i] != 0).collect();
        let lengths: Vec<usize> = usable.iter().map(|&i| tokens[i]).collect();
        let mut lines = pack(&lengths, capacity, shuffled.then_some(settings.seed));
        lines.iter_mut().flatten().for_each(|record| *record = usable[*record]);
        let tokens = lines.iter().map(|line| line.iter().map(|&i| tokens[i]).sum()).collect();
        Self::of(settings, Order::Lines { lines, tokens, shuffled })
    }

    fn of(settings: &Train, order: Order) -> Self {
        let mut plan = Self {
            order,
            seed: settings.seed,
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

    /// Records of a micro-batch; lines, where they are packed.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// The micro-batches of one pass, as record numbers.
    pub fn epoch(&self, epoch: usize) -> Vec<Lines> {
        match &self.order {
            Order::Records { sampler, usable, lengths } => {
                let batches = sampler.epoch(self.seed, epoch, lengths, self.batch, self.accumulation);
                let numbers = |batch: Vec<usize>| Lines::from(batch.into_iter().map(|i| usable[i]).collect::<Vec<_>>());
                batches.into_iter().map(numbers).collect()
            }
            Order::Lines { lines, tokens, shuffled } => {
                let order = if *shuffled { self.shuffle(epoch, tokens) } else { (0..lines.len()).collect() };
                let batch = |batch: &[usize]| Lines(batch.iter().map(|&line| lines[line].clone()).collect());
                order.chunks(self.batch.max(1)).map(batch).collect()
            }
        }
    }

    /// The lines in the order of a pass, the longest first: memory that does not suffice shows at once.
    fn shuffle(&self, epoch: usize, tokens: &[usize]) -> Vec<usize> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(epoch as u64);
        let mut order: Vec<usize> = (0..tokens.len()).collect();
        order.shuffle(&mut rng);
        // Of equal ones the first.
        if let Some(longest) = (0..order.len()).rev().max_by_key(|&at| tokens[order[at]]) {
            order.swap(0, longest);
        }
        order
    }

    /// The pass and the step within it that follow `done` steps.
    pub fn place(&self, done: usize) -> (usize, usize) {
        let per = self.steps_per_epoch.max(1);
        (done / per, done % per)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Train {
        Train {
            per_device_train_batch_size: 2,
            gradient_accumulation_steps: 2,
            num_train_epochs: 2.0,
            ..Train::default()
        }
    }

    #[test]
    fn steps_are_planned_from_lines() {
        // Record 2 cannot be learned from; the others fill four lines, so two micro-batches, so one step.
        let tokens = [6, 4, 0, 9, 5, 5, 8];
        let plan = Plan::packed(&settings(), true, &tokens, 10);
        assert_eq!((plan.steps_per_epoch, plan.total_steps), (1, 2));
        let orders: Vec<Vec<Lines>> = (0..8).map(|epoch| plan.epoch(epoch)).collect();
        for batches in &orders {
            assert_eq!(batches.iter().map(Lines::len).collect::<Vec<_>>(), [2, 2]);
            let mut records: Vec<usize> = batches.iter().flat_map(Lines::records).collect();
            records.sort_unstable();
            assert_eq!(records, [0, 1, 3, 4, 5, 6]);
            assert_eq!(batches[0].0[0].iter().map(|&i| tokens[i]).sum::<usize>(), 10, "a full line comes first");
        }
        assert!(orders.iter().any(|batches| *batches != orders[0]), "each pass has an order of its own");
        assert_eq!(Plan::packed(&settings(), true, &tokens, 10).epoch(3), orders[3]);
    }

    #[test]
    fn unshuffled_lines_are_as_the_records_stand() {
        let plan = Plan::packed(&settings(), false, &[6, 4, 0, 9, 5, 5, 8], 10);
        let batches = [Lines(vec![vec![0, 1], vec![3]]), Lines(vec![vec![4, 5], vec![6]])];
        assert_eq!((plan.epoch(0), plan.epoch(5)), (batches.to_vec(), batches.to_vec()));
    }

    #[test]
    fn records_keep_a_line_each() {
        let plan = Plan::new(&settings(), Sampler::Sequential, &[-3, 0, -2, 5]);
        assert_eq!(plan.epoch(1), [Lines::from(vec![0, 2]), Lines::from(vec![3])]);
        assert_eq!((plan.steps_per_epoch, plan.total_steps), (1, 2));
    }
}
