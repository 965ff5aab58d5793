//! A model's word on every record of some data files, as files of [`Prediction`](super::Prediction)s.
//!
//! ```text
//! records    a record of any data kind: what is asked, what it answers itself       Records, Record
//! settings   how answers are made, from files and the command line                  GenerationSetting
//! names      a file for each model and each setting, none over another              file_names
//! shard      which records are this machine's                                       Shard
//! plan       the order in which records are worked on: long ones together           Plan
//! task       answers, scores or classes for some records                            Task
//! journal    what is done, on the disk, for a run that is killed                    Journal
//! run        all of it, for one file                                                run
//! ```
//!
//! Records are worked on in chunks of like length and written in the order of the data files. A chunk is what a killed run
//! does again: which records are computed together depends on the plan alone, so the file of a run that was killed and
//! resumed has the bytes of one that was not.

mod error;
mod journal;
mod names;
mod plan;
mod records;
mod run;
mod settings;
mod shard;
mod task;
#[cfg(test)]
mod tests;

pub use error::InferError;
pub use journal::Journal;
pub use names::{file_names, plain};
pub use plan::{BadRecord, Plan};
pub use records::{Record, RecordAnswer, Records};
pub use run::{Done, File, Watch, run};
pub use settings::GenerationSetting;
pub use shard::Shard;
pub use task::{BestOf, Classify, Generate, Reward, Spent, Task};
