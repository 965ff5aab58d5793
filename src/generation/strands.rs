//! Greedy decoding and sampling: sequences that know nothing of one another.

use super::decoding::{Ask, DecodeError, Lane, Want};
use super::row::{Next, RowSettings, Search};
use super::sample::Draws;
use super::sequence::{Event, Sequence, Strand};
use super::stop::FinishReason;

#[derive(Debug)]
pub(super) struct Strands {
    strands: Vec<Strand>,
    draws: Vec<Draws>,
    /// For each lane the strand that it continues; `None` while there is but the prompt, from which all of them begin.
    lanes: Option<Vec<usize>>,
}

impl Strands {
    pub(super) fn new(row: &RowSettings, sequences: usize) -> Self {
        let strands = (0..sequences).map(|_| row.strand()).collect();
        let draws = (0..sequences).map(|sequence| row.draws(sequence)).collect();
        Self { strands, draws, lanes: None }
    }

    /// Chooses the next token of one strand.
    fn advance(&mut self, row: &RowSettings, strand: usize, lane: Lane<'_>) -> Result<Event, DecodeError> {
        let (growing, draws) = (&mut self.strands[strand], &self.draws[strand]);
        let choice = row.decoding.choose(&row.context(&growing.ids, 1), lane, draws)?;
        let before = growing.text().len();
        let (id, logprob) = (choice.id, choice.logprob.clone());
        growing.push(choice, &row.decoding.stop, row.limit());
        let text = growing.text()[before..].to_owned();
        Ok(Event { sequence: strand, token: Some(id), text, logprob, finish: growing.finish.clone() })
    }

    /// All strands take their first token from the same distribution.
    fn begin(&mut self, row: &RowSettings, lane: Lane<'_>) -> Result<Vec<Event>, DecodeError> {
        let strands = 0..self.strands.len();
        let several = strands.len() > 1;
        match lane {
            Lane::Token(_) if several => Err(DecodeError::TooLittle { what: "a token", needed: "a distribution" }),
            Lane::Logits(logits) if several => {
                let begin = |strand| self.advance(row, strand, Lane::Logits(&mut logits.to_vec()));
                strands.map(begin).collect()
            }
            Lane::Best { ids, logits, log_sum } => {
                let begin = |strand| self.advance(row, strand, Lane::Best { ids, logits, log_sum });
                strands.map(begin).collect()
            }
            lane => Ok(vec![self.advance(row, 0, lane)?]),
        }
    }
}

impl Search for Strands {
    fn asks(&self, row: &RowSettings) -> Vec<Ask> {
        let ask = |want| Ask { want, similarity: false };
        let alone = |strand: usize| {
            let ids = &self.strands[strand].ids;
            row.decoding.want(&row.context(ids, 1), Some(self.draws[strand].uniform(ids.len())))
        };
        match &self.lanes {
            Some(lanes) => lanes.iter().map(|&strand| ask(alone(strand))).collect(),
            None if self.strands.len() == 1 => vec![ask(alone(0))],
            None => vec![ask(row.decoding.want(&row.context(&[], 1), None))],
        }
    }

    fn push(&mut self, row: &RowSettings, lanes: Vec<Lane<'_>>, _: &[f32]) -> Result<Next, DecodeError> {
        let mut next = Next::default();
        let mut parents = vec![0; self.strands.len()];
        match self.lanes.take() {
            None => {
                for lane in lanes {
                    next.events.extend(self.begin(row, lane)?);
                }
            }
            Some(strands) => {
                for (place, (strand, lane)) in strands.into_iter().zip(lanes).enumerate() {
                    parents[strand] = place;
                    next.events.push(self.advance(row, strand, lane)?);
                }
            }
        }
        let open: Vec<usize> = (0..self.strands.len()).filter(|&s| self.strands[s].finish.is_none()).collect();
        for &strand in &open {
            if let Some(&token) = self.strands[strand].ids.last() {
                next.parents.push(parents[strand]);
                next.tokens.push(token);
            }
        }
        self.lanes = Some(open);
        Ok(next)
    }

    fn cancel(&mut self, row: &RowSettings) {
        let reason = if row.limit() == 0 { FinishReason::Length } else { FinishReason::Cancelled };
        for strand in self.strands.iter_mut().filter(|strand| strand.finish.is_none()) {
            strand.end(reason.clone(), &row.decoding.stop);
        }
    }

    fn finish(self: Box<Self>, row: &RowSettings) -> Vec<Sequence> {
        self.strands.into_iter().map(|strand| strand.into_sequence(None, &row.decoding.stop)).collect()
    }
}

/// What a lane asks where a search ranks the best `n` tokens, or all of them.
pub(super) fn ask_best(row: &RowSettings, n: usize, all: bool) -> Want {
    let reported = row.decoding.logprobs.unwrap_or(0);
    if all || !row.decoding.processors.is_empty() { Want::Logits } else { Want::Best(n.max(reported)) }
}
