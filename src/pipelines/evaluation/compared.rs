//! Two systems, record by record.

use super::{EvaluationError, Record, System};
use crate::metrics::{Bootstrap, Comparison, Measured, MetricError, TextMetric, compare};
use std::collections::{BTreeSet, HashMap};

/// For each record of a first system, its place in a second one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PairedRecords(Vec<usize>);

/// A metric over two systems.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricComparison {
    /// The metric.
    pub name: String,
    /// What came of it.
    pub comparison: Comparison,
}

/// Pairs the records of two systems by their ids; where there are several data sets, by these and the ids.
///
/// # Errors
/// [`EvaluationError::Twice`], [`EvaluationError::NoPartner`].
pub fn pair(first: &System, second: &System) -> Result<PairedRecords, EvaluationError> {
    let sets =
        |system: &System| system.records.iter().map(|record| record.dataset_name.clone()).collect::<BTreeSet<_>>();
    let by_set = sets(first).len() > 1 || sets(second).len() > 1;
    let key = |record: &Record| match by_set {
        true => (record.dataset_name.clone(), record.judged.id.clone()),
        false => (String::new(), record.judged.id.clone()),
    };
    let index = |system: &System| {
        let mut places: HashMap<(String, String), usize> = HashMap::new();
        for (place, record) in system.records.iter().enumerate() {
            if let Some(before) = places.insert(key(record), place) {
                let id = record.judged.id.clone();
                let first = Box::new(system.records[before].place.clone());
                return Err(EvaluationError::Twice { place: Box::new(record.place.clone()), id, first });
            }
        }
        Ok(places)
    };
    let (ours, theirs) = (index(first)?, index(second)?);
    let alone = |record: &Record, other: &System| {
        let (place, id) = (Box::new(record.place.clone()), record.judged.id.clone());
        EvaluationError::NoPartner { place, id, other: other.name.clone() }
    };
    if let Some(extra) = second.records.iter().find(|record| !ours.contains_key(&key(record))) {
        return Err(alone(extra, first));
    }
    let place = |record: &Record| theirs.get(&key(record)).copied().ok_or_else(|| alone(record, second));
    Ok(PairedRecords(first.records.iter().map(place).collect::<Result<_, _>>()?))
}

impl PairedRecords {
    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Compares what `metric` measured of the two systems' records, each in its own order. Differences are the second less the
    /// first.
    ///
    /// # Errors
    /// [`MetricError`] of the bootstrap's settings, and where there are not as many measurements as records.
    pub fn compare(
        &self,
        metric: &dyn TextMetric,
        first: &[Measured],
        second: &[Measured],
        bootstrap: &Bootstrap,
    ) -> Result<MetricComparison, MetricError> {
        let theirs: Vec<Measured> = self.0.iter().filter_map(|&place| second.get(place).cloned()).collect();
        let comparison = compare(metric, first, &theirs, bootstrap)?;
        Ok(MetricComparison { name: metric.name().to_owned(), comparison })
    }
}
