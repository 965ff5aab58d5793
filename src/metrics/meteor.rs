//! METEOR without synonyms.

use super::bleu::Tokens;
use super::porter::stem;
use std::collections::HashMap;

/// Weights of METEOR.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Meteor {
    /// How much precision counts in the mean; 1 would be precision alone.
    pub alpha: f64,
    /// Shape of the penalty for fragments.
    pub beta: f64,
    /// Its largest value.
    pub gamma: f64,
}

impl Default for Meteor {
    fn default() -> Self {
        Self { alpha: 0.9, beta: 3.0, gamma: 0.5 }
    }
}

impl Meteor {
    /// METEOR over equal words and equal stems, from 0 to 1: `(1 − γ·(chunks/matches)^β)·P·R/(αP + (1−α)R)`. Of several
    /// references the best; 0 without any.
    ///
    /// The third stage of METEOR, synonyms out of WordNet, is left out: its table is larger than this library. Published numbers
    /// are therefore a little higher. Words are those of BLEU's 13a tokenizer, in lower case.
    ///
    /// # Source
    /// Lavie and Agarwal 2007; checked against `nltk.translate.meteor_score` 3.10.4 with an empty WordNet.
    pub fn score<S: AsRef<str>>(&self, prediction: &str, references: &[S]) -> f64 {
        let words =
            |text: &str| -> Vec<String> { Tokens::Mteval13a.of(text).iter().map(|word| word.to_lowercase()).collect() };
        let prediction = words(prediction);
        references.iter().map(|text| self.one(&prediction, &words(text.as_ref()))).fold(0.0, f64::max)
    }

    fn one(&self, prediction: &[String], reference: &[String]) -> f64 {
        let pairs = align(prediction, reference);
        if pairs.is_empty() {
            return 0.0;
        }
        let matches = pairs.len() as f64;
        let (precision, recall) = (matches / prediction.len() as f64, matches / reference.len() as f64);
        let mean = precision * recall / (self.alpha * precision + (1.0 - self.alpha) * recall);
        let breaks = pairs.windows(2).filter(|two| two[1] != (two[0].0 + 1, two[0].1 + 1)).count();
        let chunks = (breaks + 1) as f64;
        (1.0 - self.gamma * (chunks / matches).powf(self.beta)) * mean
    }
}

/// Which word of the prediction goes with which of the reference: equal words first, then equal stems, in each stage from the
/// end, the last free word first.
fn align(prediction: &[String], reference: &[String]) -> Vec<(usize, usize)> {
    let mut pairs = Vec::new();
    let enumerate = |words: &[String]| words.iter().cloned().enumerate().collect::<Vec<_>>();
    let (left, right) = stage(enumerate(prediction), enumerate(reference), &mut pairs);
    let stems = |words: Vec<(usize, String)>| words.into_iter().map(|(at, word)| (at, stem(&word))).collect::<Vec<_>>();
    stage(stems(left), stems(right), &mut pairs);
    pairs.sort_unstable();
    pairs
}

type Placed = Vec<(usize, String)>;

/// Pairs equal words and returns what is left of both texts.
fn stage(mut prediction: Placed, mut reference: Placed, pairs: &mut Vec<(usize, usize)>) -> (Placed, Placed) {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (at, word) in &reference {
        places.entry(word).or_default().push(*at);
    }
    let mut found = Vec::new();
    for (at, word) in prediction.iter().rev() {
        if let Some(place) = places.get_mut(word.as_str()).and_then(Vec::pop) {
            found.push((*at, place));
        }
    }
    let (ours, theirs): (Vec<usize>, Vec<usize>) = found.iter().copied().unzip();
    let sorted = |mut places: Vec<usize>| {
        places.sort_unstable();
        places
    };
    let (ours, theirs) = (sorted(ours), sorted(theirs));
    prediction.retain(|(at, _)| ours.binary_search(at).is_err());
    reference.retain(|(at, _)| theirs.binary_search(at).is_err());
    pairs.extend(found);
    (prediction, reference)
}
