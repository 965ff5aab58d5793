//! Numbers of a batch on the host, where metrics are computed in f64.

use super::Sides;
use crate::objectives::Metric;
use burn::tensor::Tensor;

/// What was read back of a micro-batch.
pub(crate) struct Host<'a> {
    /// Log-probabilities of the answers under the policy.
    pub policy: Sides<Vec<f64>>,
    /// And under the reference, where there is one.
    pub reference: Option<Sides<Vec<f64>>>,
    /// Numbers of tokens of the answers.
    pub lengths: &'a Sides<Vec<usize>>,
    /// What the loss itself asked for.
    pub observed: Vec<f64>,
}

impl Host<'_> {
    /// `nll_loss`, per token of the chosen answers, whose sums were observed.
    pub fn nll(&self) -> Metric {
        let tokens: usize = self.lengths.chosen.iter().sum();
        Metric { name: "nll_loss".into(), sum: -self.observed.iter().sum::<f64>(), weight: tokens as f64 }
    }
}

/// Vectors that are read together: each readback waits for everything that was computed before it.
#[derive(Default)]
pub(super) struct Readback {
    parts: Vec<Tensor<1>>,
}

impl Readback {
    pub fn push(&mut self, values: Tensor<1>) {
        self.parts.push(values.inner());
    }

    pub fn sides(&mut self, sides: Sides<Tensor<1>>) {
        self.push(sides.chosen);
        self.push(sides.rejected);
    }

    /// The vectors in the order they were pushed.
    pub fn read(self) -> Values {
        let lengths: Vec<usize> = self.parts.iter().map(|part| part.dims()[0]).collect();
        let values = host_values(Tensor::cat(self.parts, 0));
        let mut rest = values.as_slice();
        let mut parts = Vec::with_capacity(lengths.len());
        for n in lengths {
            let (part, after) = rest.split_at(n);
            parts.push(part.to_vec());
            rest = after;
        }
        Values(parts.into_iter())
    }
}

/// Vectors that were read.
pub(super) struct Values(std::vec::IntoIter<Vec<f64>>);

impl Values {
    /// The next one; they are taken as they were pushed.
    pub fn take(&mut self) -> Vec<f64> {
        self.0.next().unwrap_or_default()
    }

    pub fn sides(&mut self) -> Sides<Vec<f64>> {
        Sides { chosen: self.take(), rejected: self.take() }
    }
}

/// The values of a vector.
pub(crate) fn host_values(values: Tensor<1>) -> Vec<f64> {
    values.inner().into_data_as::<f32>().iter::<f32>().map(f64::from).collect()
}

/// `−log σ(x)` of one number.
pub(crate) fn logistic_of(x: f64) -> f64 {
    (-x).max(0.0) + (-x.abs()).exp().ln_1p()
}

/// The log-odds of an event by its log-probability, [`log_odds`](super::log_odds) of one number.
pub(crate) fn log_odds_of(x: f64) -> f64 {
    x - (-x.min(super::stable::NEAREST_TO_CERTAIN).exp_m1()).ln()
}
