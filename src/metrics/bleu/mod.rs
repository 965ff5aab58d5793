//! BLEU of a corpus and of a sentence.

mod tokenize;

pub use tokenize::Tokens;

use super::words::counts;
use super::{Asked, Better, Judged, Measured, MetricError, Statistics, TextMetric};
use std::collections::HashMap;

/// What BLEU takes for the precision of an order that matches nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Smoothing {
    /// 0, and so is the score.
    None,
    /// This many matches (0.1 is usual), over the number of n-grams.
    Floor(f64),
    /// This many matches more, of as many n-grams more (1 is usual), in every order but the first.
    AddK(f64),
    /// A half of a match in the first such order, a quarter in the second, and so on; mteval's own.
    #[default]
    Exp,
}

/// BLEU, from 0 to 100: `100·BP·exp(Σₙ log pₙ / N)`, with the clipped precisions `pₙ` of n-grams of the orders 1 to `N` and the
/// brevity penalty `BP = min(1, exp(1 − r/c))` of the hypotheses' length `c` and the references' `r`, each the closest one.
///
/// # Source
/// Papineni et al. 2002; checked against sacreBLEU 2.6.0.
#[derive(Clone, Debug, PartialEq)]
pub struct Bleu {
    /// What a token is.
    pub tokens: Tokens,
    /// What an order without a match counts.
    pub smoothing: Smoothing,
    /// Whether letters count in lower case.
    pub lowercase: bool,
    /// Whether a text that is too short for n-grams of the highest orders is judged by the lower ones; for single sentences.
    pub effective_order: bool,
    /// The highest order, `N`.
    pub max_order: usize,
}

impl Default for Bleu {
    /// sacreBLEU's corpus BLEU.
    fn default() -> Self {
        Self {
            tokens: Tokens::default(),
            smoothing: Smoothing::default(),
            lowercase: false,
            effective_order: false,
            max_order: 4,
        }
    }
}

impl Bleu {
    /// sacreBLEU's sentence BLEU: the corpus', with effective order.
    pub fn sentence() -> Self {
        Self { effective_order: true, ..Self::default() }
    }

