//! Perplexity, and how far a model has moved from another.

use super::{Asked, Better, Generated, Judged, Measured, MetricError, Statistics, TextMetric};

/// `exp(−mean log-probability)` of some tokens, in nats; 1 of none, which is the perplexity of what is certain.
pub fn perplexity(log_probs: &[f64]) -> f64 {
    (-log_probs.iter().sum::<f64>() / log_probs.len().max(1) as f64).exp()
}

/// Mean over the tokens of `log p − log q`, in nats: over tokens drawn from `p` an estimate of the Kullback-Leibler divergence per
/// token that may be negative for single texts. 0 of no tokens; `None` of lists of different lengths.
///
/// # Source
/// Schulman 2020, "Approximating KL divergence", estimator k1.
pub fn mean_kl(log_probs: &[f64], reference: &[f64]) -> Option<f64> {
    let sum = log_ratio(log_probs, reference)?;
    Some(sum / log_probs.len().max(1) as f64)
}

fn log_ratio(log_probs: &[f64], reference: &[f64]) -> Option<f64> {
    (log_probs.len() == reference.len()).then(|| log_probs.iter().zip(reference).map(|(p, q)| p - q).sum())
}

/// Which number of log-probabilities.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LikelihoodFigure {
    /// [`perplexity`]; the corpus value is that of all tokens together, not a mean of perplexities.
    Perplexity,
    /// [`mean_kl`] over the tokens; the corpus value is over all tokens together.
    Kl,
    /// The sum of `log p − log q` over an answer's tokens; the corpus value is the mean over the answers.
    KlPerAnswer,
}

/// A number of the answers' log-probabilities as a metric.
#[derive(Clone, Debug)]
pub struct Likelihood {
    name: String,
    figure: LikelihoodFigure,
}

impl Likelihood {
    /// The metric `name`.
    pub fn new(name: impl Into<String>, figure: LikelihoodFigure) -> Self {
        Self { name: name.into(), figure }
    }

    fn sums(&self, asked: &Asked<'_>, answer: &Generated) -> Result<[f64; 2], MetricError> {
        let log_probs =
            answer.log_probs.as_deref().ok_or_else(|| asked.missing("log-probability of the answer's tokens"))?;
        let tokens = log_probs.len() as f64;
        if self.figure == LikelihoodFigure::Perplexity {
            return Ok([-log_probs.iter().sum::<f64>(), tokens]);
        }
        let other = answer.reference_log_probs.as_deref();
        let other = other.ok_or_else(|| asked.missing("log-probability under the model that it is compared with"))?;
        let difference = log_ratio(log_probs, other).ok_or_else(|| MetricError::Lengths {
            metric: self.name.clone(),
            id: asked.sample.id.clone(),
            left: log_probs.len(),
            right: other.len(),
        })?;
        Ok([difference, if self.figure == LikelihoodFigure::Kl { tokens } else { 1.0 }])
    }

    fn value(&self, ratio: f64) -> f64 {
        if self.figure == LikelihoodFigure::Perplexity { ratio.exp() } else { ratio }
    }
}

impl TextMetric for Likelihood {
    fn name(&self) -> &str {
        &self.name
    }

    fn better(&self) -> Better {
        match self.figure {
            LikelihoodFigure::Perplexity => Better::Lower,
            LikelihoodFigure::Kl | LikelihoodFigure::KlPerAnswer => Better::Neither,
        }
    }

    fn measure(&self, sample: &Judged) -> Result<Measured, MetricError> {
        let asked = Asked { metric: &self.name, sample };
        let mut sums = [0.0; 2];
        for answer in asked.answers()? {
            let [value, weight] = self.sums(&asked, answer)?;
            sums = [sums[0] + value, sums[1] + weight];
        }
        let statistics = Statistics::Sums(sums.to_vec());
        Ok(Measured { value: Some(self.corpus(&statistics)), statistics })
    }

    fn corpus(&self, pooled: &Statistics) -> f64 {
        self.value(pooled.ratio())
    }
}
