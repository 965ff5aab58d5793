//! Diverse beam search: groups of beams, each of which keeps off the tokens that earlier groups take at the same step.
//!
//! # Source
//! Vijayakumar et al. 2018, with the Hamming penalty; the bookkeeping is that of transformers 4's `_group_beam_search`
//! (transformers 5 leaves it to a repository of code), which differs from its beam search in what it counts as the best
//! open score. Two things are otherwise here: a group that is done penalizes nothing, where there its padding does, and
//! a stop string ends an answer as a stop token does.

use super::beams::{Beam, BeamRules, Scored, end_open, rank, whole};
use super::decoding::{Ask, DecodeError, Lane};
use super::row::{Next, RowSettings, Search};
use super::sequence::Sequence;
use super::settings::EarlyStopping;
use super::strands::ask_best;

#[derive(Debug)]
pub(super) struct GroupSearch {
    rules: BeamRules,
    penalty: f32,
    groups: Vec<Group>,
    started: bool,
    over: bool,
}

#[derive(Debug)]
struct Group {
    /// Open beams; empty when the group is done.
    beams: Vec<Beam>,
    finished: Vec<(f64, Beam)>,
}

impl GroupSearch {
    pub(super) fn new(row: &RowSettings, rules: BeamRules, groups: usize, penalty: f32) -> Self {
        let size = rules.beams / groups.max(1);
        let group = |_| Group { beams: Beam::first(row, size), finished: Vec::new() };
        let groups = (0..groups).map(group).collect();
        // From here on the rules are those of one group, but for the number of answers.
        Self { rules: BeamRules { beams: size, ..rules }, penalty, groups, started: false, over: false }
    }

    /// The finished answers of all groups, the best first.
    fn sorted(&self) -> Vec<&(f64, Beam)> {
        let mut all: Vec<&(f64, Beam)> = self.groups.iter().flat_map(|group| &group.finished).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0));
        all.reverse();
        all.retain(|(_, beam)| beam.real);
        all
    }
}

impl Group {
    /// Adds an answer of `length` tokens, and drops the worst where there are too many.
    fn add(&mut self, rules: &BeamRules, beam: Beam) {
        let score = f64::from(beam.score) / (beam.strand.ids.len() as f64).powf(rules.length_penalty);
        if self.finished.len() < rules.beams || score > self.worst() {
            self.finished.push((score, beam));
        }
        if self.finished.len() > rules.beams {
            let worst = self.worst();
            if let Some(place) = self.finished.iter().position(|(score, _)| *score == worst) {
                self.finished.remove(place);
            }
        }
    }

    fn worst(&self) -> f64 {
        self.finished.iter().map(|(score, _)| *score).fold(f64::INFINITY, f64::min)
    }

    /// Whether no answer of more than `length` tokens can be among the best, when the best continuation has this score.
    fn is_done(&self, rules: &BeamRules, best: f32, length: usize, limit: usize) -> bool {
        if self.finished.len() < rules.beams {
            return false;
        }
        let hopeful = rules.hopeful_length(length, limit) as f64;
        let attainable = f64::from(best) / hopeful.powf(rules.length_penalty);
        rules.early_stopping == EarlyStopping::WhenFull || self.worst() >= attainable
    }

    /// Takes one step.
    fn step(
        &mut self,
        row: &RowSettings,
        rules: &BeamRules,
        lanes: Vec<Lane<'_>>,
        taken: &[(u32, f32)],
    ) -> Result<Step, DecodeError> {
        let step = self.beams.first().map_or(0, |beam| beam.strand.ids.len());
        let beams = self.beams.iter().map(|beam| &beam.strand.ids);
        let scored: Result<Vec<Scored>, DecodeError> =
            beams.zip(lanes).map(|(ids, lane)| Scored::new(row, ids, lane, rules, taken)).collect();
        let scored = scored?;
        let ranked = rank(&self.beams, &scored, BeamRules::ranked(row, rules.beams), None);
        let best = ranked.first().ok_or(DecodeError::NothingLeft { step })?.score;
        let last = step + 1 >= row.limit();
        let (mut parents, mut open) = (Vec::new(), Vec::new());
        for (place, continuation) in ranked.iter().enumerate() {
            let scored = scored.get(continuation.beam).unwrap_or(&scored[0]);
            let beam = self.beams[continuation.beam].grown(row, continuation, scored);
            // An answer that has no room for more is still open: it counts when all groups have taken their step.
            let ended = beam.strand.finish.as_ref().is_some_and(|finish| *finish != super::stop::FinishReason::Length);
            if !ended {
                parents.push(continuation.beam);
                open.push(beam);
            } else if place < rules.beams {
                self.add(rules, beam);
            }
            if open.len() == rules.beams {
                break;
            }
        }
        self.beams = open;
        let tokens: Vec<u32> = self.beams.iter().filter_map(|beam| beam.strand.ids.last().copied()).collect();
        if self.is_done(rules, best, step + 1, row.limit()) {
            self.beams.clear();
        }
        if last {
            for beam in std::mem::take(&mut self.beams) {
                self.add(rules, beam);
            }
        }
        parents.truncate(self.beams.len());
        Ok(Step { parents, tokens })
    }
}

