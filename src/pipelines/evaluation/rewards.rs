//! What a reward model says of answers, as metrics.

use crate::metrics::{Asked, Better, Judged, Measured, MetricError, TextMetric};

/// Which number of a record's rewards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RewardFigure {
    /// Their mean.
    Mean,
    /// The highest.
    Best,
    /// Share of the pairs of a chosen and a rejected answer in which the chosen one's is higher; equal ones count as wrong.
    Accuracy,
    /// Mean of the chosen answers' less mean of the rejected ones'.
    MeanMargin,
}

/// A number of a record's rewards, the scores of its candidates; chosen ones have a relevance above 0. Each record weighs the
/// same.
#[derive(Clone, Debug)]
pub struct Reward {
    name: String,
    figure: RewardFigure,
}

impl Reward {
    /// The metric `name`.
    pub fn new(name: impl Into<String>, figure: RewardFigure) -> Self {
        Self { name: name.into(), figure }
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

impl TextMetric for Reward {
    fn name(&self) -> &str {
        &self.name
    }

    fn better(&self) -> Better {
        Better::Higher
    }

    fn measure(&self, sample: &Judged) -> Result<Measured, MetricError> {
        let asked = Asked { metric: &self.name, sample };
        if sample.candidates.is_empty() {
            return Err(asked.missing("reward (`rewards` by the answers' ids, or `reward_w` and `reward_l`)"));
        }
        let rewards = asked.scores()?;
        let of = |is_chosen: bool| -> Vec<f64> {
            let with = rewards.iter().zip(&sample.candidates);
            with.filter(|(_, one)| (one.relevance > 0.0) == is_chosen).map(|(&reward, _)| reward).collect()
        };
        let (chosen, rejected) = (of(true), of(false));
        let is_pair = matches!(self.figure, RewardFigure::Accuracy | RewardFigure::MeanMargin);
        if is_pair && (chosen.is_empty() || rejected.is_empty()) {
            return Err(asked.missing("pair of a chosen and a rejected answer with their rewards"));
        }
        Ok(Measured::mean(match self.figure {
            RewardFigure::Mean => mean(&rewards),
            RewardFigure::Best => rewards.iter().copied().fold(f64::NEG_INFINITY, f64::max),
            RewardFigure::MeanMargin => mean(&chosen) - mean(&rejected),
            RewardFigure::Accuracy => {
                let right = chosen.iter().flat_map(|a| rejected.iter().map(move |b| f64::from(a > b)));
                right.sum::<f64>() / (chosen.len() * rejected.len()) as f64
            }
        }))
    }
}
