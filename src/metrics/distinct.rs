//! How varied generations are: distinct n-grams, their expectation-adjusted form, entropy of n-grams, self-BLEU.

use super::bleu::{Bleu, self_bleu};
use super::words::{counts, mark, words};
use super::{Asked, Better, Judged, Measured, MetricError, Statistics, TextMetric};
use std::collections::HashSet;
use std::hash::Hash;
use std::num::NonZeroUsize;

/// Share of the n-grams of all `texts` that are different from one another; 0 where there are none.
///
/// # Source
/// Li et al. 2016 (distinct-1 and distinct-2).
pub fn distinct<T: Eq + Hash>(texts: &[Vec<T>], n: usize) -> f64 {
    let (different, all) = tally(texts, n);
    ratio(different, all)
}

/// Different n-grams of all `texts` over how many would be expected to differ if each were drawn from `vocabulary` equally likely
/// ones: `N / (V·(1 − ((V−1)/V)^C))` of `N` different ones among `C`. Unlike [`distinct`] it does not fall with length. 0 where there
/// are none; above 1 where n-grams of several tokens are more varied than so many single tokens could be.
///
/// # Source
/// Liu et al. 2022, "Rethinking and Refining the Distinct Metric", with the same `V` for every `n` as there.
pub fn expectation_adjusted_distinct<T: Eq + Hash>(texts: &[Vec<T>], n: usize, vocabulary: NonZeroUsize) -> f64 {
    let (different, all) = tally(texts, n);
    adjusted(different, all, vocabulary)
}

/// Entropy in nats of the distribution of a text's n-grams; 0 of a text without any. With `top`, of the most frequent so many
/// alone.
///
/// # Source
/// Zhang et al. 2018 (Ent-n); checked against `scipy.stats.entropy` 1.17.1.
pub fn entropy<T: Eq + Hash>(tokens: &[T], n: usize, top: Option<usize>) -> f64 {
    let mut counts: Vec<u64> = counts(tokens, n).into_values().collect();
    // Sorted also without `top`: a hash map's order would change the last bits from run to run.
    counts.sort_unstable_by(|a, b| b.cmp(a));
    counts.truncate(top.unwrap_or(usize::MAX));
    let total = counts.iter().sum::<u64>() as f64;
    counts.iter().map(|&count| count as f64 / total).map(|p| -p * p.ln()).sum::<f64>().max(0.0)
}

fn tally<T: Eq + Hash>(texts: &[Vec<T>], n: usize) -> (usize, usize) {
    let different: HashSet<&[T]> = texts.iter().flat_map(|tokens| tokens.windows(n.max(1))).collect();
    (different.len(), texts.iter().map(|tokens| tokens.windows(n.max(1)).len()).sum())
}

fn ratio(different: usize, all: usize) -> f64 {
    different as f64 / all.max(1) as f64
}

fn adjusted(different: usize, all: usize, vocabulary: NonZeroUsize) -> f64 {
    if all == 0 {
        return 0.0;
    }
    let v = vocabulary.get() as f64;
    // 1 − (1 − 1/V)^C without losing digits where V is large.
    let expected = -v * (all as f64 * (-1.0 / v).ln_1p()).exp_m1();
    different as f64 / expected
}

/// Over which texts n-grams are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The answers to one record; the corpus value is the mean over the records. turbo-alignment's.
    Record,
    /// All answers to all records.
    Corpus,
}

/// [`distinct`] over words, or [`expectation_adjusted_distinct`] where a vocabulary is given, as a metric. Words are what white space
/// parts; of a script without it, count tokens with those functions instead.
#[derive(Clone, Debug)]
pub struct Distinct {
    name: String,
    n: usize,
    vocabulary: Option<NonZeroUsize>,
    scope: Scope,
}

impl Distinct {
    /// The metric `name` over n-grams of `n` words.
    pub fn new(name: impl Into<String>, n: usize, vocabulary: Option<NonZeroUsize>, scope: Scope) -> Self {
        Self { name: name.into(), n, vocabulary, scope }
    }

    fn value(&self, different: usize, all: usize) -> f64 {
        match self.vocabulary {
            Some(vocabulary) => adjusted(different, all, vocabulary),
            None => ratio(different, all),
        }
    }
}

impl TextMetric for Distinct {
    fn name(&self) -> &str {
        &self.name
    }

    fn better(&self) -> Better {
        Better::Higher
    }

    fn measure(&self, sample: &Judged) -> Result<Measured, MetricError> {
        let answers = Asked { metric: &self.name, sample }.answers()?;
        let texts: Vec<Vec<&str>> = answers.iter().map(|answer| words(&answer.text).collect()).collect();
        let (different, all) = tally(&texts, self.n);
        let value = self.value(different, all);
        Ok(match self.scope {
            Scope::Record => Measured::mean(value),
            Scope::Corpus => {
                let marks = texts.iter().flat_map(|tokens| tokens.windows(self.n.max(1))).map(mark).collect();
                Measured { value: Some(value), statistics: Statistics::Marks(marks) }
            }
        })
    }

    fn may_repeat_records(&self) -> bool {
        self.scope == Scope::Record
    }

    fn corpus(&self, pooled: &Statistics) -> f64 {
        match self.scope {
            Scope::Record => pooled.ratio(),
            Scope::Corpus => {
                let marks = pooled.marks();
                self.value(marks.iter().collect::<HashSet<_>>().len(), marks.len())
            }
        }
    }
}

/// [`self_bleu`] as a metric: 0 to 100, lower is more varied. A record with a single answer is refused.
#[derive(Clone, Debug)]
pub struct SelfBleu {
    name: String,
    bleu: Bleu,
}

impl SelfBleu {
    /// The metric `name` with these settings; [`Bleu::sentence`] is usual.
    pub fn new(name: impl Into<String>, bleu: Bleu) -> Self {
        Self { name: name.into(), bleu }
    }
}

impl TextMetric for SelfBleu {
    fn name(&self) -> &str {
        &self.name
    }

    fn better(&self) -> Better {
        Better::Lower
    }

    fn measure(&self, sample: &Judged) -> Result<Measured, MetricError> {
        let asked = Asked { metric: &self.name, sample };
        let texts: Vec<&str> = asked.answers()?.iter().map(|answer| answer.text.as_str()).collect();
        let value = self_bleu(&self.bleu, &texts).ok_or_else(|| asked.missing("second generated answer"))?;
        Ok(Measured::mean(value))
    }
}
