//! Filters of a distribution to be sampled that go by its entropy, or by a bound on probabilities.

use super::filters::{remove, restore};
use super::{LogitsProcessor, Needs, RowContext};
use crate::generation::math;

/// Keeps the fewest tokens, those first whose information is nearest to the entropy, whose probabilities sum to `mass`.
///
/// # Source
/// Meister et al. 2022; transformers' `TypicalLogitsWarper`.
#[derive(Clone, Copy, Debug)]
pub struct TypicalP {
    /// Above 0 and below 1.
    pub mass: f32,
    /// Tokens that stay at least.
    pub keep: usize,
}

impl LogitsProcessor for TypicalP {
    fn process(&self, _: &RowContext<'_>, scores: &mut [f32]) {
        let Some((log_sum, entropy)) = entropy_of(scores) else { return };
        let mut candidates: Vec<(u32, f32)> = scores
            .iter()
            .enumerate()
            .filter(|(_, score)| **score > f32::NEG_INFINITY)
            .map(|(id, &score)| (id as u32, (log_sum - f64::from(score) - entropy).abs() as f32))
            .collect();
        candidates.sort_unstable_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        let mut sum = 0.0;
        let last = candidates.iter().position(|&(id, _)| {
            sum += (f64::from(scores[id as usize]) - log_sum).exp();
            sum >= f64::from(self.mass)
        });
        let border = candidates[last.unwrap_or(candidates.len() - 1)].1;
        for (rank, &(id, shift)) in candidates.iter().enumerate() {
            if rank >= self.keep && shift > border {
                scores[id as usize] = f32::NEG_INFINITY;
            }
        }
    }

    fn needs(&self) -> Needs {
        Needs::Survivors
    }
}

/// Keeps tokens in the order of their probability while the entropy that they contribute stays within `h` of the whole,
/// where the whole is that of the 100 likeliest.
///
/// # Source
/// transformers' `TopHLogitsWarper`.
#[derive(Clone, Copy, Debug)]
pub struct TopH {
    /// Above 0, at most 1.
    pub h: f32,
}

impl LogitsProcessor for TopH {
    fn process(&self, _: &RowContext<'_>, scores: &mut [f32]) {
        /// The reference looks at no more.
        const CONSIDERED: usize = 100;
        let best = math::top(scores, CONSIDERED);
        let logits: Vec<f32> = best.iter().map(|&(_, score)| score).collect();
        let Some((log_sum, entropy)) = entropy_of(&logits) else { return };
        let budget = entropy * f64::from(self.h);
        let mut spent = 0.0;
        let over = logits.iter().position(|&logit| {
            let log = f64::from(logit) - log_sum;
            spent -= log * log.exp();
            spent > budget
        });
        scores.fill(f32::NEG_INFINITY);
        restore(scores, &best[..over.unwrap_or(best.len()).max(1)]);
    }

    fn needs(&self) -> Needs {
        Needs::Best(100)
    }
}

/// Removes what is less likely than `epsilon`.
///
/// # Source
/// Hewitt et al. 2022; transformers' `EpsilonLogitsWarper`.
#[derive(Clone, Copy, Debug)]
pub struct EpsilonCutoff {
    /// Above 0 and below 1.
    pub epsilon: f32,
    /// Tokens that stay at least.
    pub keep: usize,
}

impl LogitsProcessor for EpsilonCutoff {
    fn process(&self, _: &RowContext<'_>, scores: &mut [f32]) {
        if let Some((log_sum, _)) = entropy_of(scores) {
            cut(scores, log_sum, f64::from(self.epsilon), self.keep);
        }
    }

    fn needs(&self) -> Needs {
        Needs::Survivors
    }
}

/// Removes what is less likely than the smaller of `epsilon` and `√epsilon · e^-entropy`.
///
/// # Source
/// Hewitt et al. 2022; transformers' `EtaLogitsWarper`.
#[derive(Clone, Copy, Debug)]
pub struct EtaCutoff {
    /// Above 0 and below 1.
    pub epsilon: f32,
    /// Tokens that stay at least.
    pub keep: usize,
}

impl LogitsProcessor for EtaCutoff {
    fn process(&self, _: &RowContext<'_>, scores: &mut [f32]) {
        if let Some((log_sum, entropy)) = entropy_of(scores) {
            let epsilon = f64::from(self.epsilon);
            cut(scores, log_sum, epsilon.min(epsilon.sqrt() * (-entropy).exp()), self.keep);
        }
    }

    fn needs(&self) -> Needs {
        Needs::Survivors
    }
}

/// Removes what is less likely than `bound`, but for the best `keep` and what is as good as the last of them.
fn cut(scores: &mut [f32], log_sum: f64, bound: f64, keep: usize) {
    let Some(&(_, last)) = math::top(scores, keep).last() else { return };
    remove(scores, |score| score < last && (f64::from(score) - log_sum).exp() < bound);
}

/// The logarithm of the sum of exponentials, and the entropy in nats; `None` where there is no finite peak.
fn entropy_of(scores: &[f32]) -> Option<(f64, f64)> {
    let log_sum = math::log_sum_exp(scores)?;
    let entropy = scores
        .iter()
        .filter(|score| **score > f32::NEG_INFINITY)
        .map(|&score| {
            let log = f64::from(score) - log_sum;
            -log * log.exp()
        })
        .sum();
    Some((log_sum, entropy))
}
