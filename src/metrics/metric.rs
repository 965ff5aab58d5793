//! The trait of a metric, and what it makes of a record.

use super::{Generated, Judged, MetricError};
use std::fmt;

/// Which way is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
    /// It describes, and neither end is better: a length, a share of "yes".
    Neither,
}

/// What a metric keeps of records: the corpus value is computed from the pooled statistics of all of them, so that a bootstrap
/// need not read a text twice.
#[derive(Clone, Debug, PartialEq)]
pub enum Statistics {
    /// Numbers that are added up: a value and its weight, n-gram counts of BLEU, a confusion table.
    Sums(Vec<f64>),
    /// Hashes that are put one after another: n-grams whose distinct ones are counted, or pairs of right and predicted class.
    Marks(Vec<u64>),
}

impl Statistics {
    /// The statistics of several records together; `None` of none.
    ///
    /// # Panics
    /// Where a metric mixes kinds or lengths, which is a fault of that metric.
    pub fn pool<'a>(parts: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let mut parts = parts.into_iter();
        let mut whole = parts.next()?.clone();
        parts.for_each(|part| whole.add(part));
        Some(whole)
    }

    fn add(&mut self, part: &Self) {
        match (self, part) {
            (Self::Sums(whole), Self::Sums(part)) => {
                assert_eq!(whole.len(), part.len(), "a metric has as many sums for every record");
                whole.iter_mut().zip(part).for_each(|(whole, part)| *whole += part);
            }
            (Self::Marks(whole), Self::Marks(part)) => whole.extend_from_slice(part),
            _ => panic!("a metric has one kind of statistics for all records"),
        }
    }

    /// Sum of the values over sum of their weights, where the statistics are those two; 0 where nothing was weighed.
    pub fn ratio(&self) -> f64 {
        match self {
            Self::Sums(sums) => match sums[..] {
                [value, weight] if weight != 0.0 => value / weight,
                _ => 0.0,
            },
            Self::Marks(_) => 0.0,
        }
    }

    /// The sums; empty where there are marks instead.
    pub fn sums(&self) -> &[f64] {
        match self {
            Self::Sums(sums) => sums,
            Self::Marks(_) => &[],
        }
    }

    /// The marks; empty where there are sums instead.
    pub fn marks(&self) -> &[u64] {
        match self {
            Self::Sums(_) => &[],
            Self::Marks(marks) => marks,
        }
    }
}

/// What a metric makes of one record.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// The record's own value, where the metric has one.
    pub value: Option<f64>,
    /// What the corpus value is computed from.
    pub statistics: Statistics,
}

impl Measured {
    /// A value that the corpus takes the mean of, each record weighing the same.
    pub fn mean(value: f64) -> Self {
        Self { value: Some(value), statistics: Statistics::Sums(vec![value, 1.0]) }
    }
}

/// A number that evaluation reports. Any crate may add its own, with [`Registry::add`](super::Registry::add) also by name.
pub trait TextMetric: Send + Sync {
    /// What it is called in logs and on the command line.
    fn name(&self) -> &str;

    /// Which way is up.
    fn better(&self) -> Better;

    /// What it makes of one record.
    ///
    /// # Errors
    /// [`MetricError::Missing`] of a record without what the metric reads.
    fn measure(&self, sample: &Judged) -> Result<Measured, MetricError>;

    /// The value of all records whose statistics were pooled; without an own rule the sum of values over the sum of weights.
    fn corpus(&self, pooled: &Statistics) -> f64 {
        pooled.ratio()
    }

    /// Whether the corpus value means the same of records that are drawn twice. Where it does not, as of how many n-grams are
    /// different, intervals come from leaving records out instead of drawing them.
    fn may_repeat_records(&self) -> bool {
        true
    }
}

/// A metric over many records.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The value of them all.
    pub corpus: f64,
    /// What was kept of each, in their order.
    pub measured: Vec<Measured>,
}

/// Asks `metric` about every record.
///
/// # Errors
/// [`MetricError::Empty`] without records; the first record's error.
pub fn evaluate(metric: &dyn TextMetric, samples: &[Judged]) -> Result<Scored, MetricError> {
    let measured = samples.iter().map(|sample| metric.measure(sample)).collect::<Result<Vec<_>, _>>()?;
    let pooled = Statistics::pool(measured.iter().map(|one| &one.statistics));
    let corpus = metric.corpus(&pooled.ok_or_else(|| MetricError::Empty(metric.name().to_owned()))?);
    Ok(Scored { corpus, measured })
}

