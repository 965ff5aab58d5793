//! Metrics over whole files of predictions: values with intervals, and systems compared record by record.
//!
//! ```
//! use firebrick::data::Place;
//! use firebrick::metrics::{Bootstrap, Facts};
//! use firebrick::pipelines::evaluation::{Record, System, figure, registry};
//!
//! let line = r#"{"id": 1, "label": "a cat", "answers": [{"id": 0, "content": "a cat"}]}"#;
//! let record = Record::of(serde_json::from_str(line)?, Place::new(std::path::Path::new("p.jsonl"), 1))?;
//! let system = System { name: "ours".into(), records: vec![record] };
//! let metric = registry().by_name("exact_match", &Facts::default())?;
//! assert_eq!(figure(&*metric, &system.records, &Bootstrap::default())?.value, 1.0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod compared;
mod error;
mod rewards;
#[cfg(test)]
mod tests;

pub use compared::{MetricComparison, PairedRecords, pair};
pub use error::EvaluationError;
pub use rewards::{Reward, RewardFigure};

use super::judging::{class, judged};
use super::{Prediction, Predictions};
use crate::data::Place;
use crate::metrics::{
    Better, Bootstrap, Confusion, Interval, Judged, Measured, MetricError, Registry, Scored, Statistics, TextMetric,
};
use crate::pipelines::judging::References;
use rayon::prelude::*;

/// A record as metrics read it, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Where it stands.
    pub place: Place,
    /// What it is judged by.
    pub judged: Judged,
    /// The data set that it is of.
    pub dataset_name: String,
    /// The right class and the one that a classifier took it for, where it has both.
    pub classes: Option<(String, String)>,
    /// Whether a reward model has judged it.
    pub is_rewarded: bool,
}

impl Record {
    /// The record `prediction`, which stands at `place`; [`judging`](super::judging) says what is read.
    ///
    /// # Errors
    /// [`DataError`](crate::data::DataError) of a field that has not the form that it should have.
    pub fn of(prediction: Prediction, place: Place) -> Result<Self, EvaluationError> {
        let judged = judged(&prediction, &place)?;
        let predicted = prediction.predicted_label.as_ref().and_then(class);
        let is_rewarded = prediction.rewards.is_some() || prediction.rest.contains_key("reward_w");
        let classes = judged.label.clone().zip(predicted);
        Ok(Self { place, judged, dataset_name: prediction.dataset_name, classes, is_rewarded })
    }
}

/// A model's answers to some records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct System {
    /// What tables call it.
    pub name: String,
    /// The records.
    pub records: Vec<Record>,
}

impl System {
    /// Reads prediction files, which together are one system's; `references` says what is right.
    ///
    /// # Errors
    /// [`EvaluationError`] of files and records that cannot be read.
    pub fn open(
        name: impl Into<String>,
        files: &[std::path::PathBuf],
        references: Option<&References>,
    ) -> Result<Self, EvaluationError> {
        let predictions = Predictions::open(files)?;
        let read = |index: usize| {
            let (place, mut prediction) = (predictions.place(index), predictions.read(index)?);
            if let Some(references) = references {
                references.fill(&mut prediction, &place)?;
            }
            Record::of(prediction, place)
        };
        let read: Vec<Result<Record, EvaluationError>> = (0..predictions.len()).into_par_iter().map(read).collect();
        Ok(Self { name: name.into(), records: read.into_iter().collect::<Result<_, _>>()? })
    }

    /// How often each class was predicted where each was right; `None` where a record lacks one of the two.
    pub fn confusion(&self) -> Option<Confusion<String>> {
        let all: Option<Vec<(String, String)>> = self.records.iter().map(|record| record.classes.clone()).collect();
        all.filter(|all| !all.is_empty()).map(Confusion::from_iter)
    }

    /// The metrics that suit what every record has, where nobody names any: of classes, of rewards.
    pub fn suited(&self) -> Vec<&'static str> {
        let all = |has: fn(&Record) -> bool| !self.records.is_empty() && self.records.iter().all(has);
        let mut names = Vec::new();
        if all(|record| record.classes.is_some()) {
            names.extend(["accuracy", "precision_macro", "recall_macro", "f1_macro"]);
        }
        if all(|record| record.is_rewarded) {
            names.extend(["reward_mean", "reward_best"]);
            let is_pair = |record: &Record| {
                let chosen = record.judged.candidates.iter().filter(|one| one.relevance > 0.0).count();
                chosen > 0 && chosen < record.judged.candidates.len()
            };
            if all(is_pair) {
                names.extend(["reward_accuracy", "reward_margin"]);
            }
        }
        names
    }
}

/// The metrics of [`Registry::default`], and those of rewards.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    for (name, figure, help) in [
        ("reward_mean", RewardFigure::Mean, "mean reward of a record's answers"),
        ("reward_best", RewardFigure::Best, "reward of a record's best answer"),
        ("reward_accuracy", RewardFigure::Accuracy, "share of pairs whose chosen answer has the higher reward"),
        ("reward_margin", RewardFigure::MeanMargin, "mean reward of the chosen answers less that of the rejected ones"),
    ] {
        registry.add(name, help, move |_| Ok(Box::new(Reward::new(name, figure))));
    }
    registry
}

/// A metric's value over a system's records.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// The metric.
    pub name: String,
    /// Which way is up.
    pub better: Better,
    /// The value of all records.
    pub value: f64,
    /// Its confidence interval.
    pub interval: Interval,
    /// What was kept of each record, in their order.
    pub measured: Vec<Measured>,
}

/// Measures all records and resamples them.
///
/// # Errors
/// As [`measure`].
pub fn figure(metric: &dyn TextMetric, records: &[Record], bootstrap: &Bootstrap) -> Result<Figure, EvaluationError> {
    let Scored { corpus, measured } = measure(metric, records)?;
    let interval = bootstrap.interval(metric, &measured)?;
    Ok(Figure { name: metric.name().to_owned(), better: metric.better(), value: corpus, interval, measured })
}

/// Measures all records, on all threads.
///
/// # Errors
/// [`EvaluationError::Metric`] of the first record that lacks what the metric reads.
pub fn measure(metric: &dyn TextMetric, records: &[Record]) -> Result<Scored, EvaluationError> {
    let one = |record: &Record| {
        let place = || Box::new(record.place.clone());
        metric.measure(&record.judged).map_err(|source| EvaluationError::Metric { place: place(), source })
    };
    let all: Vec<Result<Measured, EvaluationError>> = records.par_iter().map(one).collect();
    let measured = all.into_iter().collect::<Result<Vec<_>, _>>()?;
    let pooled = Statistics::pool(measured.iter().map(|one| &one.statistics));
    let pooled = pooled.ok_or_else(|| MetricError::Empty(metric.name().to_owned()))?;
    Ok(Scored { corpus: metric.corpus(&pooled), measured })
}
