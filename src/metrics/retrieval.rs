//! How well a ranking by score finds what is relevant, and what documents are worth to an answer.

use super::{Asked, Better, Judged, Measured, MetricError, TextMetric};
use std::cmp::Ordering;

/// The relevances in the order of the scores, best first. Of equal scores the least relevant comes first, so that a model that
/// scores everything the same finds nothing by luck; a score that is no number comes last.
fn ranked(scores: &[f64], relevances: &[f64]) -> Vec<f64> {
    let known = |score: f64| if score.is_nan() { f64::NEG_INFINITY } else { score };
    let mut pairs: Vec<(f64, f64)> = scores.iter().map(|&s| known(s)).zip(relevances.iter().copied()).collect();
    pairs.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.total_cmp(&b.1)));
    pairs.into_iter().map(|(_, relevance)| relevance).collect()
}

/// Share of the relevant candidates that are among the best `k`; 0 where none is relevant.
pub fn recall_at(k: usize, scores: &[f64], relevances: &[f64]) -> f64 {
    let ranked = ranked(scores, relevances);
    let relevant = |some: &[f64]| some.iter().filter(|&&relevance| relevance > 0.0).count();
    relevant(&ranked[..k.min(ranked.len())]) as f64 / relevant(&ranked).max(1) as f64
}

/// `1/rank` of the first relevant candidate; 0 where none is relevant.
pub fn reciprocal_rank(scores: &[f64], relevances: &[f64]) -> f64 {
    let place = ranked(scores, relevances).iter().position(|&relevance| relevance > 0.0);
    place.map_or(0.0, |place| 1.0 / (place + 1) as f64)
}

/// Discounted gain `Σ relevance / log₂(rank + 1)` of the best `k` (all, without), over that of the best possible ranking. Candidates
/// of equal scores have the mean of their gains. 0 where none is relevant.
///
/// # Source
/// Järvelin and Kekäläinen 2002; checked against `sklearn.metrics.ndcg_score` 1.9.1.
pub fn ndcg(k: Option<usize>, scores: &[f64], relevances: &[f64]) -> f64 {
    let k = k.unwrap_or(usize::MAX);
    let ideal = discounted(relevances, relevances, k);
    if ideal == 0.0 { 0.0 } else { discounted(scores, relevances, k) / ideal }
}

fn discounted(scores: &[f64], relevances: &[f64], k: usize) -> f64 {
    let mut order: Vec<(f64, f64)> = scores.iter().copied().zip(relevances.iter().copied()).collect();
    order.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap_or_else(|| a.0.is_nan().cmp(&b.0.is_nan())));
    let discount = |place: usize| if place < k { 1.0 / ((place + 2) as f64).log2() } else { 0.0 };
    let mut sum = 0.0;
    let mut start = 0;
    for group in order.chunk_by(|a, b| a.0.partial_cmp(&b.0) == Some(Ordering::Equal)) {
        let discounts: f64 = (start..start + group.len()).map(discount).sum();
        let mean = group.iter().map(|(_, relevance)| relevance).sum::<f64>() / group.len() as f64;
        sum += mean * discounts;
        start += group.len();
    }
    sum
}

/// What each document is worth to the right answer: the answer's mean log-probability with it, less that without any, in nats.
///
/// # Source
/// turbo-alignment's `retrieval_utility`.
pub fn utility(without: f64, with: &[f64]) -> Vec<f64> {
    with.iter().map(|score| score - without).collect()
}

/// Which number of a ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetrievalFigure {
    /// [`recall_at`] this many.
    RecallAt(usize),
    /// [`reciprocal_rank`], whose mean is MRR.
    ReciprocalRank,
    /// [`ndcg`] of the best so many, or of all.
    Ndcg(Option<usize>),
    /// Mean of [`utility`] over the documents; the record's baseline is the answer's mean log-probability without any.
    Utility,
}

/// A number of a record's candidates, ranked by their scores, as a metric.
#[derive(Clone, Debug)]
pub struct Retrieval {
    name: String,
    figure: RetrievalFigure,
}

impl Retrieval {
    /// The metric `name`.
    pub fn new(name: impl Into<String>, figure: RetrievalFigure) -> Self {
        Self { name: name.into(), figure }
    }
}

impl TextMetric for Retrieval {
    fn name(&self) -> &str {
        &self.name
    }

    fn better(&self) -> Better {
        Better::Higher
    }

    fn measure(&self, sample: &Judged) -> Result<Measured, MetricError> {
        let asked = Asked { metric: &self.name, sample };
        let scores = asked.scores()?;
        let relevances: Vec<f64> = sample.candidates.iter().map(|candidate| candidate.relevance).collect();
        Ok(Measured::mean(match self.figure {
            RetrievalFigure::RecallAt(k) => recall_at(k, &scores, &relevances),
            RetrievalFigure::ReciprocalRank => reciprocal_rank(&scores, &relevances),
            RetrievalFigure::Ndcg(k) => ndcg(k, &scores, &relevances),
            RetrievalFigure::Utility => {
                let without = sample.baseline.ok_or_else(|| asked.missing("baseline"))?;
                utility(without, &scores).iter().sum::<f64>() / scores.len() as f64
            }
        }))
    }
}