type Rule = dyn Fn(&Asked<'_>, &Generated) -> Result<f64, MetricError> + Send + Sync;

/// A metric that is the mean of a rule's values: over a record's answers, then over the records.
pub struct PerAnswer {
    name: String,
    better: Better,
    rule: Box<Rule>,
}

impl PerAnswer {
    /// A metric called `name` whose value of an answer is `rule(record, answer)`.
    ///
    /// ```
    /// use firebrick::metrics::{Better, Judged, PerAnswer, evaluate};
    ///
    /// let shouting = PerAnswer::new("shouting", Better::Lower, |_, answer| {
    ///     Ok(f64::from(answer.text.ends_with('!')))
    /// });
    /// let samples = [Judged::new("1", "Hey!", &[]), Judged::new("2", "Hello.", &[])];
    /// assert_eq!(evaluate(&shouting, &samples)?.corpus, 0.5);
    /// # Ok::<(), firebrick::metrics::MetricError>(())
    /// ```
    pub fn new<F>(name: impl Into<String>, better: Better, rule: F) -> Self
    where
        F: Fn(&Asked<'_>, &Generated) -> Result<f64, MetricError> + Send + Sync + 'static,
    {
        Self { name: name.into(), better, rule: Box::new(rule) }
    }
}

impl fmt::Debug for PerAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PerAnswer").field("name", &self.name).field("better", &self.better).finish_non_exhaustive()
    }
}

impl TextMetric for PerAnswer {
    fn name(&self) -> &str {
        &self.name
    }

    fn better(&self) -> Better {
        self.better
    }

    fn measure(&self, sample: &Judged) -> Result<Measured, MetricError> {
        let asked = Asked { metric: &self.name, sample };
        let answers = asked.answers()?;
        let values = answers.iter().map(|answer| (self.rule)(&asked, answer)).collect::<Result<Vec<_>, _>>()?;
        Ok(Measured::mean(values.iter().sum::<f64>() / values.len() as f64))
    }
}

/// A record in a metric's hands: what the metric needs of it, or an error that names both.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The metric's name.
    pub metric: &'a str,
    /// The record.
    pub sample: &'a Judged,
}

impl<'a> Asked<'a> {
    /// The error of a record without `what`.
    pub fn missing(&self, what: &'static str) -> MetricError {
        MetricError::Missing { metric: self.metric.to_owned(), id: self.sample.id.clone(), what }
    }

    /// The answers, of which there is at least one.
    ///
    /// # Errors
    /// [`MetricError::Missing`]
    pub fn answers(&self) -> Result<&'a [Generated], MetricError> {
        Some(&self.sample.answers[..]).filter(|all| !all.is_empty()).ok_or_else(|| self.missing("generated answer"))
    }

    /// The references, of which there is at least one.
    ///
    /// # Errors
    /// [`MetricError::Missing`]
    pub fn references(&self) -> Result<&'a [String], MetricError> {
        Some(&self.sample.references[..]).filter(|all| !all.is_empty()).ok_or_else(|| self.missing("reference answer"))
    }

    /// The label; where there is none, the only reference.
    ///
    /// # Errors
    /// [`MetricError::Missing`]
    pub fn label(&self) -> Result<&'a str, MetricError> {
        match (&self.sample.label, &self.sample.references[..]) {
            (Some(label), _) => Ok(label),
            (None, [only]) => Ok(only),
            _ => Err(self.missing("label (nor one single reference)")),
        }
    }

    /// The candidates, of which there is at least one, and their scores.
    ///
    /// # Errors
    /// [`MetricError::Missing`]
    pub fn scores(&self) -> Result<Vec<f64>, MetricError> {
        if self.sample.candidates.is_empty() {
            return Err(self.missing("candidate"));
        }
        let scores = self.sample.candidates.iter().map(|one| one.score);
        scores.collect::<Option<Vec<f64>>>().ok_or_else(|| self.missing("score of one of the candidates"))
    }
}
