//! One loop over a model: prompts go in, tokens and events come out, rows join and leave between any two steps.

use super::decoding::{Answers, Ask, DecodeError};
use super::row::{Next, RowSettings, RowState};
use super::sequence::{Event, Sequence};
use std::ops::ControlFlow;

/// A model that decodes several lanes at once, each with a cache of its own length.
///
/// A lane is a row of the batch. [`start`](Self::start) appends lanes, [`step`](Self::step) feeds each one token, and
/// [`keep`](Self::keep) drops, repeats and reorders them.
pub trait StepModel {
    /// What a row begins with: ids, pictures, the name of its adapter …
    type Prompt;
    /// What can go wrong on the device.
    type Error;

    /// Reads prompts, each into a new lane behind those that are there, and answers about the token after each prompt.
    ///
    /// `asks` has one for each prompt. A model that cannot add lanes to a batch in progress is driven by [`generate`]
    /// with as many rows as it can begin at once.
    ///
    /// # Errors
    /// What goes wrong on the device. The driver gives up all rows then.
    fn start(&mut self, prompts: Vec<Self::Prompt>, asks: &[Ask]) -> Result<Answers, Self::Error>;

    /// Feeds each lane its next token and answers about the one after.
    ///
    /// # Errors
    /// What goes wrong on the device. The driver gives up all rows then.
    fn step(&mut self, tokens: &[u32], asks: &[Ask]) -> Result<Answers, Self::Error>;

    /// Lane `n` becomes what lane `lanes[n]` was; a lane may be named several times, and those that are not named end.
    ///
    /// Called only where something changes.
    ///
    /// # Errors
    /// What goes wrong on the device.
    fn keep(&mut self, lanes: &[usize]) -> Result<(), Self::Error>;

    /// The row whose lane this is has ended. It is still there; [`keep`](Self::keep) drops it. A model may remember what
    /// it holds for a later prompt that begins alike.
    fn ended(&mut self, _lane: usize) {}

    /// Tokens of each prompt of the last [`start`](Self::start) that were known from another row and not read again;
    /// empty where none were.
    fn reused(&self) -> &[usize] {
        &[]
    }
}

impl<M: StepModel> StepModel for &mut M {
    type Prompt = M::Prompt;
    type Error = M::Error;

    fn start(&mut self, prompts: Vec<Self::Prompt>, asks: &[Ask]) -> Result<Answers, Self::Error> {
        (**self).start(prompts, asks)
    }

    fn step(&mut self, tokens: &[u32], asks: &[Ask]) -> Result<Answers, Self::Error> {
        (**self).step(tokens, asks)
    }

    fn keep(&mut self, lanes: &[usize]) -> Result<(), Self::Error> {
        (**self).keep(lanes)
    }

    fn ended(&mut self, lane: usize) {
        (**self).ended(lane);
    }

    fn reused(&self) -> &[usize] {
        (**self).reused()
    }
}

/// A row to be decoded.
#[derive(Debug)]
pub struct Request<P> {
    /// What the model reads.
    pub prompt: P,
    /// How its answer is made.
    pub settings: RowSettings,
}

/// What stops a batch.
#[derive(Debug, thiserror::Error)]
pub enum BatchError<E> {
    /// The model failed.
    #[error(transparent)]
    Model(E),
    /// A row failed, or the model answered about another number of lanes.
    #[error("row {row}: {source}")]
    Row {
        /// Number of the row.
        row: u64,
        /// What is wrong.
        source: DecodeError,
    },
}

/// Rows in progress: the state of continuous batching.
///
/// Rows are known by the number that [`admit`](Self::admit) gives them.
#[derive(Debug)]
pub struct Batch<M: StepModel> {
    model: M,
    rows: Vec<InProgress>,
    /// What becomes of the model's lanes before the next call; `None` where they are as the rows expect.
    moves: Option<Vec<usize>>,
    /// Tokens that the lanes are fed next.
    tokens: Vec<u32>,
    admitted: u64,
    reused: Vec<(u64, usize)>,
    done: Vec<(u64, Result<Vec<Sequence>, DecodeError>)>,
}

#[derive(Debug)]
struct InProgress {
    number: u64,
    state: RowState,
}