/// What a group has done in a step.
struct Step {
    /// For each open beam which of the group's beams it continues; empty where the group is done.
    parents: Vec<usize>,
    /// What its open beams took, the step in which it ends included.
    tokens: Vec<u32>,
}

impl Search for GroupSearch {
    fn asks(&self, row: &RowSettings) -> Vec<Ask> {
        // A penalized token falls behind; as many more are needed as can be penalized.
        let penalized = self.rules.beams * self.groups.len().saturating_sub(1);
        let want =
            ask_best(row, BeamRules::ranked(row, self.rules.beams) + penalized, !Scored::is_plain(row, &self.rules));
        let lanes = if self.started { self.groups.iter().map(|group| group.beams.len()).sum() } else { 1 };
        vec![Ask { want, similarity: false }; lanes]
    }

    fn push(&mut self, row: &RowSettings, lanes: Vec<Lane<'_>>, _: &[f32]) -> Result<Next, DecodeError> {
        let mut next = Next::default();
        let mut taken: Vec<(u32, f32)> = Vec::new();
        let mut lanes = lanes.into_iter();
        let mut prompt = if self.started { None } else { lanes.next() };
        let mut offset = 0;
        for group in &mut self.groups {
            let count = group.beams.len();
            if count == 0 {
                continue;
            }
            let mut copy = Vec::new();
            let own = match &mut prompt {
                Some(lane) => vec![copied(lane, &mut copy)],
                None => lanes.by_ref().take(count).collect(),
            };
            let Step { parents, tokens } = group.step(row, &self.rules, own, &taken)?;
            next.parents.extend(parents.iter().map(|parent| if self.started { offset + parent } else { 0 }));
            next.tokens.extend(&tokens[..parents.len()]);
            for token in tokens {
                match taken.iter_mut().find(|(id, _)| *id == token) {
                    Some((_, penalty)) => *penalty += self.penalty,
                    None => taken.push((token, self.penalty)),
                }
            }
            offset += count;
        }
        self.started = true;
        if next.parents.is_empty() {
            self.over = true;
            let best = self.sorted().into_iter().take(self.rules.returned);
            next.events = best.enumerate().map(|(n, (_, beam))| whole(n, beam)).collect();
        }
        Ok(next)
    }

    fn cancel(&mut self, row: &RowSettings) {
        if !self.over {
            self.groups.iter_mut().for_each(|group| end_open(row, &mut group.beams));
        }
    }

    fn finish(mut self: Box<Self>, row: &RowSettings) -> Vec<Sequence> {
        for group in &mut self.groups {
            for beam in std::mem::take(&mut group.beams) {
                let length = beam.strand.ids.len().max(1);
                group.finished.push((f64::from(self.rules.penalized(beam.score, length)), beam));
            }
        }
        let best: Vec<(f64, Beam)> = self.sorted().into_iter().take(self.rules.returned).cloned().collect();
        best.into_iter().map(|(score, beam)| beam.strand.into_sequence(Some(score), &row.decoding.stop)).collect()
    }
}

/// The prompt's lane for one more group.
fn copied<'a>(lane: &'a mut Lane<'_>, copy: &'a mut Vec<f32>) -> Lane<'a> {
    match lane {
        Lane::Logits(logits) => {
            copy.extend_from_slice(logits);
            Lane::Logits(copy)
        }
        Lane::Best { ids, logits, log_sum } => Lane::Best { ids, logits, log_sum: *log_sum },
        Lane::Token(id) => Lane::Token(*id),
    }
}
