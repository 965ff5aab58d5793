//! Contrastive search: of the likeliest tokens the one that is likely and unlike what came before.
//!
//! The model is run on every candidate, each in a lane of its own; its answer about the chosen one is the distribution
//! of the next step, so that each token costs one run.
//!
//! # Source
//! Su et al. 2022; the rule is that of transformers 4's `_contrastive_search` (transformers 5 leaves it to a repository
//! of code).

use super::choose::{Choice, Reported, TokenLogprob, unusable};
use super::decoding::{Ask, DecodeError, Lane};
use super::math;
use super::row::{Next, RowSettings, Search};
use super::sequence::{Event, Sequence, Strand};
use super::stop::FinishReason;
use super::strands::ask_best;

#[derive(Debug)]
pub(super) struct Contrastive {
    most: usize,
    alpha: f32,
    strand: Strand,
    /// What the lanes were fed; empty while there is but the prompt.
    candidates: Vec<Candidate>,
}

#[derive(Debug)]
struct Candidate {
    token: u32,
    probability: f32,
    logprob: Option<TokenLogprob>,
}

impl Contrastive {
    pub(super) fn new(row: &RowSettings, most: usize, alpha: f32) -> Self {
        Self { most, alpha, strand: row.strand(), candidates: Vec::new() }
    }

    /// The likeliest tokens after what was generated, from the answer about it.
    fn recall(&self, row: &RowSettings, lane: Lane<'_>) -> Result<Vec<Candidate>, DecodeError> {
        let context = row.context(&self.strand.ids, 1);
        let step = context.step();
        match lane {
            Lane::Logits(scores) => {
                let reported = match row.decoding.logprobs {
                    None => None,
                    Some(n) => Some(Reported::of_all(scores, n).ok_or(DecodeError::NotFinite { step })?),
                };
                row.decoding.process(&context, scores);
                let log_sum = math::log_sum_exp(scores).ok_or_else(|| unusable(scores, step))?;
                let candidate = |(token, score): (u32, f32)| {
                    let probability = (f64::from(score) - log_sum).exp() as f32;
                    Candidate { token, probability, logprob: reported.as_ref().map(|reported| reported.about(token)) }
                };
                Ok(math::top(scores, self.most).into_iter().map(candidate).collect())
            }
            Lane::Best { ids, logits, log_sum } if row.decoding.processors.is_empty() => {
                let all: Vec<(u32, f32)> = ids.iter().zip(logits).map(|(&id, &logit)| (id, logit - log_sum)).collect();
                let candidate = |&(token, logprob): &(u32, f32)| {
                    let top = |n| all.iter().take(n).copied().collect();
                    let reported = row.decoding.logprobs.map(|n| TokenLogprob { id: token, logprob, top: top(n) });
                    Candidate { token, probability: logprob.exp(), logprob: reported }
                };
                Ok(all.iter().take(self.most).map(candidate).collect())
            }
            _ => Err(DecodeError::TooLittle { what: "a token or the best logits", needed: "all logits" }),
        }
    }

    /// Number of the candidate with the best score, the likelier of equal ones.
    fn best(&self, similarities: &[f32]) -> Result<usize, DecodeError> {
        let step = self.strand.ids.len();
        if similarities.len() != self.candidates.len() {
            return Err(DecodeError::TooLittle { what: "no similarities", needed: "one for each lane" });
        }
        let score = |(candidate, &similarity): (&Candidate, &f32)| {
            (1.0 - self.alpha) * candidate.probability - self.alpha * similarity
        };
        let scores: Vec<f32> = self.candidates.iter().zip(similarities).map(score).collect();
        super::sample::argmax(&scores).ok_or(DecodeError::NotFinite { step })
    }
}

impl Search for Contrastive {
    fn asks(&self, row: &RowSettings) -> Vec<Ask> {
        let ask = Ask { want: ask_best(row, self.most, false), similarity: true };
        vec![ask; self.candidates.len().max(1)]
    }

    fn push(&mut self, row: &RowSettings, lanes: Vec<Lane<'_>>, similarities: &[f32]) -> Result<Next, DecodeError> {
        let mut next = Next::default();
        let mut parent = 0;
        if !self.candidates.is_empty() {
            parent = self.best(similarities)?;
            let Candidate { token: id, logprob, .. } = self.candidates.swap_remove(parent);
            let before = self.strand.text().len();
            self.strand.push(Choice { id, logprob: logprob.clone() }, &row.decoding.stop, row.limit());
            let text = self.strand.text()[before..].to_owned();
            next.events.push(Event { sequence: 0, token: Some(id), text, logprob, finish: self.strand.finish.clone() });
        }
        if self.strand.finish.is_some() {
            return Ok(next);
        }
        let Some(lane) = lanes.into_iter().nth(parent) else { return Ok(next) };
        self.candidates = self.recall(row, lane)?;
        next.parents = vec![parent; self.candidates.len()];
        next.tokens = self.candidates.iter().map(|candidate| candidate.token).collect();
        Ok(next)
    }

    fn cancel(&mut self, row: &RowSettings) {
        if self.strand.finish.is_none() {
            let reason = if row.limit() == 0 { FinishReason::Length } else { FinishReason::Cancelled };
            self.strand.end(reason, &row.decoding.stop);
        }
    }

    fn finish(self: Box<Self>, row: &RowSettings) -> Vec<Sequence> {
        vec![self.strand.into_sequence(None, &row.decoding.stop)]
    }
}
