//! Confidence intervals by resampling.

use super::{Measured, MetricError, Statistics, TextMetric};
use crate::metrics::summary::quantile;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// How an interval is read off a bootstrap's values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// Their percentiles.
    Percentile,
    /// Percentiles corrected for bias and skewness (BCa). One record, or values that are all the same, leave nothing to correct by:
    /// then it is [`Method::Percentile`].
    #[default]
    Bca,
}

/// Draws records with replacement, as many as there are, again and again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// How often; at least 1.
    pub resamples: usize,
    /// The share of such intervals that would hold the true value, above 0 and below 1.
    pub level: f64,
    /// Seed of the draws.
    pub seed: u64,
    /// How the interval is read off.
    pub method: Method,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 1000, level: 0.95, seed: 0, method: Method::default() }
    }
}

/// A confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

impl Bootstrap {
    /// The interval of `metric` over records that it has measured. Where the metric's value does not survive drawing a record twice
    /// ([`TextMetric::may_repeat_records`]), it is a normal one by the jackknife.
    ///
    /// # Errors
    /// [`MetricError::Empty`] without records, [`MetricError::Bootstrap`] of a setting outside its range.
    pub fn interval(&self, metric: &dyn TextMetric, measured: &[Measured]) -> Result<Interval, MetricError> {
        self.check()?;
        let statistics: Vec<&Statistics> = measured.iter().map(|one| &one.statistics).collect();
        let whole = Statistics::pool(statistics.iter().copied());
        let observed = metric.corpus(&whole.ok_or_else(|| MetricError::Empty(metric.name().to_owned()))?);
        if !metric.may_repeat_records() {
            return Ok(self.normal(observed, jackknife_error(&left_out(metric, &statistics))));
        }
        let value = |chosen: &[usize]| {
            let pooled = Statistics::pool(chosen.iter().map(|&i| statistics[i]));
            pooled.map_or(f64::NAN, |pooled| metric.corpus(&pooled))
        };
        let values = self.values(measured.len(), value);
        Ok(match self.method {
            Method::Percentile => percentile_interval(&values, self.level),
            Method::Bca => bca_interval(&values, observed, &left_out(metric, &statistics), self.level),
        })
    }

    /// The normal interval of an estimate with this standard error.
    pub(super) fn normal(&self, observed: f64, error: f64) -> Interval {
        let reach = -normal_quantile((1.0 - self.level) / 2.0) * error;
        Interval { low: observed - reach, high: observed + reach }
    }

    /// `statistic` of each resample, of records numbered below `records`.
    pub fn values(&self, records: usize, mut statistic: impl FnMut(&[usize]) -> f64) -> Vec<f64> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let mut chosen = vec![0; records];
        let draw = |_| {
            chosen.iter_mut().for_each(|place| *place = rng.random_range(0..records));
            statistic(&chosen)
        };
        (0..self.resamples).map(draw).collect()
    }

    pub(super) fn check(&self) -> Result<(), MetricError> {
        let refused = |name, value, range| Err(MetricError::Bootstrap { name, value, range });
        if self.resamples == 0 {
            return refused("resamples", 0.0, "at least 1");
        }
        if !(self.level > 0.0 && self.level < 1.0) {
            return refused("level", self.level, "above 0 and below 1");
        }
        Ok(())
    }
}

/// Blocks of records that are left out together where statistics are marks.
const BLOCKS: usize = 200;

/// The corpus value without each record in turn; where statistics are marks, which cannot be taken out of what was pooled, without
/// each of [`BLOCKS`] blocks of records. Empty where nothing would be left.
pub(super) fn left_out(metric: &dyn TextMetric, statistics: &[&Statistics]) -> Vec<f64> {
    let n = statistics.len();
    if n < 2 {
        return Vec::new();
    }
    if let Some(Statistics::Sums(whole)) = Statistics::pool(statistics.iter().copied()) {
        let rest = |own: &[f64]| Statistics::Sums(whole.iter().zip(own).map(|(all, own)| all - own).collect());
        return statistics.iter().map(|one| metric.corpus(&rest(one.sums()))).collect();
    }
    let size = n.div_ceil(BLOCKS);
    let rest = |start: usize| {
        Statistics::pool(statistics[..start].iter().chain(&statistics[(start + size).min(n)..]).copied())
    };
    (0..n).step_by(size).filter_map(rest).map(|pooled| metric.corpus(&pooled)).collect()
}

