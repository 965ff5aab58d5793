//! One answer: while it grows, and when it is done.

use super::choose::{Choice, TokenLogprob};
use super::stop::{Detokenizer, FinishReason, StopRules, Watch};

/// A finished answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// Every generated token, the stop token included.
    pub ids: Vec<u32>,
    /// The text, without a stop token or stop string; empty where the row has no detokenizer.
    pub text: String,
    /// Why it ended.
    pub finish: FinishReason,
    /// Beam search: the sum of the tokens' scores over length to the power of the length penalty. Otherwise the sum of
    /// the tokens' log-probabilities, where they are returned.
    pub score: Option<f64>,
    /// One for each token, where they are returned.
    pub logprobs: Vec<TokenLogprob>,
}

impl Sequence {
    /// The tokens without the stop token that ended them.
    pub fn content_ids(&self) -> &[u32] {
        match (&self.finish, self.ids.split_last()) {
            (FinishReason::StopToken(stop), Some((last, before))) if last == stop => before,
            _ => &self.ids,
        }
    }

    /// Mean log-probability of the tokens, by which OpenAI's API ranks `best_of`; `None` without log-probabilities.
    pub fn mean_logprob(&self) -> Option<f64> {
        let sum: f64 = self.logprobs.iter().map(|token| f64::from(token.logprob)).sum();
        (!self.logprobs.is_empty()).then(|| sum / self.logprobs.len() as f64)
    }
}

/// What has happened to one answer of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Number of the answer among the row's.
    pub sequence: usize,
    /// The new token; `None` where an answer is reported as a whole (beam search).
    pub token: Option<u32>,
    /// Text that may be shown now.
    pub text: String,
    /// About the new token, where log-probabilities are returned.
    pub logprob: Option<TokenLogprob>,
    /// Set with the last event of an answer.
    pub finish: Option<FinishReason>,
}

/// An answer that grows.
#[derive(Clone, Debug)]
pub(super) struct Strand {
    pub(super) ids: Vec<u32>,
    watch: Option<Watch>,
    pub(super) logprobs: Vec<TokenLogprob>,
    pub(super) finish: Option<FinishReason>,
}

impl Strand {
    pub(super) fn new(detokenizer: Option<&dyn Detokenizer>) -> Self {
        let watch = detokenizer.map(|detokenizer| Watch::new(detokenizer.fork()));
        Self { ids: Vec::new(), watch, logprobs: Vec::new(), finish: None }
    }

    /// Takes the next token.
    pub(super) fn push(&mut self, choice: Choice, rules: &StopRules, limit: usize) {
        let Choice { id, logprob } = choice;
        self.ids.push(id);
        self.logprobs.extend(logprob);
        if rules.ids.contains(&id) {
            self.end(FinishReason::StopToken(id), rules);
            return;
        }
        if let Some(stop) = self.watch.as_mut().and_then(|watch| watch.push(id, &rules.strings)) {
            self.finish = Some(FinishReason::StopString(stop));
        } else if self.ids.len() >= limit {
            self.end(FinishReason::Length, rules);
        }
    }

    /// Ends it for this reason, unless the text that is still held back has a stop string.
    pub(super) fn end(&mut self, reason: FinishReason, rules: &StopRules) {
        let stop = self.watch.as_mut().and_then(|watch| watch.finish(&rules.strings));
        self.finish = Some(match (stop, reason) {
            (Some(stop), FinishReason::Length) => FinishReason::StopString(stop),
            (_, reason) => reason,
        });
    }

    /// What may be shown so far.
    pub(super) fn text(&self) -> &str {
        self.watch.as_ref().map_or("", Watch::text)
    }

    /// The finished answer; one that is still open was given up.
    pub(super) fn into_sequence(mut self, score: Option<f64>, rules: &StopRules) -> Sequence {
        if self.finish.is_none() {
            self.end(FinishReason::Cancelled, rules);
        }
        let total = || self.logprobs.iter().map(|token| f64::from(token.logprob)).sum();
        let score = score.or_else(|| (!self.logprobs.is_empty()).then(total));
        let text = self.text().to_owned();
        let finish = self.finish.unwrap_or(FinishReason::Cancelled);
        Sequence { ids: self.ids, text, finish, score, logprobs: self.logprobs }
    }
}
