//! Which of two systems is better on the same records.

use super::bootstrap::{jackknife_error, left_out, normal_share};
use super::{Better, Bootstrap, Interval, Judged, Measured, MetricError, Statistics, TextMetric, percentile_interval};
use std::collections::HashMap;

/// Two systems over the same records. Differences are the second less the first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// The first one's corpus value.
    pub first: f64,
    /// The second one's.
    pub second: f64,
    /// `second − first`.
    pub difference: f64,
    /// Where the difference lies: percentiles of its values over resamples of the records, the same ones for both.
    pub interval: Interval,
    /// How often resampling alone would move the difference as far from its value as that is from 0: the share of resamples in which
    /// `|difference − observed| ≥ |observed|`, with one added to both counts. Small where chance alone is a poor explanation. By the
    /// jackknife and the normal distribution where the metric may not repeat records.
    pub p_value: f64,
    /// Records on which the second is better, the same, and worse; `None` for a metric without values of single records. Where
    /// neither end is better, more counts as better.
    pub records: Option<Counts>,
    /// McNemar's test, where every record's value is 0 or 1 with both.
    pub mcnemar: Option<McNemar>,
}

/// How the second system does record by record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Better.
    pub wins: usize,
    /// The same, up to rounding.
    pub ties: usize,
    /// Worse.
    pub losses: usize,
}

/// McNemar's exact test on records that one system has right and the other wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct McNemar {
    /// Right with the first only.
    pub first_only: usize,
    /// Right with the second only.
    pub second_only: usize,
    /// Two-sided: how likely so uneven a split would be if each were as likely to be right alone.
    pub p_value: f64,
}

/// Two values closer than this are a tie: sums of the same parts in another order.
const TIE: f64 = 1e-12;

/// Compares two systems' measurements of the same records in the same order ([`pair`] brings them there).
///
/// sacreBLEU's paired bootstrap takes the mean of the absolute differences instead of the observed one for the centre, by which a
/// system differs from itself with a p-value near 0; here it is 1.
///
/// # Errors
/// [`MetricError::Empty`] without records, [`MetricError::Uneven`] with lists of different lengths, [`MetricError::Bootstrap`].
///
/// # Source
/// Efron and Tibshirani 1993, ch. 16; Koehn 2004 for the pairing.
pub fn compare(
    metric: &dyn TextMetric,
    first: &[Measured],
    second: &[Measured],
    bootstrap: &Bootstrap,
) -> Result<Comparison, MetricError> {
    bootstrap.check()?;
    let metric_name = || metric.name().to_owned();
    if first.len() != second.len() {
        return Err(MetricError::Uneven { metric: metric_name(), first: first.len(), second: second.len() });
    }
    if first.is_empty() {
        return Err(MetricError::Empty(metric_name()));
    }
    let [ours, theirs] = [first, second].map(|all| all.iter().map(|one| &one.statistics).collect::<Vec<_>>());
    let value = |all: &[&Statistics], chosen: &mut dyn Iterator<Item = usize>| {
        Statistics::pool(chosen.map(|i| all[i])).map_or(f64::NAN, |pooled| metric.corpus(&pooled))
    };
    let [a, b] = [&ours, &theirs].map(|all| value(all, &mut (0..all.len())));
    let (interval, p_value) = if metric.may_repeat_records() {
        let drawn = |chosen: &[usize]| {
            let [a, b] = [&ours, &theirs].map(|all| value(all, &mut chosen.iter().copied()));
            b - a
        };
        let differences = bootstrap.values(first.len(), drawn);
        (percentile_interval(&differences, bootstrap.level), shifted_p_value(&differences, b - a))
    } else {
        let [without, with] = [&ours, &theirs].map(|all| left_out(metric, all));
        let error = jackknife_error(&without.iter().zip(&with).map(|(a, b)| b - a).collect::<Vec<_>>());
        (bootstrap.normal(b - a, error), normal_p_value(b - a, error))
    };
    let values: Option<Vec<(f64, f64)>> = first.iter().zip(second).map(|(a, b)| a.value.zip(b.value)).collect();
    Ok(Comparison {
        first: a,
        second: b,
        difference: b - a,
        interval,
        p_value,
        records: values.as_deref().map(|values| count(values, metric.better())),
        mcnemar: values.as_deref().and_then(binary).map(|(a, b)| McNemar::of(a, b)),
    })
}

