//! Beam search.
//!
//! The bookkeeping is that of transformers 5, in `f32` as there: at each step the best `(1 + stop tokens)·beams`
//! continuations are ranked; those among the first `beams` that end an answer go to the finished ones with `score /
//! length^length_penalty`, where the length counts the generated tokens, the last one included; the best that do not
//! end one go on. Where fewer than `beams` real ones are left, places are filled with ones of a score of about -10⁹,
//! which are never returned.

use super::choose::{Choice, Reported, TokenLogprob};
use super::decoding::{Ask, DecodeError, Lane};
use super::math;
use super::row::{Next, RowSettings, Search};
use super::sample::{self, Draws};
use super::sequence::{Event, Sequence, Strand};
use super::settings::EarlyStopping;
use super::stop::FinishReason;
use super::strands::ask_best;

/// How beams are searched.
#[derive(Clone, Debug, PartialEq)]
pub struct BeamRules {
    /// How many beams there are.
    pub beams: usize,
    /// The power of the length by which a score is divided.
    pub length_penalty: f64,
    /// When the search stops.
    pub early_stopping: EarlyStopping,
    /// How many answers are returned; no more than there are beams.
    pub returned: usize,
    /// Whether continuations are drawn, instead of taking the best.
    pub sample: bool,
}

impl BeamRules {
    /// How many continuations are ranked for `beams` beams, so that enough are left when all stop tokens are among
    /// them.
    pub(super) fn ranked(row: &RowSettings, beams: usize) -> usize {
        beams.saturating_mul((1 + row.decoding.stop.ids.len()).max(2))
    }

    pub(super) fn penalized(&self, score: f32, length: usize) -> f32 {
        // The power is taken in `f64`, as the reference takes it of numbers that are no tensors.
        score / (length as f64).powf(self.length_penalty) as f32
    }

    /// The length at which an open beam's best possible score is taken, when it has `length` tokens.
    pub(super) fn hopeful_length(&self, length: usize, limit: usize) -> usize {
        if self.early_stopping == EarlyStopping::Never && self.length_penalty > 0.0 { limit } else { length }
    }
}

/// The score of beams that do not exist, and what takes a finished one out of the running.
pub(super) const NOWHERE: f32 = -1.0e9;

/// An open beam.
#[derive(Clone, Debug)]
pub(super) struct Beam {
    pub(super) strand: Strand,
    /// Sum of its tokens' scores.
    pub(super) score: f32,
    /// Whether it is more than a filler.
    pub(super) real: bool,
}

impl Beam {
    /// The beams of one group before the first token: one that exists, and fillers.
    pub(super) fn first(row: &RowSettings, beams: usize) -> Vec<Self> {
        let beam = |n| Self { strand: row.strand(), score: if n == 0 { 0.0 } else { NOWHERE }, real: n == 0 };
        (0..beams).map(beam).collect()
    }

    /// This beam and one more token.
    pub(super) fn grown(&self, row: &RowSettings, continuation: &Continuation, scored: &Scored) -> Self {
        let Continuation { token, score, .. } = *continuation;
        let mut beam = Self { strand: self.strand.clone(), score, real: self.real };
        let choice = Choice { id: token, logprob: scored.logprob(token) };
        beam.strand.push(choice, &row.decoding.stop, row.limit());
        beam
    }
}

/// A beam and its next token.
#[derive(Clone, Copy, Debug)]
pub(super) struct Continuation {
    pub(super) beam: usize,
    pub(super) token: u32,
    /// Sum of the tokens' scores.
    pub(super) score: f32,
}

/// One lane's log-probabilities after the processors.
#[derive(Debug)]
pub(super) struct Scored {
    /// The best of them, or all where continuations are drawn.
    best: Vec<(u32, f32)>,
    reported: Option<Heard>,
}

/// What log-probabilities are reported of.
#[derive(Debug)]
enum Heard {
    All(Reported),
    Best { logprobs: Vec<(u32, f32)>, top: usize },
}

