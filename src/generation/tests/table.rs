//! The model, as `tests/parity/gen/decoding.py` has it.

use crate::generation::decoding::{Answers, Ask, Common, Decoding, Tokens};
use crate::generation::driver::{Request, StepModel};
use crate::generation::math;
use crate::generation::row::RowSettings;
use crate::generation::sample;
use crate::generation::settings::{CheckpointDefaults, Generation, Vocabulary};
use crate::generation::stop::tests::Pieces;
use crate::settings::Component;
use serde::Deserialize;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

const HIDDEN: u32 = 6;

/// A hash of 32 bits.
pub(super) fn mix(parts: &[u32]) -> u32 {
    let mut h = 0_u32;
    for part in parts {
        h = (h ^ part).wrapping_mul(0x9E37_79B1).wrapping_add(0x7F4A_7C15);
        h ^= h >> 15;
        h = h.wrapping_mul(0x85EB_CA6B);
        h ^= h >> 13;
    }
    h
}

fn unit(h: u32) -> f32 {
    (h >> 8) as f32 / (1 << 24) as f32
}

/// What it answers where less than all logits is asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Talk {
    /// All logits all the same.
    All,
    /// No more than must be.
    Least,
}

/// The model. A lane's cache is its ids.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) seed: u32,
    pub(super) vocabulary: u32,
    pub(super) talk: Talk,
    pub(super) lanes: Vec<Vec<u32>>,
    /// Lanes of every call, in order.
    pub(super) widths: Vec<usize>,
    /// The kinds of answers given, by the names of [`Tokens`]' variants.
    pub(super) kinds: Vec<&'static str>,
}

impl Table {
    pub(super) fn new(seed: u32, vocabulary: usize, talk: Talk) -> Self {
        let (lanes, widths, kinds) = (Vec::new(), Vec::new(), Vec::new());
        Self { seed, vocabulary: vocabulary as u32, talk, lanes, widths, kinds }
    }

    pub(super) fn logits(&self, ids: &[u32]) -> Vec<f32> {
        let (before, last) = last_two(ids, ids.len());
        let mut row: Vec<f32> =
            (0..self.vocabulary).map(|token| unit(mix(&[self.seed, before, last, token])) * 8.0 - 4.0).collect();
        row[0] = -30.0;
        row
    }

    fn hidden(&self, ids: &[u32], end: usize) -> Vec<f32> {
        let (before, last) = last_two(ids, end);
        let hidden: Vec<f32> =
            (0..HIDDEN).map(|i| unit(mix(&[self.seed, before, last, 1000 + i])) * 2.0 - 0.5).collect();
        let norm = hidden.iter().map(|x| x * x).sum::<f32>().sqrt();
        hidden.into_iter().map(|x| x / norm).collect()
    }

    fn similarity(&self, ids: &[u32]) -> f32 {
        let newest = self.hidden(ids, ids.len());
        let with = |end| self.hidden(ids, end).iter().zip(&newest).map(|(a, b)| a * b).sum::<f32>();
        (1..ids.len()).map(with).fold(f32::NEG_INFINITY, f32::max)
    }