/// See [`Comparison::p_value`].
pub fn shifted_p_value(differences: &[f64], observed: f64) -> f64 {
    let far = differences.iter().filter(|&&one| (one - observed).abs() >= observed.abs() - TIE).count();
    (far + 1) as f64 / (differences.len() + 1) as f64
}

/// Two-sided, of a difference with this standard error; 1 where the error is not known, of a single record.
fn normal_p_value(difference: f64, error: f64) -> f64 {
    if error == 0.0 { 1.0 } else { 2.0 * normal_share(-difference.abs() / error) }
}

fn count(values: &[(f64, f64)], better: Better) -> Counts {
    let sign = if better == Better::Lower { -1.0 } else { 1.0 };
    let mut counts = Counts::default();
    for (a, b) in values {
        match sign * (b - a) {
            gain if gain > TIE => counts.wins += 1,
            gain if gain < -TIE => counts.losses += 1,
            _ => counts.ties += 1,
        }
    }
    counts
}

/// How many are 1 with the first only, and with the second only; `None` where a value is neither 0 nor 1.
fn binary(values: &[(f64, f64)]) -> Option<(usize, usize)> {
    let is_binary = |value: f64| value == 0.0 || value == 1.0;
    let all = values.iter().all(|&(a, b)| is_binary(a) && is_binary(b));
    let only = |one: fn(&(f64, f64)) -> bool| values.iter().filter(|pair| one(pair)).count();
    all.then(|| (only(|(a, b)| a > b), only(|(a, b)| b > a)))
}

impl McNemar {
    /// Of `first_only` records that only the first has right, and so on.
    ///
    /// # Source
    /// McNemar 1947 with the exact binomial distribution; checked against `scipy.stats.binomtest` 1.17.1.
    pub fn of(first_only: usize, second_only: usize) -> Self {
        let (n, k) = ((first_only + second_only) as f64, first_only.min(second_only));
        // log C(n, i) − n·log 2, from one i to the next.
        let mut log = -n * std::f64::consts::LN_2;
        let mut tail = log.exp();
        for i in 1..=k {
            log += ((n - i as f64 + 1.0) / i as f64).ln();
            tail += log.exp();
        }
        Self { first_only, second_only, p_value: (2.0 * tail).min(1.0) }
    }
}

/// For each record of the first file, its place in the second.
///
/// # Errors
/// [`MetricError::Unpaired`] of an id that is not in both files, or more than once in one.
pub fn pair(first: &[Judged], second: &[Judged]) -> Result<Vec<usize>, MetricError> {
    let index = |file: &[Judged], side| {
        let mut places: HashMap<String, usize> = HashMap::new();
        for (place, sample) in file.iter().enumerate() {
            if places.insert(sample.id.clone(), place).is_some() {
                let count = file.iter().filter(|other| other.id == sample.id).count();
                return Err(MetricError::Unpaired { id: sample.id.clone(), side, count });
            }
        }
        Ok(places)
    };
    let (ours, theirs) = (index(first, "first")?, index(second, "second")?);
    let absent = |id: &str, side| MetricError::Unpaired { id: id.to_owned(), side, count: 0 };
    if let Some(extra) = second.iter().find(|sample| !ours.contains_key(&sample.id)) {
        return Err(absent(&extra.id, "first"));
    }
    first.iter().map(|sample| theirs.get(&sample.id).copied().ok_or_else(|| absent(&sample.id, "second"))).collect()
}
