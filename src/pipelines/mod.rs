//! Work over files of records: what a model says of each, and what is chosen of it.
//!
//! [`record`] is the form of a line in such a file.

pub mod record;

pub use record::{PredictedAnswer, Prediction};
