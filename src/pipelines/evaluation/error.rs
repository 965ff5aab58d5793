//! Why a file is not evaluated.

use crate::data::{DataError, Place};
use crate::metrics::MetricError;

/// What stops an evaluation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// A file or a record that cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A record without what a metric reads.
    #[error("{place}: {source}")]
    Metric {
        /// Where the record stands.
        place: Box<Place>,
        /// What it lacks.
        source: MetricError,
    },
    /// Settings, or files without records.
    #[error(transparent)]
    Settings(#[from] MetricError),
    /// Two records of one id, where they are to be paired.
    #[error("{place}: the record `{id}` stands at {first} already; an id must be there once to be compared by it")]
    Twice {
        /// The second one.
        place: Box<Place>,
        /// Its id.
        id: String,
        /// The first one.
        first: Box<Place>,
    },
    /// A record that only one of two systems has.
    #[error("{place}: the record `{id}` is not among those of {other}; compare predictions of the same records")]
    NoPartner {
        /// Where it stands.
        place: Box<Place>,
        /// Its id.
        id: String,
        /// The system that lacks it.
        other: String,
    },
}
