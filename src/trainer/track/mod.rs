//! Logs that other programs open: TensorBoard's event files, and a JSON file that other trackers import.
//!
//! `train.report_to` chooses among them, in any number: `tensorboard`, `json`, or `none`. Both are written offline, inside
//! the run folder, from the rows of `metrics.jsonl`, which is written whatever is chosen. Curves are named as Hugging
//! Face's callbacks name them: `train/loss`, `train/grad_norm`, `train/learning_rate`, `eval/loss`.
//!
//! # TensorBoard
//! `tensorboard --logdir runs` shows every run below `runs/`: curves, the settings (under *Text*, and under *HParams* for
//! comparing runs), the sample pictures with question, expected and generated answer, and for each evaluation the table of
//! its chosen records (under *Text*, `cherry_picks`). A value that is not finite is a
//! point that TensorBoard marks as such.
//!
//! # MLflow, W&B, trackio and others
//! `tracking/run.jsonl` has one JSON object per line, in the names and units of MLflow's API (times in milliseconds since
//! 1970; a value that is not finite is the text `"NaN"`, which JSON cannot say otherwise):
//!
//! | `type`    | when                          | what else is in it |
//! |-----------|-------------------------------|--------------------|
//! | `run`     | first                         | `version` (1), `run_name`, `start_time`, `tags` and `params` (each a list of `key` and `value`, all texts), `config` (the same settings, with their types) |
//! | `metrics` | per row of `metrics.jsonl`    | `phase`, `step`, `timestamp`, `metrics`: a list of `key`, `value`, `timestamp`, `step` |
//! | `samples` | when answers were generated   | `step`, `timestamp`, `samples`: a list of `question`, `expected`, `generated`, `images` (paths beside the file) |
//! | `table`   | with an evaluation            | `step`, `timestamp`, `name`, `columns`, `rows` (texts): the chosen records and what the model says of them |
//! | `end`     | last; absent while it runs, and after a crash | `step`, `status` (`FINISHED`, `FAILED`, or `KILLED` for an interrupt), `end_time`, `summary` (the last value of every curve) |
//!
//! `params` and `metrics` are what MLflow's `runs/log-batch` takes, unchanged. Into MLflow:
//!
//! ```python
//! import json
//! from mlflow import MlflowClient
//! from mlflow.entities import Metric, Param
//!
//! client = MlflowClient()
//! for row in map(json.loads, open("runs/llava_sft-1/tracking/run.jsonl")):
//!     if row["type"] == "run":
//!         tags = {tag["key"]: tag["value"] for tag in row["tags"]}
//!         run_id = client.create_run("0", row["start_time"], tags, row["run_name"]).info.run_id
//!         for at in range(0, len(row["params"]), 100):
//!             client.log_batch(run_id, params=[Param(**param) for param in row["params"][at:at + 100]])
//!     elif row["type"] == "metrics":
//!         metrics = [Metric(**{**metric, "value": float(metric["value"])}) for metric in row["metrics"]]
//!         client.log_batch(run_id, metrics=metrics)
//!     elif row["type"] == "end":
//!         client.set_terminated(run_id, row["status"], row["end_time"])
//! ```
//!
//! Into W&B, and with `import trackio as wandb` into trackio:
//!
//! ```python
//! import json, wandb
//!
//! rows = [json.loads(line) for line in open("runs/llava_sft-1/tracking/run.jsonl")]
//! run = wandb.init(project="llava", name=rows[0]["run_name"], config=rows[0]["config"])
//! for row in rows:
//!     if row["type"] == "metrics":
//!         run.log({metric["key"]: float(metric["value"]) for metric in row["metrics"]}, step=row["step"])
//! run.finish()
//! ```
//!
//! Trackers that import event files (`wandb sync --sync-tensorboard`, `aim convert tensorboard`,
//! `trackio.import_tf_events`) take the folder `tensorboard/` as well.
//!
//! # Resume
//! A resumed run cuts what it will write again, as `metrics.jsonl` is cut, so that each curve has each step once. A torn
//! last record is cut as well.

