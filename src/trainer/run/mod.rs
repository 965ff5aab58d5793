//! The training loop.

mod epochs;
pub(super) mod evaluation;
mod steps;

use super::Train;
use super::anchor::{Others, StoredError};
use super::answers::AnswerError;
use super::evaluate::EvalData;
use super::generations;
use super::log::{Keep, MetricsLog};
use super::moments::Optim;
use super::optimizer::AdamW;
use super::plan::Plan;
use super::policy::{Policy, Signal};
use super::progress::Progress;
use super::schedule::Schedule;
use super::shown::Said;
use super::state::{self, Counters, Saved};
use super::track::{Tracker, Trackers};
use super::watch::Watch;
use crate::checkpoint::{CheckpointError, run as checkpoints};
use crate::data::{DataError, DataKind, Dataset, Encoder, LoaderSettings, Place};
use crate::example::Facts;
use crate::metrics::MetricError;
use crate::objectives::Objective;
use crate::settings::SettingError;
use burn::tensor::Device;
use serde_json::{Map, Value};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

/// A run that cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// A record that cannot be used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A checkpoint or log that cannot be read or written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A loss that is not a number, or infinite.
    #[error(
        "{place}: the loss of this record is {value} at step {step}; look at the record, lower `train.learning_rate`, or check the \
         checkpoint for weights that are not finite"
    )]
    Loss {
        /// The record.
        place: Place,
        /// What was read of it, summed.
        value: f64,
        /// The optimizer step.
        step: usize,
    },
    /// Gradients that are not finite while the loss is.
    #[error(
        "{place}: the gradient norm is {value} at step {step}, whose first record this is; lower `train.learning_rate`"
    )]
    Gradient {
        /// The first record of the step.
        place: Place,
        /// The norm.
        value: f64,
        /// The optimizer step.
        step: usize,
    },
    /// Stored log-probabilities of a reference that cannot be used.
    #[error(transparent)]
    Stored(#[from] StoredError),
    /// A metric that is to choose the best checkpoint and that no evaluation yields.
    #[error("train.metric_for_best_model is {wanted}, but an evaluation yields {found}; name one of them")]
    Metric {
        /// What the settings name.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// A metric that cannot be computed of a record.
    #[error("train.eval_metrics: {0}")]
    Measure(#[from] MetricError),
    /// An answer that was not generated.
    #[error(transparent)]
    Answer(AnswerError),
    /// A setting that the device cannot follow.
    #[error("train: {0}")]
    Setting(#[from] SettingError),
    /// Nothing that a step could change.
    #[error("nothing is trained: {0}")]
    NothingTrained(String),
}

impl From<AnswerError> for TrainError {
    fn from(error: AnswerError) -> Self {
        match error {
            AnswerError::Data(error) => Self::Data(error),
            other => Self::Answer(other),
        }
    }
}

/// The data that is learned from, and how it is read.
#[derive(Clone, Debug)]
pub struct TrainData<K: DataKind> {
    /// The records.
    pub dataset: Arc<Dataset<K>>,
    /// How they become tokens.
    pub encoder: Arc<Encoder>,
    /// How the loader works.
    pub loader: LoaderSettings,
    /// Which records form which step.
    pub plan: Plan,
}

/// Everything a run needs.
pub struct Trainer<'a, O, K: DataKind> {
    /// The loss.
    pub objective: &'a O,
    /// The settings.
    pub settings: &'a Train,
    /// The data that is learned from.
    pub data: TrainData<K>,
    /// What the training records say besides their conversations, where the objective wants to see it.
    pub facts: Vec<Facts>,
    /// Held-out data.
    pub eval: Option<EvalData<K>>,
    /// The numbers of the held-out records that every evaluation shows.
    pub picks: Vec<usize>,
    /// What evaluations compute besides.
    pub watch: Watch,
    /// What the untrained model says to the picks.
    pub before: Said,
    /// The device, with gradients.
    pub device: Device,
    /// The run folder.
    pub run_dir: &'a Path,
    /// Set from outside, for example by Ctrl-C: the step is finished, a checkpoint written, the run ended.
    pub interrupt: &'a AtomicBool,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All steps are done.
    Finished,
    /// It was interrupted, and its checkpoint written.
    Interrupted,
}

/// What a run leaves.
#[derive(Debug)]
pub struct Trained<P> {
    /// The model, of the last step or of the best evaluation.
    pub model: P,
    /// How it ended.
    pub ended: Ended,
    /// Its counters.
    pub counters: Counters,
    /// Every row of `metrics.jsonl`.
    pub metrics: Vec<Map<String, Value>>,
}

impl<O: Objective<Signal: Signal>, K: DataKind> Trainer<'_, O, K> {
    /// Trains `model`, from a checkpoint where there is one. `trackers` get every row of `metrics.jsonl`.
    ///
    /// # Errors
    /// [`TrainError`]; the checkpoints written so far stay.
    pub fn run<P: Policy>(
        &self,
        model: P,
        others: Others<P>,
        resume: Option<&checkpoints::Found>,
        trackers: &mut Trackers,
    ) -> Result<Trained<P>, TrainError> {
        self.settings.check_device(crate::nn::is_flex(&self.device))?;
        if crate::nn::params::list_trainable(&model).is_empty() {
            return Err(TrainError::NothingTrained(
                "every part of the model is frozen; set train.projector, train.language_model or train.vision_tower to true, or add \
                 an adapter"
                    .to_owned(),
            ));
        }
        #[cfg(feature = "cpu")]
        if crate::nn::is_flex(&self.device) {
            crate::device::keep_freed_memory();
        }
        let optim = Optim::of(self.settings);
        let Others { anchor, observer } = others;
        let Saved { model, anchor, mut optimizer, counters } = match resume {
            None => {
                let mut counters = Counters::default();
                self.objective.begin(&self.facts, &mut counters.objective);
                Saved { model, anchor, optimizer: AdamW { optim, ..AdamW::default() }, counters }
            }
            Some(found) => state::restore(found, model, anchor, optim, &self.device)?,
        };
        optimizer.rate_groups = model.rate_groups();
        let keep = resume.map(|_| Keep::of(&counters));
        let log = MetricsLog::open(self.run_dir, keep)?;
        generations::cut(self.run_dir, keep)?;
        let total = self.data.plan.total_steps;
        let progress = Progress::new(total as u64, counters.step as u64, "training");
        let mut run = Running {
            trainer: self,
            schedule: Schedule::new(self.settings, total),
            model: Some(model),
            others: Others { anchor, observer },
            optimizer,
            counters,
            log,
            trackers,
            progress,
            window_started: Instant::now(),
            window_tokens: 0,
            reported: HashSet::new(),
        };
        run.all()
    }
}

struct Running<'a, 'b, P, O, K: DataKind> {
    trainer: &'a Trainer<'b, O, K>,
    schedule: Schedule,
    /// Taken while the optimizer has it, so that no second handle keeps the old weights alive.
    model: Option<P>,
    others: Others<P>,
    optimizer: AdamW,
    counters: Counters,
    log: MetricsLog,
    trackers: &'a mut Trackers,
    progress: Progress,
    window_started: Instant,
    window_tokens: usize,
    /// Records whose skipping has been told; each epoch meets them again.
    reported: HashSet<usize>,
}

impl<P: Policy, O: Objective<Signal: Signal>, K: DataKind> Running<'_, '_, P, O, K> {
    fn log(&mut self, row: Map<String, Value>) -> Result<(), TrainError> {
        self.trackers.row(&row)?;
        Ok(self.log.write(row)?)
    }
}
