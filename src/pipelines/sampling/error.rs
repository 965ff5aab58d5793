//! Why nothing is chosen of a record.

use crate::data::{DataError, Place};

/// A record among whose answers nothing can be chosen.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// Not to be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A record without rewards where they are read.
    #[error("{place}, record `{id}`: there are no `rewards`; let infer_reward write them first")]
    NoRewards {
        /// Where the record stands.
        place: Place,
        /// The record.
        id: String,
    },
    /// An answer without a reward.
    #[error(
        "{place}, record `{id}`: `rewards` has none for the answer `{answer}`; give every answer one, or remove the answer"
    )]
    NoReward {
        /// Where the record stands.
        place: Place,
        /// The record.
        id: String,
        /// The answer.
        answer: String,
    },
    /// A reward without an answer.
    #[error(
        "{place}, record `{id}`: `rewards` has one for `{answer}`, and no answer is called so; remove it, or name the answer"
    )]
    NoAnswer {
        /// Where the record stands.
        place: Place,
        /// The record.
        id: String,
        /// The answer that is not there.
        answer: String,
    },
    /// Two answers of one name.
    #[error("{place}, record `{id}`: two answers are called `{answer}`; give each an id of its own")]
    SameId {
        /// Where the record stands.
        place: Place,
        /// The record.
        id: String,
        /// Their name.
        answer: String,
    },
    /// A record that was there before.
    #[error(
        "{place}, record `{id}`: a record of this id and data set stands at {first}; its draws would be the same, so remove one or rename it"
    )]
    SameRecord {
        /// Where the second one stands.
        place: Place,
        /// The record.
        id: String,
        /// Where the first one stands.
        first: Place,
    },
    /// Fewer answers than are to be chosen.
    #[error(
        "{place}, record `{id}`: answers to choose from: {found}{}, wanted: {wanted}; ask for fewer, or take `--few keep` \
         or `--few skip`", different(*.found, *.all)
    )]
    TooFew {
        /// Where the record stands.
        place: Place,
        /// The record.
        id: String,
        /// Answers that may be chosen.
        found: usize,
        /// Answers that it has.
        all: usize,
        /// Answers that are wanted.
        wanted: usize,
    },
}

fn different(found: usize, all: usize) -> String {
    if found == all { String::new() } else { format!(" (different ones of {all})") }
}
