//! One row's state machine: what it asks of the model, what it makes of the answer, and what it is fed next.
//!
//! A row occupies one lane of the model's batch for its prompt, and then as many as it has sequences in progress:
//! beams, samples, candidates. It knows nothing of other rows, so rows can join and leave a batch between any two
//! steps.

use super::beams::BeamSearch;
use super::contrastive::Contrastive;
use super::decoding::{Ask, DecodeError, Decoding, Lane, Method};
use super::groups::GroupSearch;
use super::processors::RowContext;
use super::sample::Draws;
use super::sequence::{Event, Sequence, Strand};
use super::stop::Detokenizer;
use super::strands::Strands;
use std::fmt::Debug;
use std::sync::Arc;

/// What a row needs besides the model's own prompt.
#[derive(Debug)]
pub struct RowSettings {
    /// How its answer is made.
    pub decoding: Arc<Decoding>,
    /// The prompt's ids, without padding; processors see them.
    pub prompt: Vec<u32>,
    /// What tells its draws from those of other rows with the same seed: its number in a file.
    pub key: u64,
    /// Makes text of ids, from the answer's first on; needed for stop strings and for text in events and answers.
    pub detokenizer: Option<Box<dyn Detokenizer>>,
}

impl RowSettings {
    pub(super) fn context<'a>(&'a self, generated: &'a [u32], beams: usize) -> RowContext<'a> {
        RowContext { prompt: &self.prompt, generated, beams }
    }

    pub(super) fn strand(&self) -> Strand {
        Strand::new(self.detokenizer.as_deref())
    }

    pub(super) fn draws(&self, sequence: usize) -> Draws {
        Draws::new(self.decoding.seed, self.key, sequence as u64)
    }

    pub(super) fn limit(&self) -> usize {
        self.decoding.stop.limit(self.prompt.len())
    }
}

/// What a row is fed next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Next {
    /// For each of the next lanes, which of the present ones it continues. Empty: the row is done.
    pub parents: Vec<usize>,
    /// For each of the next lanes its next token.
    pub tokens: Vec<u32>,
    /// What has happened.
    pub events: Vec<Event>,
}

/// A way to search; it is fed the answers about its lanes.
pub(super) trait Search: Debug + Send {
    /// What it needs to know about each lane.
    fn asks(&self, row: &RowSettings) -> Vec<Ask>;

    fn push(&mut self, row: &RowSettings, lanes: Vec<Lane<'_>>, similarities: &[f32]) -> Result<Next, DecodeError>;

    /// Gives up what is not done.
    fn cancel(&mut self, row: &RowSettings);

    /// The answers, the best first where they are ranked.
    fn finish(self: Box<Self>, row: &RowSettings) -> Vec<Sequence>;
}

/// One row, from its prompt to its answers.
#[derive(Debug)]
pub struct RowState {
    row: RowSettings,
    search: Box<dyn Search>,
    lanes: usize,
}

impl RowState {
    /// A row of which the model knows nothing yet. Its first answer is about the prompt's last token.
    ///
    /// # Errors
    /// [`DecodeError::NoDetokenizer`]
    pub fn new(row: RowSettings) -> Result<Self, DecodeError> {
        if !row.decoding.stop.strings.is_empty() && row.detokenizer.is_none() {
            return Err(DecodeError::NoDetokenizer);
        }
        let search: Box<dyn Search> = match &row.decoding.method {
            Method::Greedy => Box::new(Strands::new(&row, 1)),
            Method::Sample { sequences } => Box::new(Strands::new(&row, (*sequences).max(1))),
            Method::Beams(rules) => Box::new(BeamSearch::new(&row, rules.clone())),
            Method::DiverseBeams { rules, groups, penalty } => {
                Box::new(GroupSearch::new(&row, rules.clone(), *groups, *penalty))
            }
            Method::Contrastive { candidates, alpha } => Box::new(Contrastive::new(&row, (*candidates).max(1), *alpha)),
        };
        // A prompt as long as `max_length` has no room for an answer: the model need not see it.
        let lanes = usize::from(row.limit() > 0);
        let mut state = Self { row, search, lanes };
        if lanes == 0 {
            state.cancel();
        }
        Ok(state)
    }

    /// Lanes that it occupies; 0 when it is done.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    /// What it needs to know about each of its lanes.
    pub fn asks(&self) -> Vec<Ask> {
        if self.lanes == 0 { Vec::new() } else { self.search.asks(&self.row) }
    }

    /// Takes the answers about its lanes, in order.
    ///
    /// # Errors
    /// [`DecodeError`]; the row has then no lanes any more.
    pub fn push(&mut self, lanes: Vec<Lane<'_>>, similarities: &[f32]) -> Result<Next, DecodeError> {
        let expected = std::mem::take(&mut self.lanes);
        if lanes.len() != expected {
            return Err(DecodeError::Lanes { found: lanes.len(), expected });
        }
        let next = self.search.push(&self.row, lanes, similarities)?;
        self.lanes = next.parents.len();
        Ok(next)
    }

    /// Gives the row up; what there is of its answers stays.
    pub fn cancel(&mut self) {
        self.lanes = 0;
        self.search.cancel(&self.row);
    }

    /// The answers, the best first where they are ranked. Those that are not done were given up.
    pub fn finish(self) -> Vec<Sequence> {
        self.search.finish(&self.row)
    }
}
