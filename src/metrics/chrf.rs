//! chrF and chrF++: F-score of character n-grams, and of word n-grams.

use super::words::{counts, is_punctuation, is_space, words};
use super::{Asked, Better, Judged, Measured, MetricError, Statistics, TextMetric};

/// chrF, from 0 to 100: `100·(1+β²)·P·R/(β²·P+R)` with precision and recall averaged over the orders of n-grams that both texts
/// have.
///
/// # Source
/// Popović 2015 and 2017 (`++`, with words); checked against sacreBLEU 2.6.0.
#[derive(Clone, Debug, PartialEq)]
pub struct Chrf {
    /// The highest order of character n-grams; white space is left out of them.
    pub char_order: usize,
    /// The highest order of word n-grams; 2 for chrF++.
    pub word_order: usize,
    /// How many times as much recall counts.
    pub beta: f64,
    /// Whether letters count in lower case.
    pub lowercase: bool,
}

impl Default for Chrf {
    fn default() -> Self {
        Self { char_order: 6, word_order: 0, beta: 2.0, lowercase: false }
    }
}

impl Chrf {
    /// chrF++.
    pub fn plus_plus() -> Self {
        Self { word_order: 2, ..Self::default() }
    }

    /// What adds up over sentences: for each order the n-grams of the hypothesis, of the reference, and those in both. Of several
    /// references the one with the best score, the first of equals; zeros without any.
    pub fn statistics<S: AsRef<str>>(&self, hypothesis: &str, references: &[S]) -> Vec<f64> {
        let hypothesis = Grams::of(self, hypothesis);
        let mut best = (-1.0, vec![0.0; 3 * (self.char_order + self.word_order)]);
        for reference in references {
            let statistics = self.compare(&hypothesis, &Grams::of(self, reference.as_ref()));
            let score = self.score(&statistics);
            if score > best.0 {
                best = (score, statistics);
            }
        }
        best.1
    }

    /// The score of such statistics, or of their sum over many sentences.
    pub fn score(&self, statistics: &[f64]) -> f64 {
        let (mut precision, mut recall, mut orders) = (0.0, 0.0, 0.0);
        for order in statistics.chunks_exact(3) {
            if order[0] > 0.0 && order[1] > 0.0 {
                precision += order[2] / order[0];
                recall += order[2] / order[1];
                orders += 1.0;
            }
        }
        if precision + recall == 0.0 {
            return 0.0;
        }
        let (precision, recall, factor) = (precision / orders, recall / orders, self.beta * self.beta);
        100.0 * (1.0 + factor) * precision * recall / (factor * precision + recall)
    }

    fn compare(&self, hypothesis: &Grams, reference: &Grams) -> Vec<f64> {
        let characters = (1..=self.char_order).map(|n| overlap(&hypothesis.characters, &reference.characters, n));
        let words = (1..=self.word_order).map(|n| overlap(&hypothesis.words, &reference.words, n));
        characters.chain(words).flatten().collect()
    }
}

/// A text as chrF sees it.
struct Grams {
    characters: Vec<char>,
    words: Vec<String>,
}

impl Grams {
    fn of(chrf: &Chrf, text: &str) -> Self {
        let lower = chrf.lowercase.then(|| text.to_lowercase());
        let text = lower.as_deref().unwrap_or(text);
        let words = if chrf.word_order > 0 { words(text).flat_map(parted).collect() } else { Vec::new() };
        Self { characters: text.chars().filter(|&c| !is_space(c)).collect(), words }
    }
}

/// A word without one mark of punctuation at its end, or else at its start, and that mark.
fn parted(word: &str) -> Vec<String> {
    let (mut rest, mut back) = (word.chars(), word.chars());
    match (rest.next(), back.next_back()) {
        (Some(_), Some(_)) if rest.as_str().is_empty() => vec![word.to_owned()],
        (_, Some(last)) if is_punctuation(last) => vec![back.as_str().to_owned(), last.into()],
        (Some(first), _) if is_punctuation(first) => vec![first.into(), rest.as_str().to_owned()],
        _ => vec![word.to_owned()],
    }
}

/// N-grams of the hypothesis (none where the reference has none), of the reference, and of both.
fn overlap<T: Eq + std::hash::Hash>(hypothesis: &[T], reference: &[T], n: usize) -> [f64; 3] {
    let theirs = counts(reference, n);
    let both: u64 =
        counts(hypothesis, n).iter().map(|(g, &count)| count.min(theirs.get(g).copied().unwrap_or(0))).sum();
    let all = |tokens: usize| (tokens + 1).saturating_sub(n) as f64;
    let ours = if theirs.is_empty() { 0.0 } else { all(hypothesis.len()) };
    [ours, all(reference.len()), both as f64]
}

/// [`Chrf`] as a metric; a record's own value is the mean over its answers.
#[derive(Clone, Debug)]
pub struct ChrfMetric {
    name: String,
    chrf: Chrf,
}

impl ChrfMetric {
    /// The metric `name` with these settings.
    pub fn new(name: impl Into<String>, chrf: Chrf) -> Self {
        Self { name: name.into(), chrf }
    }
}

impl TextMetric for ChrfMetric {
    fn name(&self) -> &str {
        &self.name
    }

    fn better(&self) -> Better {
        Better::Higher
    }

    fn measure(&self, sample: &Judged) -> Result<Measured, MetricError> {
        let asked = Asked { metric: &self.name, sample };
        let (answers, references) = (asked.answers()?, asked.references()?);
        let each: Vec<Vec<f64>> = answers.iter().map(|one| self.chrf.statistics(&one.text, references)).collect();
        let value = each.iter().map(|statistics| self.chrf.score(statistics)).sum::<f64>() / each.len() as f64;
        let sums = (0..each[0].len()).map(|i| each.iter().map(|statistics| statistics[i]).sum()).collect();
        Ok(Measured { value: Some(value), statistics: Statistics::Sums(sums) })
    }

    fn corpus(&self, pooled: &Statistics) -> f64 {
        self.chrf.score(pooled.sums())
    }
}
