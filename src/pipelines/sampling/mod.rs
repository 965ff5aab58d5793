//! Choosing among a record's answers, and pairs of them for preference training.
//!
//! [`Sampling`] says how: a [`Choice`] of answers, then a [`Pairing`] of what was chosen. Each record has draws of its own, made of
//! the seed, its data set and its id: they are the same whatever other records there are and in whatever order.

mod choose;
mod error;
mod pairing;
#[cfg(test)]
mod tests;

pub use choose::{best_first, rejection};
pub use error::SamplingError;
pub use pairing::Pairing;

use super::{PredictedAnswer, Prediction};
use crate::data::message::{self, Messages};
use crate::data::row::Row;
use crate::data::{DataError, Place};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::num::NonZeroUsize;

/// Which answers are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Choice {
    /// Any so many, each as likely, in the record's order.
    Random(NonZeroUsize),
    /// The so many with the highest rewards, best first.
    Best(NonZeroUsize),
    /// The so many with the lowest rewards, best first.
    Worst(NonZeroUsize),
    /// From both ends, as many of each (of an odd number one more of the best), best first.
    BestAndWorst(NonZeroUsize),
    /// The best, and the one of this rank; the best's rank is 1.
    BestAndNth(NonZeroUsize),
    /// So many by statistical rejection sampling, in the order of their acceptance.
    Rejection {
        /// How many.
        count: NonZeroUsize,
        /// Above 0: the smaller it is, the more of the best are taken.
        beta: f64,
    },
}

impl Choice {
    /// Answers that a record must have.
    pub fn needed(self) -> usize {
        match self {
            Self::Random(n) | Self::Best(n) | Self::Worst(n) | Self::BestAndWorst(n) | Self::BestAndNth(n) => n.get(),
            Self::Rejection { count, .. } => count.get(),
        }
    }

    fn reads_rewards(self) -> bool {
        !matches!(self, Self::Random(_))
    }
}

/// What is done with a record of fewer answers than are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Few {
    /// It is an error.
    #[default]
    Error,
    /// It is left out.
    Skip,
    /// As many of its answers are chosen as can be; one without any is left out.
    Keep,
}

/// How answers are chosen and paired.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sampling {
    /// Which answers are chosen.
    pub choice: Choice,
    /// Which pairs are made of them; `None` makes none.
    pub pairing: Option<Pairing>,
    /// Whether of answers with the same words, white space around them aside, the first alone is considered.
    pub unique: bool,
    /// What is done where there are too few.
    pub few: Few,
    /// Pairs whose rewards are closer than this are left out; so are those of equal rewards.
    pub min_margin: f64,
    /// Same seed, same choice.
    pub seed: u64,
}

/// What was chosen of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawn {
    /// The record with the answers that were chosen, and their rewards where it has any.
    pub record: Prediction,
    /// The pairs, as [`PairsMarginData`](crate::data::PairsMarginData) reads them; the margin is the difference of the rewards.
    pub pairs: Vec<Value>,
    /// Pairs that were left out.
    pub left_out: LeftOut,
}

/// Pairs that were not made, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeftOut {
    /// Both answers say the same.
    pub same_words: usize,
    /// One of the answers says nothing.
    pub empty: usize,
    /// The rewards are equal, or too close.
    pub close: usize,
}

impl LeftOut {
    /// All of them.
    pub fn total(self) -> usize {
        self.same_words + self.empty + self.close
    }
}

impl std::ops::AddAssign for LeftOut {
    fn add_assign(&mut self, other: Self) {
        self.same_words += other.same_words;
        self.empty += other.empty;
        self.close += other.close;
    }
}