impl Scored {
    /// Scores the continuations of the beam that has generated `generated`. Of each token in `taken` the score falls by
    /// its penalty before the processors see it.
    pub(super) fn new(
        row: &RowSettings,
        generated: &[u32],
        lane: Lane<'_>,
        rules: &BeamRules,
        taken: &[(u32, f32)],
    ) -> Result<Self, DecodeError> {
        let ranked = BeamRules::ranked(row, rules.beams);
        match lane {
            Lane::Logits(scores) => Self::of_all(row, generated, scores, rules, taken, ranked),
            Lane::Best { ids, logits, log_sum } if Self::is_plain(row, rules) => {
                let logprobs: Vec<(u32, f32)> =
                    ids.iter().zip(logits).map(|(&id, &logit)| (id, logit - log_sum)).collect();
                let mut best = logprobs.clone();
                for (id, score) in &mut best {
                    *score -= penalty_of(*id, taken);
                }
                best.sort_unstable_by(math::better_first);
                best.truncate(ranked);
                let reported = row.decoding.logprobs.map(|top| Heard::Best { logprobs, top });
                Ok(Self { best, reported })
            }
            _ => Err(DecodeError::TooLittle { what: "a token or the best logits", needed: "all logits" }),
        }
    }

    /// Whether nothing but the model's own log-probabilities counts, so that the best of them are enough.
    pub(super) fn is_plain(row: &RowSettings, rules: &BeamRules) -> bool {
        row.decoding.processors.is_empty() && row.decoding.filters.is_empty() && !rules.sample
    }

    fn of_all(
        row: &RowSettings,
        generated: &[u32],
        scores: &mut [f32],
        rules: &BeamRules,
        taken: &[(u32, f32)],
        ranked: usize,
    ) -> Result<Self, DecodeError> {
        let not_finite = DecodeError::NotFinite { step: generated.len() };
        let reported = match row.decoding.logprobs {
            None => None,
            Some(n) => Some(Heard::All(Reported::of_all(scores, n).ok_or(not_finite.clone())?)),
        };
        if math::log_softmax(scores).is_none() {
            // As the reference has it; a processor may know what to do with that.
            scores.fill(f32::NAN);
        }
        for &(id, penalty) in taken {
            if let Some(score) = scores.get_mut(id as usize) {
                *score -= penalty;
            }
        }
        let context = row.context(generated, rules.beams);
        row.decoding.process(&context, scores);
        row.decoding.filter(&context, scores);
        if scores.iter().any(|score| score.is_nan() || *score == f32::INFINITY) {
            return Err(not_finite);
        }
        // Whatever can come may be drawn.
        let possible = || (0..).zip(scores.iter().copied()).filter(|(_, score)| *score > f32::NEG_INFINITY).collect();
        Ok(Self { best: if rules.sample { possible() } else { math::top(scores, ranked) }, reported })
    }

    fn logprob(&self, id: u32) -> Option<TokenLogprob> {
        match self.reported.as_ref()? {
            Heard::All(reported) => Some(reported.about(id)),
            Heard::Best { logprobs, top } => {
                let found = logprobs.iter().find(|(other, _)| *other == id);
                let logprob = found.map_or(f32::NEG_INFINITY, |&(_, logprob)| logprob);
                Some(TokenLogprob { id, logprob, top: logprobs.iter().take(*top).copied().collect() })
            }
        }
    }
}

fn penalty_of(id: u32, taken: &[(u32, f32)]) -> f32 {
    taken.iter().find(|(other, _)| *other == id).map_or(0.0, |&(_, penalty)| penalty)
}