mod event;
mod json;
mod markdown;
mod records;
mod tensorboard;
#[cfg(test)]
mod tests;

pub use super::log::Keep;
pub use json::JsonLog;
pub use tensorboard::TensorBoard;

use super::report::Setting;
use super::shown::Table;
use crate::checkpoint::CheckpointError;
use serde_json::{Map, Value};
use std::fmt::Debug;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// A log that a run writes besides `metrics.jsonl`.
pub trait Tracker: Debug + Send {
    /// A row of `metrics.jsonl`: `phase`, `step`, numbers; a number that is not finite is null.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    fn row(&mut self, row: &Map<String, Value>) -> Result<(), CheckpointError>;

    /// Records with what the model answered at `step`; the n-th is the same record at every step. A step that has been
    /// written before a resume is passed over.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    fn samples(&mut self, step: usize, samples: &[Sample<'_>]) -> Result<(), CheckpointError>;

    /// A table of an evaluation at `step`.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    fn table(&mut self, step: usize, name: &str, table: &Table) -> Result<(), CheckpointError>;

    /// Forces everything onto the disk: before a checkpoint that counts on it.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    fn sync(&mut self) -> Result<(), CheckpointError>;

    /// How the run ended, after `step`; the last call.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    fn end(&mut self, step: usize, status: Status) -> Result<(), CheckpointError>;
}

/// One choice of `train.report_to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ReportTo {
    /// Event files in `tensorboard/`.
    TensorBoard,
    /// `tracking/run.jsonl`.
    Json,
}

/// A value of `train.report_to` that means nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReportToError {
    /// No such log.
    #[error("`report_to` names `{0}`; it takes {list}, or none", list = ReportTo::NAMES.join(", "))]
    Unknown(String),
    /// `none` besides others.
    #[error("`report_to` is `{0}`: `none` stands alone; leave it or the others out")]
    NoneAndOthers(String),
}

impl ReportTo {
    /// What can be chosen, `none` aside.
    pub const NAMES: [&'static str; 2] = ["tensorboard", "json"];

    /// Reads a list of names; `none` and the empty list choose nothing, a name given twice counts once.
    ///
    /// # Errors
    /// [`ReportToError`].
    pub fn parse(names: &[String]) -> Result<Vec<Self>, ReportToError> {
        let mut chosen = Vec::new();
        for name in names {
            match name.as_str() {
                "tensorboard" => chosen.push(Self::TensorBoard),
                "json" => chosen.push(Self::Json),
                "none" if names.iter().all(|other| other == "none") => {}
                "none" => return Err(ReportToError::NoneAndOthers(names.join(","))),
                _ => return Err(ReportToError::Unknown(name.clone())),
            }
        }
        chosen.sort_unstable();
        chosen.dedup();
        Ok(chosen)
    }
}

/// What a log says about its run at the start.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// The run's name: as a rule that of its folder.
    pub name: &'a str,
    /// The command line.
    pub command: &'a str,
    /// What it runs on.
    pub device: &'a str,
    /// When it started.
    pub started: SystemTime,
    /// Every resolved setting; values are JSON.
    pub settings: &'a [Setting],
}

/// One record with what the model answered.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// Media type and bytes of each picture, as they are on disk.
    pub images: &'a [(String, Vec<u8>)],
    /// The question.
    pub question: &'a str,
    /// The answer of the data set.
    pub expected: &'a str,
    /// The model's answer.
    pub generated: &'a str,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// All steps are done.
    Finished,
    /// Stopped from outside, its checkpoint written: it may go on.
    Interrupted,
    /// An error ended it.
    Failed,
}

/// All logs of a run besides `metrics.jsonl`.
#[derive(Debug, Default)]
pub struct Trackers {
    all: Vec<Box<dyn Tracker>>,
}

