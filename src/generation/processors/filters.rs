//! Filters of a distribution to be sampled, by rank and by probability.
//!
//! `keep` is how many tokens a filter leaves at least: 1, and in beam sampling one more than there are stop tokens, so
//! that a beam can go on. A row whose scores have no finite peak passes unchanged; choosing from it is what fails, by
//! name.

use super::{LogitsProcessor, Needs, RowContext};
use crate::generation::math;

/// Divides every score.
///
/// # Source
/// transformers' `TemperatureLogitsWarper`.
#[derive(Clone, Copy, Debug)]
pub struct Temperature {
    /// Above 0; below 1 the likely becomes likelier.
    pub temperature: f32,
}

impl LogitsProcessor for Temperature {
    fn process(&self, _: &RowContext<'_>, scores: &mut [f32]) {
        scores.iter_mut().for_each(|score| *score /= self.temperature);
    }

    fn needs(&self) -> Needs {
        Needs::Temperature(self.temperature)
    }
}

/// Keeps the `k` best, and whatever is as good as the last of them.
///
/// # Source
/// transformers' `TopKLogitsWarper`.
#[derive(Clone, Copy, Debug)]
pub struct TopK {
    /// At least 1.
    pub k: usize,
    /// Tokens that stay at least.
    pub keep: usize,
}

impl LogitsProcessor for TopK {
    fn process(&self, _: &RowContext<'_>, scores: &mut [f32]) {
        let k = self.k.max(self.keep);
        if k >= scores.len() {
            return;
        }
        // Fewer than `k` are above -∞: nothing to remove.
        if let Some(&(_, last)) = math::top(scores, k).get(k - 1) {
            remove(scores, |score| score < last);
        }
    }

    fn needs(&self) -> Needs {
        Needs::Best(self.k.max(self.keep))
    }
}

/// Keeps the fewest of the likeliest tokens whose probabilities sum to `p` or more. Of equally likely ones at the
/// border those with the higher ids stay, as the reference has it.
///
/// Only tokens that can stay are sorted: one of probability `(1 - p) / vocabulary` or less cannot.
///
/// # Source
/// Holtzman et al. 2019; transformers' `TopPLogitsWarper`.
#[derive(Clone, Copy, Debug)]
pub struct TopP {
    /// From 0 to 1.
    pub p: f32,
    /// Tokens that stay at least.
    pub keep: usize,
}

impl LogitsProcessor for TopP {
    fn process(&self, _: &RowContext<'_>, scores: &mut [f32]) {
        let Some(peak) = math::peak(scores) else { return };
        let total = math::sum_exp(scores, peak);
        let removed = 1.0 - f64::from(self.p);
        let floor = removed * total / scores.len() as f64;
        let mut candidates: Vec<(u32, f32)> = Vec::new();
        let mut below = 0.0;
        for (id, &score) in scores.iter().enumerate() {
            let weight = f64::from(math::exp(score - peak));
            if weight > floor {
                candidates.push((id as u32, score));
            } else {
                below += weight;
            }
        }
        // The lowest first, and of equal ones the lowest id: what is dropped first.
        candidates.sort_unstable_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        let droppable = candidates.len().saturating_sub(self.keep);
        let mut sum = below;
        let kept = candidates[..droppable].iter().position(|&(_, score)| {
            sum += f64::from(math::exp(score - peak));
            sum > removed * total
        });
        let first = kept.unwrap_or(droppable);
        let mut survivors = candidates.split_off(first);
        if survivors.len() < self.keep {
            // The floor took tokens that `keep` demands.
            survivors = math::top(scores, self.keep);
        }
        scores.fill(f32::NEG_INFINITY);
        for (id, score) in survivors {
            scores[id as usize] = score;
        }
    }

    fn needs(&self) -> Needs {
        Needs::Survivors
    }
}

/// Removes what is less likely than `p` times the likeliest.
///
/// # Source
/// Nguyen et al. 2024; transformers' `MinPLogitsWarper`.
#[derive(Clone, Copy, Debug)]
pub struct MinP {
    /// From 0 to 1.
    pub p: f32,
    /// Tokens that stay at least.
    pub keep: usize,
}

impl LogitsProcessor for MinP {
    fn process(&self, _: &RowContext<'_>, scores: &mut [f32]) {
        let Some(peak) = math::peak(scores) else { return };
        let kept = math::top(scores, self.keep);
        remove(scores, |score| math::exp(score - peak) < self.p);
        restore(scores, &kept);
    }

    fn needs(&self) -> Needs {
        Needs::Survivors
    }
}

/// Turns scores into log-probabilities.
///
/// # Source
/// transformers' `LogitNormalization`.
#[derive(Clone, Copy, Debug)]
pub struct Renormalize;

impl LogitsProcessor for Renormalize {
    fn process(&self, _: &RowContext<'_>, scores: &mut [f32]) {
        // Where there is no peak, choosing from the row fails and says why.
        let _ = math::log_softmax(scores);
    }

    fn needs(&self) -> Needs {
        Needs::Survivors
    }
}

/// Gives `-∞` to scores of which `unwanted` is true.
pub(super) fn remove(scores: &mut [f32], unwanted: impl Fn(f32) -> bool) {
    for score in scores {
        *score = if unwanted(*score) { f32::NEG_INFINITY } else { *score };
    }
}

/// Puts back scores that stay whatever a filter says.
pub(super) fn restore(scores: &mut [f32], kept: &[(u32, f32)]) {
    for &(id, score) in kept {
        scores[id as usize] = score;
    }
}