/// What sees the events of rows; [`ControlFlow::Break`] gives the row up.
pub type OnEvent<'a> = dyn FnMut(u64, Event) -> ControlFlow<()> + 'a;

impl<M: StepModel> Batch<M> {
    /// No rows yet; the model has no lanes.
    pub fn new(model: M) -> Self {
        let (rows, reused, done) = (Vec::new(), Vec::new(), Vec::new());
        Self { model, rows, moves: None, tokens: Vec::new(), admitted: 0, reused, done }
    }

    /// Lanes in progress: what bounds the memory of a step.
    pub fn lanes(&self) -> usize {
        self.tokens.len()
    }

    /// Rows in progress.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The model, between two steps.
    pub fn model(&mut self) -> &mut M {
        &mut self.model
    }

    /// Reads the prompts of new rows and takes their first step. Returns their numbers, in order.
    ///
    /// # Errors
    /// [`BatchError`]: the model's error, after which the batch must be given up; a row that is refused for itself ends
    /// with its error in [`take_done`](Self::take_done).
    pub fn admit(
        &mut self,
        requests: Vec<Request<M::Prompt>>,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Vec<u64>, BatchError<M::Error>> {
        let (mut numbers, mut prompts, mut asks) = (Vec::new(), Vec::new(), Vec::new());
        let mut entering = Vec::new();
        for request in requests {
            let number = self.admitted;
            self.admitted += 1;
            numbers.push(number);
            match RowState::new(request.settings) {
                Err(error) => self.done.push((number, Err(error))),
                Ok(state) if state.lanes() == 0 => self.done.push((number, Ok(state.finish()))),
                Ok(state) => {
                    asks.extend(state.asks());
                    prompts.push(request.prompt);
                    entering.push(InProgress { number, state });
                }
            }
        }
        if entering.is_empty() {
            return Ok(numbers);
        }
        self.settle()?;
        let answers = self.model.start(prompts, &asks).map_err(BatchError::Model)?;
        let reused = entering.iter().zip(self.model.reused()).filter(|(_, tokens)| **tokens > 0);
        self.reused.extend(reused.map(|(row, tokens)| (row.number, *tokens)));
        let present = std::mem::take(&mut self.rows);
        let (lanes, mut tokens) = (self.tokens.len(), std::mem::take(&mut self.tokens));
        let mut moves: Vec<usize> = (0..lanes).collect();
        let fed = self.take(entering, answers, lanes, on_event)?;
        moves.extend(fed.parents.iter().map(|parent| lanes + parent));
        tokens.extend(fed.tokens);
        let entered = std::mem::replace(&mut self.rows, present);
        self.rows.extend(entered);
        self.tokens = tokens;
        self.plan(moves, lanes + asks.len());
        Ok(numbers)
    }

    /// Takes one step with every row. `false` where there is none left.
    ///
    /// # Errors
    /// As [`admit`](Self::admit).
    pub fn step(&mut self, on_event: &mut OnEvent<'_>) -> Result<bool, BatchError<M::Error>> {
        self.settle()?;
        if self.rows.is_empty() {
            return Ok(false);
        }
        let asks: Vec<Ask> = self.rows.iter().flat_map(|row| row.state.asks()).collect();
        let answers = self.model.step(&self.tokens, &asks).map_err(BatchError::Model)?;
        let rows = std::mem::take(&mut self.rows);
        let fed = self.take(rows, answers, 0, on_event)?;
        self.tokens = fed.tokens;
        self.plan(fed.parents, asks.len());
        Ok(!self.rows.is_empty())
    }

    /// Gives a row up, as far as it has come.
    pub fn cancel(&mut self, number: u64) {
        let Some(place) = self.rows.iter().position(|row| row.number == number) else { return };
        let start: usize = self.rows[..place].iter().map(|row| row.state.lanes()).sum();
        let mut row = self.rows.remove(place);
        let lanes = start..start + row.state.lanes();
        if !lanes.is_empty() {
            self.model.ended(self.moves.as_ref().map_or(start, |moves| moves[start]));
        }
        self.tokens.drain(lanes.clone());
        let all = self.tokens.len() + lanes.len();
        let mut moves = self.moves.take().unwrap_or_else(|| (0..all).collect());
        moves.drain(lanes);
        self.moves = Some(moves);
        row.state.cancel();
        self.done.push((number, Ok(row.state.finish())));
    }

    /// Tokens of rows' prompts that were not read, because another row had read them; of the rows that were admitted since
    /// this was asked, those that have any.
    pub fn take_reused(&mut self) -> Vec<(u64, usize)> {
        std::mem::take(&mut self.reused)
    }

    /// The rows that are done, each with its answers or with what was wrong with it, in the order in which they ended.
    pub fn take_done(&mut self) -> Vec<(u64, Result<Vec<Sequence>, DecodeError>)> {
        std::mem::take(&mut self.done)
    }

    /// The model, when the rows that are left are of no interest.
    pub fn into_model(self) -> M {
        self.model
    }

    /// Hands `answers` to `rows`; those that go on become the batch's. The parents in what it returns are lanes of
    /// `rows`, the first of which is the model's lane `first`.
    fn take(
        &mut self,
        rows: Vec<InProgress>,
        mut answers: Answers,
        first: usize,
        on_event: &mut OnEvent<'_>,
    ) -> Result<Next, BatchError<M::Error>> {
        let expected: usize = rows.iter().map(|row| row.state.lanes()).sum();
        let similarities = std::mem::take(&mut answers.similarities);
        let lanes = answers.lanes().unwrap_or_default();
        if lanes.len() != expected || !(similarities.is_empty() || similarities.len() == expected) {
            let row = rows.first().map_or(0, |row| row.number);
            return Err(BatchError::Row { row, source: DecodeError::Lanes { found: lanes.len(), expected } });
        }
        let mut lanes = lanes.into_iter();
        let (mut all, mut start) = (Next::default(), 0);
        for mut row in rows {
            let count = row.state.lanes();
            let own = lanes.by_ref().take(count).collect();
            let alike = similarities.get(start..start + count).unwrap_or_default();
            match row.state.push(own, alike) {
                Err(error) => self.done.push((row.number, Err(error))),
                Ok(next) => {
                    if !self.advance(row, next, start, on_event, &mut all) {
                        self.model.ended(first + start);
                    }
                }
            }
            start += count;
        }
        Ok(all)
    }

    /// Reports a row's events, and gives it its place among those that go on, or among those that are done. `false` where it
    /// is done.
    fn advance(
        &mut self,
        mut row: InProgress,
        next: Next,
        start: usize,
        on_event: &mut OnEvent<'_>,
        all: &mut Next,
    ) -> bool {
        for event in next.events {
            if on_event(row.number, event).is_break() {
                row.state.cancel();
                break;
            }
        }
        if row.state.lanes() == 0 {
            self.done.push((row.number, Ok(row.state.finish())));
            return false;
        }
        all.parents.extend(next.parents.iter().map(|parent| start + parent));
        all.tokens.extend(next.tokens);
        self.rows.push(row);
        true
    }

    /// Remembers what becomes of the model's `lanes` lanes before its next call.
    fn plan(&mut self, moves: Vec<usize>, lanes: usize) {
        let as_they_are = moves.len() == lanes && moves.iter().enumerate().all(|(place, &from)| place == from);
        self.moves = (!as_they_are).then_some(moves);
    }

    /// Brings the model's lanes into the order of the rows.
    fn settle(&mut self) -> Result<(), BatchError<M::Error>> {
        match self.moves.take() {
            Some(moves) => self.model.keep(&moves).map_err(BatchError::Model),
            None => Ok(()),
        }
    }
}

/// Decodes all rows together, until each has ended; the answers are in the rows' order.
///
/// # Errors
/// [`BatchError`]: the model's, or that of the first row that fails.
pub fn generate<M: StepModel>(
    model: M,
    requests: Vec<Request<M::Prompt>>,
    on_event: &mut OnEvent<'_>,
) -> Result<Vec<Vec<Sequence>>, BatchError<M::Error>> {
    let mut answers: Vec<Vec<Sequence>> = requests.iter().map(|_| Vec::new()).collect();
    let mut batch = Batch::new(model);
    batch.admit(requests, on_event)?;
    loop {
        for (row, result) in batch.take_done() {
            let sequences = result.map_err(|source| BatchError::Row { row, source })?;
            answers[row as usize] = sequences;
        }
        if !batch.step(on_event)? && batch.done.is_empty() {
            return Ok(answers);
        }
    }
}
