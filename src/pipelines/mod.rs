//! Work over files of records: what a model says of each, what is chosen of it, and what it is worth.
//!
//! [`record`] is the form of a line in such a file, [`predictions`] reads files of them. [`infer`] has a model answer, score or
//! classify the records of data files. [`sampling`] chooses among answers and makes pairs of them; [`judging`] turns a record into
//! what metrics read, and [`evaluation`] measures whole files and compares them.

pub mod evaluation;
pub mod infer;
pub mod judging;
pub mod predictions;
pub mod record;
pub mod sampling;

pub use predictions::Predictions;
pub use record::{PredictedAnswer, Prediction};
