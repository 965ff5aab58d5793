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
/// The vocabulary is not sorted: a token of probability `(1 - p) / vocabulary` or less cannot stay, and of the others the
/// border is found by halving.
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
        let dropped = (1.0 - f64::from(self.p)) * total;
        // Compared as scores, so that most of the vocabulary costs no exponential. At `p` of 1 nothing is below.
        let floor = peak + (dropped / scores.len() as f64).ln() as f32;
        let candidates: Vec<(u32, f32)> =
            (0..).zip(scores.iter().copied()).filter(|(_, score)| *score > floor).collect();
        let below = math::sum_exp_up_to(scores, peak, floor);
        let weight = |&(_, score): &(u32, f32)| f64::from(math::exp(score - peak));
        let mut survivors = heaviest(candidates, dropped - below, weight);
        if survivors.len() < self.keep {
            survivors = math::top(scores, self.keep);
        }
        scores.fill(f32::NEG_INFINITY);
        restore(scores, &survivors);
    }

    fn needs(&self) -> Needs {
        Needs::Survivors
    }
}

/// What is left of `candidates` when the lowest go whose weights, summed from the lowest on, stay within `dropped`; of
/// equal ones the lowest id goes first.
///
/// Halves until few are left to sort: what a half weighs says in which one the border lies.
fn heaviest(mut candidates: Vec<(u32, f32)>, mut dropped: f64, weight: impl Fn(&(u32, f32)) -> f64) -> Vec<(u32, f32)> {
    const FEW: usize = 64;
    let lowest_first = |a: &(u32, f32), b: &(u32, f32)| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0));
    let mut survivors = Vec::new();
    while candidates.len() > FEW {
        let half = candidates.len() / 2;
        candidates.select_nth_unstable_by(half, lowest_first);
        let upper = candidates.split_off(half);
        let lower: f64 = candidates.iter().map(&weight).sum();
        if lower <= dropped {
            dropped -= lower;
            candidates = upper;
        } else {
            survivors.extend(upper);
        }
    }
    candidates.sort_unstable_by(lowest_first);
    let mut sum = 0.0;
    let first = candidates.iter().position(|candidate| {
        sum += weight(candidate);
        sum > dropped
    });
    survivors.extend(candidates.drain(first.unwrap_or(candidates.len())..));
    survivors
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
