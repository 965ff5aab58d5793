//! Classification: accuracy, precision, recall, F-score.

use super::words::mark;
use super::{Asked, Better, Judged, Measured, MetricError, Statistics, TextMetric};
use std::collections::{BTreeMap, BTreeSet};

/// How often each class was predicted where each was right.
///
/// The classes are those that occur, right or predicted, in their order. A share of nothing is 0.
///
/// # Source
/// Checked against scikit-learn 1.9.1 (`zero_division=0`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confusion<C: Ord> {
    counts: BTreeMap<(C, C), u64>,
}

/// How classes are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Average {
    /// The mean over the classes, each counting the same.
    Macro,
    /// Over all records: hits, wrong predictions and misses are added up first. With one class per record this is accuracy.
    Micro,
    /// The mean over the classes, each counting as often as it is right.
    Weighted,
}

/// Hits of one class and what they are measured by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassCounts {
    /// Predicted and right.
    pub hits: u64,
    /// Predicted.
    pub predicted: u64,
    /// Right.
    pub support: u64,
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

impl ClassCounts {
    /// Share of the predictions that are right.
    pub fn precision(&self) -> f64 {
        share(self.hits, self.predicted)
    }

    /// Share of the right ones that were predicted.
    pub fn recall(&self) -> f64 {
        share(self.hits, self.support)
    }

    /// Harmonic mean of both.
    pub fn f1(&self) -> f64 {
        share(2 * self.hits, self.predicted + self.support)
    }
}

impl<C: Ord> FromIterator<(C, C)> for Confusion<C> {
    /// Of pairs of the right class and the predicted one.
    fn from_iter<I: IntoIterator<Item = (C, C)>>(pairs: I) -> Self {
        let mut counts = BTreeMap::new();
        pairs.into_iter().for_each(|pair| *counts.entry(pair).or_insert(0) += 1);
        Self { counts }
    }
}

impl<C: Ord> Confusion<C> {
    /// The classes.
    pub fn classes(&self) -> Vec<&C> {
        let all: BTreeSet<&C> = self.counts.keys().flat_map(|(right, predicted)| [right, predicted]).collect();
        all.into_iter().collect()
    }

    /// The table `[right][predicted]` in the order of [`Confusion::classes`].
    pub fn table(&self) -> Vec<Vec<u64>> {
        let classes = self.classes();
        let mut table = vec![vec![0; classes.len()]; classes.len()];
        for ((right, predicted), &count) in &self.counts {
            // Both are among the classes, which are sorted.
            if let (Ok(row), Ok(column)) = (classes.binary_search(&right), classes.binary_search(&predicted)) {
                table[row][column] = count;
            }
        }
        table
    }

    /// What is known of each class, in the order of [`Confusion::classes`].
    pub fn per_class(&self) -> Vec<ClassCounts> {
        let mut all: BTreeMap<&C, ClassCounts> = BTreeMap::new();
        for ((right, predicted), &count) in &self.counts {
            all.entry(right).or_default().support += count;
            let class = all.entry(predicted).or_default();
            class.predicted += count;
            if right == predicted {
                class.hits += count;
            }
        }
        all.into_values().collect()
    }

    /// Records.
    pub fn total(&self) -> u64 {
        self.counts.values().sum()
    }

    /// Share of the records whose class was predicted.
    pub fn accuracy(&self) -> f64 {
        share(
            self.counts.iter().filter(|((right, predicted), _)| right == predicted).map(|(_, n)| n).sum(),
            self.total(),
        )
    }

    /// Precision over all classes.
    pub fn precision(&self, average: Average) -> f64 {
        self.averaged(average, ClassCounts::precision)
    }

    /// Recall over all classes.
    pub fn recall(&self, average: Average) -> f64 {
        self.averaged(average, ClassCounts::recall)
    }

    /// F-score over all classes.
    pub fn f1(&self, average: Average) -> f64 {
        self.averaged(average, ClassCounts::f1)
    }

    fn averaged(&self, average: Average, of: fn(&ClassCounts) -> f64) -> f64 {
        let classes = self.per_class();
        match average {
            Average::Micro => {
                let sum = |a: ClassCounts, b: &ClassCounts| ClassCounts {
                    hits: a.hits + b.hits,
                    predicted: a.predicted + b.predicted,
                    support: a.support + b.support,
                };
                of(&classes.iter().fold(ClassCounts::default(), sum))
            }
            Average::Macro => classes.iter().map(of).sum::<f64>() / classes.len().max(1) as f64,
            Average::Weighted => {
                let weighed = classes.iter().map(|class| of(class) * class.support as f64).sum::<f64>();
                weighed / self.total().max(1) as f64
            }
        }
    }
}

/// Which number of a [`Confusion`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClassFigure {
    /// [`Confusion::accuracy`]
    Accuracy,
    /// [`Confusion::precision`]
    Precision(Average),
    /// [`Confusion::recall`]
    Recall(Average),
    /// [`Confusion::f1`]
    F1(Average),
}

/// A number of a [`Confusion`] as a metric: each answer, trimmed, is the predicted class and the record's label the right one.
/// A record's own value is the share of its answers that are right.
#[derive(Clone, Debug)]
pub struct ClassMetric {
    name: String,
    figure: ClassFigure,
}

impl ClassMetric {
    /// The metric `name`.
    pub fn new(name: impl Into<String>, figure: ClassFigure) -> Self {
        Self { name: name.into(), figure }
    }
}

impl TextMetric for ClassMetric {
    fn name(&self) -> &str {
        &self.name
    }

    fn better(&self) -> Better {
        Better::Higher
    }

    fn measure(&self, sample: &Judged) -> Result<Measured, MetricError> {
        let asked = Asked { metric: &self.name, sample };
        let right = asked.label()?.trim();
        let predicted: Vec<&str> = asked.answers()?.iter().map(|answer| answer.text.trim()).collect();
        let hits = predicted.iter().filter(|&&class| class == right).count();
        let marks = predicted.iter().flat_map(|class| [mark(right), mark(*class)]).collect();
        Ok(Measured { value: Some(hits as f64 / predicted.len() as f64), statistics: Statistics::Marks(marks) })
    }

    fn corpus(&self, pooled: &Statistics) -> f64 {
        let confusion: Confusion<u64> = pooled.marks().chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        match self.figure {
            ClassFigure::Accuracy => confusion.accuracy(),
            ClassFigure::Precision(average) => confusion.precision(average),
            ClassFigure::Recall(average) => confusion.recall(average),
            ClassFigure::F1(average) => confusion.f1(average),
        }
    }
}