/// The best continuations of `beams`, of which number `n` was scored as `scored[n]`; the first one's scores serve all
/// where there is but the prompt.
pub(super) fn rank(
    beams: &[Beam],
    scored: &[Scored],
    ranked: usize,
    drawn: Option<(&Draws, usize)>,
) -> Vec<Continuation> {
    let mut all: Vec<Continuation> = Vec::new();
    for (beam, open) in beams.iter().enumerate() {
        let scored = scored.get(beam).or(scored.first());
        let grow = |&(token, score): &(u32, f32)| Continuation { beam, token, score: score + open.score };
        all.extend(scored.into_iter().flat_map(|scored| scored.best.iter().map(grow)));
    }
    let order = |a: &Continuation, b: &Continuation| {
        b.score.total_cmp(&a.score).then((a.beam, a.token).cmp(&(b.beam, b.token)))
    };
    let Some((draws, step)) = drawn else {
        all.sort_unstable_by(order);
        all.truncate(ranked);
        return all;
    };
    // The draws are given out in the order of beams and tokens, whatever the order of scores was.
    all.sort_unstable_by_key(|continuation| (continuation.beam, continuation.token));
    let scores: Vec<f32> = all.iter().map(|continuation| continuation.score).collect();
    let places = sample::draw_several(&scores, ranked, draws.uniforms(step));
    places.into_iter().map(|place| all[place as usize]).collect()
}

/// A finished answer.
#[derive(Clone, Debug)]
struct Finished {
    beam: Beam,
    score: f32,
}

#[derive(Debug)]
pub(super) struct BeamSearch {
    rules: BeamRules,
    /// One for each lane, but for the prompt's, which serves all.
    beams: Vec<Beam>,
    /// The best first, at most as many as beams.
    finished: Vec<Finished>,
    draws: Draws,
    started: bool,
    over: bool,
}

impl BeamSearch {
    pub(super) fn new(row: &RowSettings, rules: BeamRules) -> Self {
        let beams = Beam::first(row, rules.beams);
        Self { rules, beams, finished: Vec::new(), draws: row.draws(0), started: false, over: false }
    }

    fn is_full(&self) -> bool {
        self.finished.len() == self.rules.beams
    }

    /// Keeps the best of the finished answers and of the new ones among the first continuations.
    fn keep_finished(&mut self, grown: &[Beam]) {
        if self.is_full() && self.rules.early_stopping == EarlyStopping::WhenFull {
            return;
        }
        for beam in grown.iter().take(self.rules.beams).filter(|beam| beam.strand.finish.is_some()) {
            let score = self.rules.penalized(beam.score, beam.strand.ids.len());
            self.finished.push(Finished { beam: beam.clone(), score });
        }
        self.finished.sort_by(|a, b| b.score.total_cmp(&a.score));
        self.finished.truncate(self.rules.beams);
    }

    /// Whether the search ends with answers of `length` tokens, of which the open beams are in `self.beams`.
    fn is_over(&self, length: usize, limit: usize, open_left: bool) -> bool {
        let best = self.beams.first().map_or(NOWHERE, |beam| beam.score);
        let possible = self.rules.penalized(best, self.rules.hopeful_length(length, limit));
        let worst = if self.is_full() { self.finished.last().map_or(NOWHERE, |last| last.score) } else { NOWHERE };
        let improvable = possible > worst;
        let full = self.is_full() && self.rules.early_stopping == EarlyStopping::WhenFull;
        // Fillers alone cannot yield an answer.
        !improvable || full || !open_left || !self.beams.iter().any(|beam| beam.real)
    }
}

impl Search for BeamSearch {
    fn asks(&self, row: &RowSettings) -> Vec<Ask> {
        let want = ask_best(row, BeamRules::ranked(row, self.rules.beams), !Scored::is_plain(row, &self.rules));
        vec![Ask { want, similarity: false }; if self.started { self.beams.len() } else { 1 }]
    }

