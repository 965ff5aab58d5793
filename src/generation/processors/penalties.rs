//! Processors that hold a row back from repeating itself.

use super::{LogitsProcessor, RowContext};

/// Divides the positive scores of tokens that the prompt or the answer holds by `penalty`, and multiplies the negative
/// ones: once for each token, however often it occurs.
///
/// # Source
/// Keskar et al. 2019; transformers' `RepetitionPenaltyLogitsProcessor`, which leaves padding out as this does.
#[derive(Clone, Copy, Debug)]
pub struct RepetitionPenalty {
    /// Above 0; 1 changes nothing, more penalizes.
    pub penalty: f32,
}

impl LogitsProcessor for RepetitionPenalty {
    fn process(&self, row: &RowContext<'_>, scores: &mut [f32]) {
        let mut seen = vec![false; scores.len()];
        // A table of embeddings may be larger than the head: such an id has no score.
        for id in row.ids() {
            if let (Some(seen), Some(score)) = (seen.get_mut(id as usize), scores.get_mut(id as usize))
                && !std::mem::replace(seen, true)
            {
                *score = if *score < 0.0 { *score * self.penalty } else { *score / self.penalty };
            }
        }
    }
}

/// Takes `penalty` off a token's score for every time that the answer, not the prompt, holds it.
///
/// # Source
/// OpenAI's `frequency_penalty`, as vLLM computes it; transformers has none.
#[derive(Clone, Copy, Debug)]
pub struct FrequencyPenalty {
    /// 0 changes nothing, less rewards repetition.
    pub penalty: f32,
}

impl LogitsProcessor for FrequencyPenalty {
    fn process(&self, row: &RowContext<'_>, scores: &mut [f32]) {
        for (id, times) in counted(row.generated) {
            if let Some(score) = scores.get_mut(id as usize) {
                *score -= self.penalty * times as f32;
            }
        }
    }

    fn active(&self, row: &RowContext<'_>) -> bool {
        !row.generated.is_empty()
    }
}

/// Takes `penalty` off the score of every token that the answer, not the prompt, holds.
///
/// # Source
/// OpenAI's `presence_penalty`, as vLLM computes it; transformers has none.
#[derive(Clone, Copy, Debug)]
pub struct PresencePenalty {
    /// 0 changes nothing, less rewards repetition.
    pub penalty: f32,
}

impl LogitsProcessor for PresencePenalty {
    fn process(&self, row: &RowContext<'_>, scores: &mut [f32]) {
        for (id, _) in counted(row.generated) {
            if let Some(score) = scores.get_mut(id as usize) {
                *score -= self.penalty;
            }
        }
    }

    fn active(&self, row: &RowContext<'_>) -> bool {
        !row.generated.is_empty()
    }
}

/// The different ids, each with how often it occurs.
fn counted(ids: &[u32]) -> Vec<(u32, usize)> {
    let mut sorted = ids.to_vec();
    sorted.sort_unstable();
    sorted.chunk_by(|a, b| a == b).map(|run| (run[0], run.len())).collect()
}

/// Forbids the token that would complete a sequence of `size` tokens which the prompt or the answer already holds.
///
/// # Source
/// Paulus et al. 2017; transformers' `NoRepeatNGramLogitsProcessor`.
#[derive(Clone, Copy, Debug)]
pub struct NoRepeatNgram {
    /// At least 1; 1 forbids every token that occurred.
    pub size: usize,
}

impl LogitsProcessor for NoRepeatNgram {
    fn process(&self, row: &RowContext<'_>, scores: &mut [f32]) {
        if !self.active(row) {
            return;
        }
        let ids: Vec<u32> = row.ids().collect();
        let prefix = &ids[ids.len() + 1 - self.size..];
        for window in ids.windows(self.size) {
            if let Some((&last, before)) = window.split_last()
                && before == prefix
                && let Some(score) = scores.get_mut(last as usize)
            {
                *score = f32::NEG_INFINITY;
            }
        }
    }

    fn active(&self, row: &RowContext<'_>) -> bool {
        self.size > 0 && row.len() >= self.size
    }
}
