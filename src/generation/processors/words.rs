//! Processors that push, forbid or demand particular tokens.

use super::{LogitsProcessor, RowContext};

/// Adds a bias to the last token of a sequence where the tokens before it have just been written; a sequence of one
/// token is always biased (OpenAI's `logit_bias`).
///
/// # Source
/// transformers' `SequenceBiasLogitsProcessor`.
#[derive(Clone, Debug)]
pub struct SequenceBias {
    /// Sequences and what is added; one without ids does nothing.
    pub biases: Vec<(Vec<u32>, f32)>,
}

impl LogitsProcessor for SequenceBias {
    fn process(&self, row: &RowContext<'_>, scores: &mut [f32]) {
        for (ids, bias) in &self.biases {
            add(ids, *bias, row, scores);
        }
    }
}

/// Adds `bias` to the last of `ids` where the row ends with those before it.
fn add(ids: &[u32], bias: f32, row: &RowContext<'_>, scores: &mut [f32]) {
    if let Some((&last, before)) = ids.split_last()
        && let Some(score) = scores.get_mut(last as usize)
        && row.ends_with(before)
    {
        *score += bias;
    }
}

/// Forbids the last token of a sequence where the tokens before it have just been written.
///
/// # Source
/// transformers' `NoBadWordsLogitsProcessor`.
#[derive(Clone, Debug)]
pub struct BadWords {
    words: Vec<Vec<u32>>,
}

impl BadWords {
    /// Forbids `words`, but for those that are one of the `stop` tokens: an answer must be able to end.
    pub fn new(words: Vec<Vec<u32>>, stop: &[u32]) -> Self {
        let is_stop = |word: &[u32]| matches!(word, [id] if stop.contains(id));
        Self { words: words.into_iter().filter(|word| !is_stop(word)).collect() }
    }
}

impl LogitsProcessor for BadWords {
    fn process(&self, row: &RowContext<'_>, scores: &mut [f32]) {
        for word in &self.words {
            add(word, f32::NEG_INFINITY, row, scores);
        }
    }

    fn active(&self, row: &RowContext<'_>) -> bool {
        self.words.iter().any(|word| word.split_last().is_some_and(|(_, before)| row.ends_with(before)))
    }
}

/// Forbids every token but these.
///
/// Where all of them were forbidden already, they are allowed again, all alike; not for one beam of several, which
/// would gain by it over those that obey both rules.
///
/// # Source
/// transformers' `PrefixConstrainedLogitsProcessor` with one list for every prefix; vLLM's `allowed_token_ids`.
#[derive(Clone, Debug)]
pub struct AllowedTokens {
    ids: Vec<u32>,
}

impl AllowedTokens {
    /// Allows `ids` and nothing else.
    pub fn new(mut ids: Vec<u32>) -> Self {
        ids.sort_unstable();
        ids.dedup();
        Self { ids }
    }
}

impl LogitsProcessor for AllowedTokens {
    fn process(&self, row: &RowContext<'_>, scores: &mut [f32]) {
        let mut allowed = self.ids.iter().map(|&id| id as usize).peekable();
        let mut possible = false;
        for (id, score) in scores.iter_mut().enumerate() {
            if allowed.next_if_eq(&id).is_some() {
                possible |= *score > f32::NEG_INFINITY;
            } else {
                *score = f32::NEG_INFINITY;
            }
        }
        if !possible && row.beams == 1 {
            for &id in &self.ids {
                if let Some(score) = scores.get_mut(id as usize) {
                    *score = 0.0;
                }
            }
        }
    }
}

/// Forbids these tokens.
///
/// # Source
/// transformers' `SuppressTokensLogitsProcessor`.
#[derive(Clone, Debug)]
pub struct SuppressTokens {
    /// The forbidden ids.
    pub ids: Vec<u32>,
}

impl LogitsProcessor for SuppressTokens {
    fn process(&self, _: &RowContext<'_>, scores: &mut [f32]) {
        forbid(&self.ids, scores);
    }
}

/// Forbids these tokens as the first of an answer.
///
/// # Source
/// transformers' `SuppressTokensAtBeginLogitsProcessor`.
#[derive(Clone, Debug)]
pub struct BeginSuppressTokens {
    /// The ids that may not come first.
    pub ids: Vec<u32>,
}

impl LogitsProcessor for BeginSuppressTokens {
    fn process(&self, row: &RowContext<'_>, scores: &mut [f32]) {
        if self.active(row) {
            forbid(&self.ids, scores);
        }
    }

    fn active(&self, row: &RowContext<'_>) -> bool {
        row.generated.is_empty()
    }
}

/// Gives these ids `-∞`.
pub(super) fn forbid(ids: &[u32], scores: &mut [f32]) {
    for &id in ids {
        if let Some(score) = scores.get_mut(id as usize) {
            *score = f32::NEG_INFINITY;
        }
    }
}

/// Replaces NaN by 0 and infinities by the largest finite numbers, for models that produce such.
///
/// # Source
/// transformers' `InfNanRemoveLogitsProcessor`.
#[derive(Clone, Copy, Debug)]
pub struct RemoveInvalid;

impl LogitsProcessor for RemoveInvalid {
    fn process(&self, _: &RowContext<'_>, scores: &mut [f32]) {
        for score in scores {
            *score = if score.is_nan() { 0.0 } else { score.clamp(f32::MIN, f32::MAX) };
        }
    }
}