    /// What adds up over sentences: length of the hypothesis, of the closest reference, matches of each order, n-grams of each
    /// order.
    pub fn statistics<S: AsRef<str>>(&self, hypothesis: &str, references: &[S]) -> Vec<f64> {
        let references: Vec<Vec<String>> = references.iter().map(|text| self.tokenize(text.as_ref())).collect();
        self.compare(&self.tokenize(hypothesis), &references.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }

    fn compare(&self, hypothesis: &[String], references: &[&[String]]) -> Vec<f64> {
        let length = hypothesis.len();
        let closest = references.iter().map(|one| one.len()).min_by_key(|&other| (other.abs_diff(length), other));
        let mut statistics = vec![length as f64, closest.unwrap_or(0) as f64];
        statistics.extend((1..=self.max_order).map(|n| matches(hypothesis, references, n) as f64));
        statistics.extend((1..=self.max_order).map(|n| (length + 1).saturating_sub(n) as f64));
        statistics
    }

    /// The score of such statistics, or of their sum over many sentences.
    ///
    /// # Panics
    /// Where they are not of this many orders.
    pub fn score(&self, statistics: &[f64]) -> f64 {
        let n = self.max_order;
        assert_eq!(statistics.len(), 2 + 2 * n, "statistics of BLEU have two lengths and two counts per order");
        let (hypothesis, reference) = (statistics[0], statistics[1]);
        let (correct, total) = statistics[2..].split_at(n);
        if correct.iter().all(|&count| count == 0.0) {
            return 0.0;
        }
        // A match means that the hypothesis is not empty.
        let brevity = if hypothesis < reference { (1.0 - reference / hypothesis).exp() } else { 1.0 };
        let mut precisions = vec![0.0; n];
        let (mut orders, mut halved) = (n, 1.0);
        for (order, (&correct, &total)) in correct.iter().zip(total).enumerate() {
            let added = match self.smoothing {
                Smoothing::AddK(k) if order > 0 => k,
                _ => 0.0,
            };
            let (correct, total) = (correct + added, total + added);
            if total == 0.0 {
                break;
            }
            if self.effective_order {
                orders = order + 1;
            }
            let counted = match self.smoothing {
                _ if correct > 0.0 => correct,
                Smoothing::Exp => {
                    halved *= 2.0;
                    1.0 / halved
                }
                Smoothing::Floor(value) => value,
                _ => 0.0,
            };
            precisions[order] = 100.0 * counted / total;
        }
        if precisions[..orders].contains(&0.0) {
            return 0.0;
        }
        brevity * (precisions[..orders].iter().map(|p| p.ln()).sum::<f64>() / orders as f64).exp()
    }

    fn tokenize(&self, text: &str) -> Vec<String> {
        if self.lowercase { self.tokens.of(&text.to_lowercase()) } else { self.tokens.of(text) }
    }
}

/// N-grams of the hypothesis that a reference has too, each as often as the reference that has it most often.
fn matches(hypothesis: &[String], references: &[&[String]], n: usize) -> u64 {
    let mut most: HashMap<&[String], u64> = HashMap::new();
    for (ngram, count) in references.iter().flat_map(|reference| counts(reference, n)) {
        let known = most.entry(ngram).or_insert(0);
        *known = count.max(*known);
    }
    counts(hypothesis, n).iter().map(|(ngram, &count)| count.min(most.get(ngram).copied().unwrap_or(0))).sum()
}

/// [`Bleu`] as a metric. A record's own value is its sentence BLEU (the mean over its answers), the corpus value that of all
/// answers together.
#[derive(Clone, Debug)]
pub struct BleuMetric {
    name: String,
    bleu: Bleu,
}

impl BleuMetric {
    /// The metric `name` with these settings.
    pub fn new(name: impl Into<String>, bleu: Bleu) -> Self {
        Self { name: name.into(), bleu }
    }
}

impl TextMetric for BleuMetric {
    fn name(&self) -> &str {
        &self.name
    }

    fn better(&self) -> Better {
        Better::Higher
    }

    fn measure(&self, sample: &Judged) -> Result<Measured, MetricError> {
        let asked = Asked { metric: &self.name, sample };
        let (answers, references) = (asked.answers()?, asked.references()?);
        let sentence = Bleu { effective_order: true, ..self.bleu.clone() };
        let each: Vec<Vec<f64>> = answers.iter().map(|one| self.bleu.statistics(&one.text, references)).collect();
        let value = each.iter().map(|statistics| sentence.score(statistics)).sum::<f64>() / each.len() as f64;
        let sums =
            (0..2 + 2 * self.bleu.max_order).map(|i| each.iter().map(|statistics| statistics[i]).sum()).collect();
        Ok(Measured { value: Some(value), statistics: Statistics::Sums(sums) })
    }

    fn corpus(&self, pooled: &Statistics) -> f64 {
        self.bleu.score(pooled.sums())
    }
}

/// How alike several answers to one question are: the mean over them of each one's sentence BLEU with the others as references,
/// from 0 to 100. `None` of fewer than two.
///
/// # Source
/// Zhu et al. 2018 (Texygen), with sacreBLEU's sentence BLEU in place of NLTK's.
pub fn self_bleu<S: AsRef<str>>(bleu: &Bleu, answers: &[S]) -> Option<f64> {
    if answers.len() < 2 {
        return None;
    }
    let texts: Vec<Vec<String>> = answers.iter().map(|text| bleu.tokenize(text.as_ref())).collect();
    let one = |i: usize| {
        let others: Vec<&[String]> =
            texts.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, text)| &text[..]).collect();
        bleu.score(&bleu.compare(&texts[i], &others))
    };
    Some((0..texts.len()).map(one).sum::<f64>() / texts.len() as f64)
}