impl Sampling {
    /// Chooses among the answers of `record`, which stands at `place`; `None` where it is left out for having too few.
    ///
    /// # Errors
    /// [`SamplingError`]: answers without a reward where rewards are read, two of one id, rewards of answers that are not there, too
    /// few answers under [`Few::Error`].
    pub fn draw(&self, mut record: Prediction, place: &Place) -> Result<Option<Drawn>, SamplingError> {
        let rewards = self.rewards(&record, place)?;
        let considered = considered(&record.answers, self.unique);
        let wanted = self.choice.needed();
        if considered.len() < wanted {
            match self.few {
                Few::Skip => return Ok(None),
                Few::Keep if considered.is_empty() => return Ok(None),
                Few::Keep => {}
                Few::Error => {
                    let (place, id) = (place.clone(), record.id);
                    let (found, all) = (considered.len(), record.answers.len());
                    return Err(SamplingError::TooFew { place, id, found, all, wanted });
                }
            }
        }
        let mut rng = ChaCha8Rng::from_seed(self.own_seed(&record));
        let own: Vec<f64> = considered.iter().map(|&i| rewards.get(i).copied().unwrap_or_default()).collect();
        let chosen: Vec<usize> =
            choose::choose(self.choice, &own, &mut rng).into_iter().map(|i| considered[i]).collect();
        let (mut pairs, mut left_out) = (Vec::new(), LeftOut::default());
        if let Some(pairing) = self.pairing {
            let own: Vec<f64> = chosen.iter().map(|&i| rewards[i]).collect();
            let context = pairing_context(&record, place)?;
            for (won, lost) in pairing.pairs(&own, &mut rng) {
                let (won, lost) = (chosen[won], chosen[lost]);
                let margin = rewards[won] - rewards[lost];
                let two = [&record.answers[won], &record.answers[lost]];
                if self.suits(two, margin, &mut left_out) {
                    pairs.push(json!({
                        "id": record.id,
                        "context": context,
                        "answer_w": said(two[0]),
                        "answer_l": said(two[1]),
                        "precomputed_margin": margin,
                    }));
                }
            }
            number(&mut pairs, &record.id);
        }
        if let Some(rewards) = &mut record.rewards {
            let kept: HashSet<&str> = chosen.iter().map(|&i| record.answers[i].id.as_str()).collect();
            rewards.retain(|id, _| kept.contains(id.as_str()));
        }
        record.answers = chosen.iter().map(|&i| record.answers[i].clone()).collect();
        Ok(Some(Drawn { record, pairs, left_out }))
    }

    /// The reward of each answer; none where nobody reads them.
    fn rewards(&self, record: &Prediction, place: &Place) -> Result<Vec<f64>, SamplingError> {
        let at = || (place.clone(), record.id.clone());
        let mut seen = HashSet::new();
        if let Some(twice) = record.answers.iter().find(|answer| !seen.insert(answer.id.as_str())) {
            let (place, id) = at();
            return Err(SamplingError::SameId { place, id, answer: twice.id.clone() });
        }
        if !self.choice.reads_rewards() && self.pairing.is_none() {
            return Ok(Vec::new());
        }
        let Some(rewards) = &record.rewards else {
            let (place, id) = at();
            return Err(SamplingError::NoRewards { place, id });
        };
        if let Some(answer) = rewards.keys().find(|id| !seen.contains(id.as_str())) {
            let (place, id) = at();
            return Err(SamplingError::NoAnswer { place, id, answer: answer.clone() });
        }
        let reward = |answer: &PredictedAnswer| {
            rewards.get(&answer.id).copied().ok_or_else(|| {
                let (place, id) = at();
                SamplingError::NoReward { place, id, answer: answer.id.clone() }
            })
        };
        record.answers.iter().map(reward).collect()
    }

    /// Whether two answers make a pair; where they do not, it is counted.
    fn suits(&self, [won, lost]: [&PredictedAnswer; 2], margin: f64, left_out: &mut LeftOut) -> bool {
        let (won, lost) = (won.said(), lost.said());
        let (won, lost) = (won.trim(), lost.trim());
        let reason = if won == lost {
            &mut left_out.same_words
        } else if won.is_empty() || lost.is_empty() {
            &mut left_out.empty
        } else if margin > 0.0 && margin >= self.min_margin {
            return true;
        } else {
            &mut left_out.close
        };
        *reason += 1;
        false
    }

    /// A seed that no other record has.
    fn own_seed(&self, record: &Prediction) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_le_bytes());
        for word in [&record.dataset_name, &record.id] {
            hash.update((word.len() as u64).to_le_bytes());
            hash.update(word.as_bytes());
        }
        hash.finalize().into()
    }
}

/// The answers that may be chosen, by their numbers.
fn considered(answers: &[PredictedAnswer], unique: bool) -> Vec<usize> {
    let mut seen = HashSet::new();
    (0..answers.len()).filter(|&i| !unique || seen.insert(answers[i].said().trim().to_owned())).collect()
}

fn said(answer: &PredictedAnswer) -> Value {
    json!({"role": "bot", "content": answer.said()})
}

/// The messages before the answers, in the form that pairs have: contents are strings, images messages of their own.
fn pairing_context(record: &Prediction, place: &Place) -> Result<Value, DataError> {
    if record.messages.iter().all(|message| message.get("content").is_none_or(Value::is_string)) {
        return Ok(Value::Array(record.messages.clone()));
    }
    let mut row: Row = record.rest.clone();
    row.insert("messages".into(), Value::Array(record.messages.clone()));
    let mut reader = Messages::hugging_face(&row, place)?;
    let mut messages = reader.list(&row, "messages")?;
    let images = reader.images(&mut messages)?;
    Ok(message::chat_row(&messages, &images))
}

/// Several pairs of one record have ids of their own.
fn number(pairs: &mut [Value], id: &str) {
    if pairs.len() > 1 {
        for (n, pair) in pairs.iter_mut().enumerate() {
            pair["id"] = format!("{id}-{n}").into();
        }
    }
}
