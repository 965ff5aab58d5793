//! What can be wrong with a metric's input.

use thiserror::Error;

/// Why a metric was not computed.
#[derive(Clone, Debug, Error, PartialEq)]
#[non_exhaustive]
pub enum MetricError {
    /// A record lacks what the metric reads.
    #[error("metric `{metric}`, record `{id}`: there is no {what}; add it to the record or leave the metric out")]
    Missing {
        /// The metric.
        metric: String,
        /// The record.
        id: String,
        /// What is missing.
        what: &'static str,
    },
    /// Two lists of one record should have one entry per token.
    #[error(
        "metric `{metric}`, record `{id}`: {left} log-probabilities but {right} of the reference; score the same tokens with both"
    )]
    Lengths {
        /// The metric.
        metric: String,
        /// The record.
        id: String,
        /// Entries of the model's list.
        left: usize,
        /// Entries of the other.
        right: usize,
    },
    /// There is nothing to take a mean of.
    #[error("metric `{0}`: there are no records; give it at least one")]
    Empty(String),
    /// No metric is called so.
    #[error("there is no metric `{name}`{hint}; `names()` lists them")]
    Unknown {
        /// What was asked for.
        name: String,
        /// ` (did you mean …?)`, or nothing.
        hint: String,
    },
    /// The metric depends on a value that was not given.
    #[error("metric `{metric}` needs {what}; set it, or use `{instead}`, which does not")]
    Setting {
        /// The metric.
        metric: String,
        /// The value.
        what: &'static str,
        /// A metric without this need.
        instead: String,
    },
    /// A tool's schema cannot be used.
    #[error("record `{id}`, tool `{tool}`: its parameters are no usable JSON schema: {reason}")]
    Schema {
        /// The record.
        id: String,
        /// The tool.
        tool: String,
        /// What the validator says.
        reason: String,
    },
    /// Two files do not hold the same records.
    #[error(
        "record `{id}` is {count} times in the {side} file, and must be there once; compare predictions of the same records"
    )]
    Unpaired {
        /// The record.
        id: String,
        /// Which file.
        side: &'static str,
        /// How often it is there.
        count: usize,
    },
    /// Two lists of measurements do not belong to the same records.
    #[error("metric `{metric}`: {first} records of the first system but {second} of the second; measure the same ones")]
    Uneven {
        /// The metric.
        metric: String,
        /// Records of the first.
        first: usize,
        /// Records of the second.
        second: usize,
    },
    /// A setting of the bootstrap is outside its range.
    #[error("bootstrap: `{name}` is {value} and must be {range}")]
    Bootstrap {
        /// The setting.
        name: &'static str,
        /// What was given.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
}
