//! Processors that keep an answer from ending too soon.

use super::words::forbid;
use super::{LogitsProcessor, RowContext};

/// Forbids stop tokens until prompt and answer together have `length` tokens.
///
/// # Source
/// transformers' `MinLengthLogitsProcessor`, but for the padding, which it counts and this does not.
#[derive(Clone, Debug)]
pub struct MinLength {
    /// Tokens of prompt and answer.
    pub length: usize,
    /// The stop tokens.
    pub stop: Vec<u32>,
}

impl LogitsProcessor for MinLength {
    fn process(&self, row: &RowContext<'_>, scores: &mut [f32]) {
        if self.active(row) {
            forbid(&self.stop, scores);
        }
    }

    fn active(&self, row: &RowContext<'_>) -> bool {
        row.len() < self.length
    }
}

/// Forbids stop tokens until the answer has `tokens` tokens. Stop strings still end it.
///
/// # Source
/// transformers' `MinNewTokensLengthLogitsProcessor`.
#[derive(Clone, Debug)]
pub struct MinNewTokens {
    /// Tokens of the answer.
    pub tokens: usize,
    /// The stop tokens.
    pub stop: Vec<u32>,
}

impl LogitsProcessor for MinNewTokens {
    fn process(&self, row: &RowContext<'_>, scores: &mut [f32]) {
        if self.active(row) {
            forbid(&self.stop, scores);
        }
    }

    fn active(&self, row: &RowContext<'_>) -> bool {
        row.step() < self.tokens
    }
}