    fn push(&mut self, row: &RowSettings, lanes: Vec<Lane<'_>>, _: &[f32]) -> Result<Next, DecodeError> {
        let beams = self.beams.iter().map(|beam| &beam.strand.ids);
        let scored: Result<Vec<Scored>, DecodeError> =
            beams.zip(lanes).map(|(ids, lane)| Scored::new(row, ids, lane, &self.rules, &[])).collect();
        let scored = scored?;
        let step = self.beams.first().map_or(0, |beam| beam.strand.ids.len());
        let drawn = self.rules.sample.then_some((&self.draws, step));
        let ranked = rank(&self.beams, &scored, BeamRules::ranked(row, self.rules.beams), drawn);
        if ranked.is_empty() {
            return Err(DecodeError::NothingLeft { step });
        }
        let started = self.started;
        let place = |beam: usize| if started { beam } else { 0 };
        let grown: Vec<Beam> =
            ranked.iter().map(|c| self.beams[c.beam].grown(row, c, &scored[place(c.beam)])).collect();
        self.keep_finished(&grown);
        let (open, open_left) = next_beams(&ranked, grown, self.rules.beams);
        let parents: Vec<usize> = open.iter().map(|&(beam, _)| place(beam)).collect();
        self.beams = open.into_iter().map(|(_, beam)| beam).collect();
        self.started = true;
        self.over = self.is_over(step + 1, row.limit(), open_left);
        if self.over {
            let events = self.finished.iter().filter(|f| f.beam.real).take(self.rules.returned);
            let events = events.enumerate().map(|(n, finished)| whole(n, &finished.beam)).collect();
            return Ok(Next { events, ..Next::default() });
        }
        let tokens = self.beams.iter().filter_map(|beam| beam.strand.ids.last().copied()).collect();
        Ok(Next { parents, tokens, events: Vec::new() })
    }

    fn cancel(&mut self, row: &RowSettings) {
        if !self.over {
            end_open(row, &mut self.beams);
        }
    }

    fn finish(mut self: Box<Self>, row: &RowSettings) -> Vec<Sequence> {
        if !self.over {
            for beam in self.beams.drain(..) {
                let score = self.rules.penalized(beam.score, beam.strand.ids.len().max(1));
                self.finished.push(Finished { beam, score });
            }
        }
        let real = self.finished.into_iter().filter(|finished| finished.beam.real);
        let sequence = |f: Finished| f.beam.strand.into_sequence(Some(f64::from(f.score)), &row.decoding.stop);
        real.take(self.rules.returned).map(sequence).collect()
    }
}

/// The beams that go on, each with the beam that it continues, and whether any continuation ended nothing.
fn next_beams(ranked: &[Continuation], grown: Vec<Beam>, beams: usize) -> (Vec<(usize, Beam)>, bool) {
    let mut open: Vec<(usize, Beam)> = ranked.iter().map(|c| c.beam).zip(grown).collect();
    let open_left = open.iter().any(|(_, beam)| beam.strand.finish.is_none());
    for (_, beam) in &mut open {
        if beam.strand.finish.is_some() {
            beam.score += NOWHERE;
            beam.real = false;
            // A filler goes on from here as if nothing had been ended.
            beam.strand.finish = None;
        }
    }
    open.sort_by(|(_, a), (_, b)| b.score.total_cmp(&a.score));
    open.truncate(beams);
    (open, open_left)
}

/// Ends beams that the caller gave up, or that have no room for a token.
pub(super) fn end_open(row: &RowSettings, beams: &mut [Beam]) {
    let reason = if row.limit() == 0 { FinishReason::Length } else { FinishReason::Cancelled };
    for beam in beams.iter_mut().filter(|beam| beam.strand.finish.is_none()) {
        beam.strand.end(reason.clone(), &row.decoding.stop);
    }
}

/// The event of an answer that is reported as a whole.
pub(super) fn whole(sequence: usize, beam: &Beam) -> Event {
    let (text, finish) = (beam.strand.text().to_owned(), beam.strand.finish.clone());
    Event { sequence, token: None, text, logprob: None, finish }
}
