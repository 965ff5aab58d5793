//! Exact match and the F-score of words, as SQuAD counts them.

use super::rouge::Overlap;
use super::words::{is_punctuation, words};
use regex::Regex;
use std::collections::HashMap;
use std::sync::LazyLock;

/// What Python's `\b` takes for a word.
static RUN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").expect("the pattern is a constant"));

/// What is ignored when two texts are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Normalise {
    /// White space around them.
    #[default]
    Trim,
    /// Also case, ASCII punctuation, the articles `a`, `an` and `the`, and how much white space is between words; SQuAD's.
    Squad,
}

impl Normalise {
    /// `text` as it is compared.
    pub fn of(self, text: &str) -> String {
        match self {
            Self::Trim => text.trim().to_owned(),
            Self::Squad => squad(text),
        }
    }
}

fn squad(text: &str) -> String {
    let lower: String = text.to_lowercase().chars().filter(|&c| !is_punctuation(c)).collect();
    // An article is one wherever what stands beside it belongs to no word: in `«the»` it falls, too.
    let mut kept = String::with_capacity(lower.len());
    let mut done = 0;
    for run in RUN.find_iter(&lower) {
        kept.push_str(&lower[done..run.start()]);
        kept.push_str(if matches!(run.as_str(), "a" | "an" | "the") { " " } else { run.as_str() });
        done = run.end();
    }
    kept.push_str(&lower[done..]);
    words(&kept).collect::<Vec<_>>().join(" ")
}

/// Whether `prediction` is one of the references.
///
/// # Source
/// Rajpurkar et al. 2016 (`exact_match_score` of SQuAD's evaluation), with [`Normalise::Squad`].
pub fn exact_match<S: AsRef<str>>(normalise: Normalise, prediction: &str, references: &[S]) -> bool {
    let prediction = normalise.of(prediction);
    references.iter().any(|reference| normalise.of(reference.as_ref()) == prediction)
}

/// Overlap of words after SQuAD's normalisation; of several references the one with the best F-score, zeros without any. A text
/// that has no words left matches another such text, and nothing else.
///
/// # Source
/// Rajpurkar et al. 2018 (`compute_f1` of SQuAD 2.0's evaluation).
pub fn word_overlap<S: AsRef<str>>(prediction: &str, references: &[S]) -> Overlap {
    let prediction = Normalise::Squad.of(prediction);
    let mut best = Overlap::default();
    for reference in references {
        let reference = Normalise::Squad.of(reference.as_ref());
        let found = common(&prediction, &reference);
        if found.f1 > best.f1 {
            best = found;
        }
    }
    best
}

fn common(prediction: &str, reference: &str) -> Overlap {
    if prediction.is_empty() || reference.is_empty() {
        let equal = f64::from(prediction == reference);
        return Overlap { precision: equal, recall: equal, f1: equal };
    }
    let mut theirs: HashMap<&str, u64> = HashMap::new();
    words(reference).for_each(|word| *theirs.entry(word).or_insert(0) += 1);
    let mut hits = 0.0;
    for word in words(prediction) {
        if let Some(left @ 1..) = theirs.get_mut(word) {
            *left -= 1;
            hits += 1.0;
        }
    }
    Overlap::of(hits, words(prediction).count(), words(reference).count())
}
