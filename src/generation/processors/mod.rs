//! What changes a row's scores before a token is chosen.
//!
//! A [`LogitsProcessor`] sees one row at a time: its prompt without padding, what was generated, and the scores of the
//! whole vocabulary, which it changes in place. Other crates can write their own and add them to
//! [`Decoding::processors`](super::decoding::Decoding::processors).
//!
//! The order is that of transformers: [`SequenceBias`], [`RepetitionPenalty`], ([`FrequencyPenalty`],
//! [`PresencePenalty`]: transformers has none), [`NoRepeatNgram`], [`BadWords`], [`MinLength`], [`MinNewTokens`],
//! [`AllowedTokens`], [`RemoveInvalid`], [`SuppressTokens`], [`BeginSuppressTokens`], processors of other crates, and,
//! where tokens are sampled, the filters [`Temperature`], [`TopH`], [`TopK`], [`TopP`], [`MinP`], [`TypicalP`],
//! [`EpsilonCutoff`], [`EtaCutoff`]; last [`Renormalize`].

mod entropy;
mod filters;
mod length;
mod penalties;
#[cfg(test)]
mod tests;
mod words;

pub use entropy::{EpsilonCutoff, EtaCutoff, TopH, TypicalP};
pub use filters::{MinP, Renormalize, Temperature, TopK, TopP};
pub use length::{MinLength, MinNewTokens};
pub use penalties::{FrequencyPenalty, NoRepeatNgram, PresencePenalty, RepetitionPenalty};
pub use words::{AllowedTokens, BadWords, BeginSuppressTokens, RemoveInvalid, SequenceBias, SuppressTokens};

use std::fmt::Debug;

/// What is known of a row when its next token is chosen.
#[derive(Clone, Copy, Debug)]
pub struct RowContext<'a> {
    /// The prompt's ids, without padding.
    pub prompt: &'a [u32],
    /// What was generated so far; the step's number is its length.
    pub generated: &'a [u32],
    /// How many beams of this row are scored beside one another.
    pub beams: usize,
}

impl RowContext<'_> {
    /// How many tokens were generated before this one.
    pub fn step(&self) -> usize {
        self.generated.len()
    }

    /// Tokens of the prompt and of the answer so far.
    pub fn len(&self) -> usize {
        self.prompt.len() + self.generated.len()
    }

    /// Whether there is neither a prompt nor an answer.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The ids of the prompt, then those that were generated.
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = u32> + ExactSizeIterator + '_ {
        let (prompt, generated) = (self.prompt, self.generated);
        (0..self.len()).map(move |i| if i < prompt.len() { prompt[i] } else { generated[i - prompt.len()] })
    }

    /// Whether the ids end with `suffix`.
    pub fn ends_with(&self, suffix: &[u32]) -> bool {
        suffix.len() <= self.len() && self.ids().rev().zip(suffix.iter().rev()).all(|(a, &b)| a == b)
    }
}

/// Changes the scores of one row before a token is chosen from them.
///
/// `scores` has one element per id of the model's vocabulary: logits, and log-probabilities in beam search. A token
/// that must not come has `-∞`. The same processor serves many rows at once, and a row's scores must depend on nothing
/// but its context, so that a row's answer does not depend on the rows beside it.
///
/// ```
/// use firebrick::generation::processors::{LogitsProcessor, RowContext};
///
/// /// Forbids odd tokens.
/// #[derive(Debug)]
/// struct Even;
///
/// impl LogitsProcessor for Even {
///     fn process(&self, _: &RowContext<'_>, scores: &mut [f32]) {
///         scores.iter_mut().skip(1).step_by(2).for_each(|score| *score = f32::NEG_INFINITY);
///     }
/// }
///
/// let mut scores = [1.0, 2.0, 3.0];
/// Even.process(&RowContext { prompt: &[], generated: &[], beams: 1 }, &mut scores);
/// assert_eq!(scores, [1.0, f32::NEG_INFINITY, 3.0]);
/// ```
pub trait LogitsProcessor: Debug + Send + Sync {
    /// Changes the scores.
    fn process(&self, row: &RowContext<'_>, scores: &mut [f32]);

    /// Whether it would change anything in this context; where no processor would, a model need not bring its logits to
    /// the host.
    fn active(&self, _: &RowContext<'_>) -> bool {
        true
    }

    /// How much of the distribution it needs to see.
    fn needs(&self) -> Needs {
        Needs::Everything
    }
}

/// How much of a distribution a [`LogitsProcessor`] needs to see.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Needs {
    /// Every score, each at its id's place.
    Everything,
    /// It divides every score by this number.
    Temperature(f32),
    /// It keeps so many of the best, whatever the rest are.
    Best(usize),
    /// It goes by the scores above `-∞` alone, not by their ids: it may be handed only those, in the order of their
    /// ids.
    Survivors,
}