/// The jackknife's standard error, of an estimate's values without each record, or each of equal blocks, in turn; 0 of fewer than
/// two.
///
/// # Source
/// Efron and Tibshirani 1993, eq. 11.5.
pub(super) fn jackknife_error(left_out: &[f64]) -> f64 {
    let n = left_out.len().max(1) as f64;
    let mean = left_out.iter().sum::<f64>() / n;
    ((n - 1.0) / n * left_out.iter().map(|value| (value - mean).powi(2)).sum::<f64>()).sqrt()
}

/// The middle `level` of a bootstrap's values.
///
/// # Source
/// Efron and Tibshirani 1993, ch. 13; checked against `scipy.stats.bootstrap` 1.17.1.
pub fn percentile_interval(values: &[f64], level: f64) -> Interval {
    let tail = (1.0 - level) / 2.0;
    between(values, tail, 1.0 - tail)
}

/// The interval corrected for bias, by how many of the `values` lie below the `observed` one, and for skewness, by the values
/// without each record in turn (`left_out`).
///
/// # Source
/// Efron 1987; checked against `scipy.stats.bootstrap` 1.17.1.
pub fn bca_interval(values: &[f64], observed: f64, left_out: &[f64], level: f64) -> Interval {
    let below = values.iter().filter(|&&value| value < observed).count();
    let equal = values.iter().filter(|&&value| value == observed).count();
    let bias = normal_quantile((2 * below + equal) as f64 / (2 * values.len()) as f64);
    let skewness = skewness(left_out);
    let tail = normal_quantile((1.0 - level) / 2.0);
    let share = |tail: f64| {
        let sum = bias + tail;
        normal_share(bias + sum / (1.0 - skewness * sum))
    };
    let (low, high) = (share(tail), share(-tail));
    match low.is_finite() && high.is_finite() {
        true => between(values, low, high),
        // All values on one side of the observed one, or all the same.
        false => percentile_interval(values, level),
    }
}

fn between(values: &[f64], low: f64, high: f64) -> Interval {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    Interval { low: quantile(&sorted, low), high: quantile(&sorted, high) }
}

fn skewness(left_out: &[f64]) -> f64 {
    let n = left_out.len() as f64;
    let mean = left_out.iter().sum::<f64>() / n;
    let moment =
        |power| left_out.iter().map(|value| ((n - 1.0) * (mean - value)).powi(power)).sum::<f64>() / n.powi(power);
    moment(3) / moment(2).powf(1.5) / 6.0
}

/// The share of a standard normal distribution below `z`.
pub(super) fn normal_share(z: f64) -> f64 {
    0.5 * libm::erfc(-z / std::f64::consts::SQRT_2)
}

/// Where the share below is `p`; infinite at 0 and 1.
pub(super) fn normal_quantile(p: f64) -> f64 {
    if p <= 0.0 || p >= 1.0 {
        return if p <= 0.0 { f64::NEG_INFINITY } else { f64::INFINITY };
    }
    // The upper half by symmetry: `1 - p` is exact there, and erfc keeps its digits in the lower tail.
    if p > 0.5 {
        return -normal_quantile(1.0 - p);
    }
    // Hastings' rational approximation (Abramowitz and Stegun 26.2.23), then Newton's method in its third-order form.
    let t = (-2.0 * p.ln()).sqrt();
    let mut z =
        -(t - (2.515517 + t * (0.802853 + t * 0.010328)) / (1.0 + t * (1.432788 + t * (0.189269 + t * 0.001308))));
    for _ in 0..4 {
        let density = (-0.5 * z * z).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let step = (normal_share(z) - p) / density;
        z -= step / (1.0 + 0.5 * z * step);
    }
    z
}
