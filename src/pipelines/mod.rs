//! Work over files of records: what a model says of each, and what is chosen of it.
//!
//! [`record`] is the form of a line in such a file; [`infer`] has a model answer, score or classify the records of data
//! files.

pub mod infer;
pub mod record;

pub use record::{PredictedAnswer, Prediction};