impl Trackers {
    /// Opens what `report_to` names in the folder `run`, which this process alone writes; `keep` says what of an
    /// interrupted run stays.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn open(
        run: &Path,
        report_to: &[ReportTo],
        about: &About<'_>,
        keep: Option<Keep>,
    ) -> Result<Self, CheckpointError> {
        let mut trackers = Self::default();
        for choice in report_to {
            match choice {
                ReportTo::TensorBoard => trackers.add(Box::new(TensorBoard::open(run, about, keep)?)),
                ReportTo::Json => trackers.add(Box::new(JsonLog::open(run, about, keep)?)),
            }
        }
        Ok(trackers)
    }

    /// Adds a log of one's own.
    pub fn add(&mut self, tracker: Box<dyn Tracker>) {
        self.all.push(tracker);
    }

    /// Whether nothing is reported to.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl Tracker for Trackers {
    fn row(&mut self, row: &Map<String, Value>) -> Result<(), CheckpointError> {
        self.all.iter_mut().try_for_each(|tracker| tracker.row(row))
    }

    fn samples(&mut self, step: usize, samples: &[Sample<'_>]) -> Result<(), CheckpointError> {
        self.all.iter_mut().try_for_each(|tracker| tracker.samples(step, samples))
    }

    fn table(&mut self, step: usize, name: &str, table: &Table) -> Result<(), CheckpointError> {
        self.all.iter_mut().try_for_each(|tracker| tracker.table(step, name, table))
    }

    fn sync(&mut self) -> Result<(), CheckpointError> {
        self.all.iter_mut().try_for_each(|tracker| tracker.sync())
    }

    fn end(&mut self, step: usize, status: Status) -> Result<(), CheckpointError> {
        self.all.iter_mut().try_for_each(|tracker| tracker.end(step, status))
    }
}

/// What of an interrupted run's logs a resumed run writes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Written {
    /// In training, before the evaluation of its step.
    InTraining,
    /// By an evaluation, or with one.
    InEvaluation,
    /// Once, when the run ended.
    AtTheEnd,
}

impl Written {
    /// Whether what was written at `step` stays, as [`Keep`] has it.
    fn stays(self, keep: Option<Keep>, step: u64) -> bool {
        let Some(keep) = keep else { return false };
        let at = keep.step as u64;
        match self {
            Self::InTraining => step <= at,
            Self::InEvaluation => step < at || (step == at && keep.evaluation),
            Self::AtTheEnd => false,
        }
    }
}

/// The first step of which something is written again.
fn first_again(keep: Option<Keep>) -> u64 {
    keep.map_or(0, |keep| keep.step as u64 + u64::from(keep.evaluation))
}

fn is_evaluation(row: &Map<String, Value>) -> bool {
    row.get("phase").is_some_and(|phase| phase == "eval")
}

fn step_of(row: &Map<String, Value>) -> u64 {
    row.get("step").and_then(Value::as_u64).unwrap_or(0)
}

/// The numbers of a row under the names of their curves.
fn points(row: &Map<String, Value>) -> impl Iterator<Item = (String, f64)> {
    let phase = if is_evaluation(row) { "eval" } else { "train" };
    row.iter().filter(|(key, _)| !matches!(key.as_str(), "phase" | "step")).filter_map(move |(key, value)| {
        let value = match value {
            // What JSON makes of a number that is not finite.
            Value::Null => f64::NAN,
            value => value.as_f64()?,
        };
        let name = match key.strip_prefix("eval_") {
            Some(key) => format!("eval/{key}"),
            None => format!("{phase}/{key}"),
        };
        Some((name, value))
    })
}

/// A setting's value with its type; one that is not JSON is a text.
fn typed(setting: &Setting) -> Value {
    serde_json::from_str(&setting.value).unwrap_or_else(|_| Value::from(setting.value.as_str()))
}

/// A setting's value as a person writes it: a text without quotation marks.
fn plain(setting: &Setting) -> String {
    match typed(setting) {
        Value::String(text) => text,
        _ => setting.value.clone(),
    }
}

/// Time since 1970; zero for a clock that is set before.
fn since_epoch(at: SystemTime) -> std::time::Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}