    fn answer(&mut self, first: usize, asks: &[Ask]) -> Answers {
        assert_eq!(asks.len(), self.lanes.len() - first);
        self.widths.push(asks.len());
        let rows: Vec<Vec<f32>> = self.lanes[first..].iter().map(|ids| self.logits(ids)).collect();
        let similar = asks.iter().any(|ask| ask.similarity);
        let similarities: Vec<f32> =
            self.lanes[first..].iter().filter(|_| similar).map(|ids| self.similarity(ids)).collect();
        let common = if self.talk == Talk::All { Common::Logits } else { Common::of(asks) };
        let tokens = match common {
            Common::Logits => Tokens::Logits { vocabulary: self.vocabulary as usize, logits: rows.concat() },
            Common::Likeliest => {
                Tokens::Chosen(rows.iter().filter_map(|row| sample::argmax(row)).map(|id| id as u32).collect())
            }
            Common::Best(n) => {
                let width = n.min(self.vocabulary as usize);
                let best: Vec<(u32, f32)> = rows.iter().flat_map(|row| math::top(row, width)).collect();
                let (ids, logits) = best.into_iter().unzip();
                let log_sums = rows.iter().filter_map(|row| math::log_sum_exp(row)).map(|sum| sum as f32).collect();
                Tokens::Best { width, ids, logits, log_sums }
            }
            Common::Draw(lanes) => {
                let chosen = rows.iter().zip(lanes).filter_map(|(row, lane)| match lane {
                    None => sample::argmax(row),
                    Some((temperature, uniform)) => {
                        let cooled: Vec<f32> = row.iter().map(|logit| logit / temperature).collect();
                        sample::draw(&cooled, uniform)
                    }
                });
                Tokens::Chosen(chosen.map(|id| id as u32).collect())
            }
        };
        self.kinds.push(match tokens {
            Tokens::Logits { .. } => "logits",
            Tokens::Best { .. } => "best",
            Tokens::Chosen(_) => "chosen",
        });
        Answers { tokens, similarities }
    }
}

fn last_two(ids: &[u32], end: usize) -> (u32, u32) {
    (if end > 1 { ids[end - 2] } else { 0 }, ids[end - 1])
}

impl StepModel for Table {
    type Prompt = Vec<u32>;
    type Error = Infallible;

    fn start(&mut self, prompts: Vec<Vec<u32>>, asks: &[Ask]) -> Result<Answers, Infallible> {
        let first = self.lanes.len();
        self.lanes.extend(prompts);
        Ok(self.answer(first, asks))
    }

    fn step(&mut self, tokens: &[u32], asks: &[Ask]) -> Result<Answers, Infallible> {
        assert_eq!(tokens.len(), self.lanes.len());
        self.lanes.iter_mut().zip(tokens).for_each(|(lane, &token)| lane.push(token));
        Ok(self.answer(0, asks))
    }

    fn keep(&mut self, lanes: &[usize]) -> Result<(), Infallible> {
        self.lanes = lanes.iter().map(|&lane| self.lanes[lane].clone()).collect();
        Ok(())
    }
}

/// A file of reference searches.
#[derive(Debug, Deserialize)]
pub(super) struct Fixture {
    pub(super) pieces: Vec<String>,
    pub(super) prompts: Vec<Vec<u32>>,
    pub(super) hash: u32,
    pub(super) cases: Vec<Case>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Case {
    pub(super) seed: u32,
    /// transformers' names.
    pub(super) settings: serde_json::Value,
    /// For each prompt its answers, the best first.
    pub(super) rows: Vec<Vec<Answer>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    pub(super) ids: Vec<u32>,
    pub(super) score: Option<f64>,
    pub(super) logprobs: Option<Vec<f32>>,
}

pub(super) fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/generation").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(super) fn searches(name: &str) -> Fixture {
    serde_json::from_str(&fixture(name)).unwrap()
}

/// A vocabulary without a tokenizer: no text has ids.
pub(super) struct Mute;

impl Vocabulary for Mute {
    fn encode(&self, _: &str) -> Vec<u32> {
        Vec::new()
    }

    fn special_id(&self, _: &str) -> Option<u32> {
        None
    }
}

/// What transformers' settings become.
pub(super) fn decoding(settings: &serde_json::Value) -> Decoding {
    let file = CheckpointDefaults::parse(&settings.to_string(), "generation_config.json").unwrap();
    file.under(&Generation::given()).unwrap().resolve(&Mute).unwrap()
}

pub(super) fn request(decoding: &Decoding, prompt: &[u32], key: u64, pieces: Option<&Pieces>) -> Request<Vec<u32>> {
    let detokenizer = pieces.map(|pieces| Box::new(pieces.clone()) as Box<dyn crate::generation::stop::Detokenizer>);
    let settings = RowSettings { decoding: Arc::new(decoding.clone()), prompt: prompt.to_vec(), key, detokenizer };
    Request { prompt: prompt.to_vec(), settings }
}
