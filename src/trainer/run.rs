//! The training loop.

use super::Train;
use super::anchor::{Anchor, Others, StoredError};
use super::evaluate::{EvalData, Evaluation, Evaluator, Images, answer, exact_match};
use super::log::{Keep, MetricsLog};
use super::optimizer::AdamW;
use super::plan::Plan;
use super::policy::{Policy, Signal};
use super::progress::Progress;
use super::schedule::Schedule;
use super::state::{self, Counters, Saved};
use super::step::Stepping;
use super::stepper::Moving;
use super::track::{Tracker, Trackers};
use crate::checkpoint::{CheckpointError, run as checkpoints};
use crate::data::{Batch, DataError, DataKind, Dataset, Encoder, LoadedBatch, Loader, LoaderSettings, Place};
use crate::example::{Facts, Shape};
use crate::objectives::{Objective, StepTotals};
use crate::vlm::Part;
use burn::tensor::Device;
use serde_json::{Map, Value, json};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Nothing that a step could change.
    #[error("nothing is trained: {0}")]
    NothingTrained(String),
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
        let Others { anchor, observer } = others;
        let Saved { model, anchor, mut optimizer, counters } = match resume {
            None => {
                let mut counters = Counters::default();
                self.objective.begin(&self.facts, &mut counters.objective);
                Saved { model, anchor, optimizer: AdamW::default(), counters }
            }
            Some(found) => state::restore(found, model, anchor, &self.device)?,
        };
        optimizer.rate_groups = model.rate_groups();
        let log = MetricsLog::open(self.run_dir, resume.map(|_| Keep::of(&counters)))?;
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

/// How many held-out records are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    /// `train.eval_generate` of them.
    Some,
    /// All of them, at the end of a run.
    All,
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
    fn all(&mut self) -> Result<Trained<P>, TrainError> {
        if self.counters.step == 0 && self.trainer.settings.eval_on_start {
            self.evaluate(Scope::Some)?;
        }
        let plan = &self.trainer.data.plan;
        if self.counters.pending_evaluation {
            // An interrupt came before it; an unbroken run has it here.
            self.counters.pending_evaluation = false;
            self.evaluate(if self.counters.step >= plan.total_steps { Scope::All } else { Scope::Some })?;
            self.save()?;
        }
        let mut ended = Ended::Finished;
        'epochs: while self.counters.step < plan.total_steps {
            let (epoch, within) = plan.place(self.counters.step);
            let mut loader = self.loader(epoch, within)?;
            let before = self.counters.num_tokens;
            for _ in within..plan.steps_per_epoch {
                let micro: Vec<LoadedBatch> = loader
                    .by_ref()
                    .take(self.trainer.settings.gradient_accumulation_steps)
                    .collect::<Result<_, _>>()?;
                self.step(micro)?;
                if self.after_step()? == Ended::Interrupted {
                    ended = Ended::Interrupted;
                    break 'epochs;
                }
                if self.counters.step >= plan.total_steps {
                    break;
                }
            }
            if within == 0 && self.counters.num_tokens == before {
                return Err(TrainError::NothingTrained("every record of the epoch was left out".to_owned()));
            }
        }
        self.finish(ended)
    }

    fn loader(&self, epoch: usize, step: usize) -> Result<Loader, DataError> {
        let data = &self.trainer.data;
        let start = step * self.trainer.settings.gradient_accumulation_steps;
        Loader::new(data.dataset.clone(), data.encoder.clone(), data.plan.epoch(epoch), start, data.loader)
    }

    fn step(&mut self, micro: Vec<LoadedBatch>) -> Result<(), TrainError> {
        let settings = self.trainer.settings;
        let step = self.counters.step + 1;
        for loaded in &micro {
            for skipped in &loaded.skipped {
                if self.reported.insert(skipped.index) {
                    self.progress.message(&format!("skipped: {}", skipped.message));
                }
                *self.counters.skipped.entry(skipped.reason.to_owned()).or_default() += 1;
            }
        }
        let batches: Vec<Batch> = micro.into_iter().filter_map(|l| l.batch).collect();
        let totals = totals(&batches);
        let tokens: usize = batches.iter().map(Batch::num_tokens).sum();
        let started = Instant::now();
        let factor = self.schedule.factor(self.counters.step);
        let rate = settings.learning_rate * factor;
        let mut loss = f64::NAN;
        let mut norm = f64::NAN;
        if totals.supervised_tokens() > 0 || (self.trainer.objective.head().is_some() && totals.examples > 0) {
            // Inside a scope all of rayon's work is entered from a worker: fewer wake-ups per operation. The scope is left
            // before the loader is waited for, whose threads need a worker too.
            (loss, norm) = rayon::scope(|_| self.update(&batches, &totals, step))?;
            self.counters.window_loss += loss;
            self.counters.window_steps += 1;
        }
        self.counters.step = step;
        self.counters.num_tokens += tokens;
        self.window_tokens += tokens;
        self.counters.train_seconds += started.elapsed().as_secs_f64();
        let speed = self.window_tokens as f64 / self.window_started.elapsed().as_secs_f64().max(1e-9);
        self.progress.update(step as u64, loss, rate, speed);
        let last = step >= self.trainer.data.plan.total_steps;
        if step.is_multiple_of(settings.logging_steps) || last {
            self.write_train_row(factor, norm, speed)?;
        }
        Ok(())
    }

    /// One optimizer step: loss and gradient norm before clipping.
    fn update(&mut self, batches: &[Batch], totals: &StepTotals, step: usize) -> Result<(f64, f64), TrainError> {
        let settings = self.trainer.settings;
        let Some(model) = self.model.take() else { unreachable!("the model is only taken within a step") };
        let stepping = Stepping {
            objective: self.trainer.objective,
            others: &self.others,
            device: &self.trainer.device,
            seed: settings.seed,
            step,
        };
        let factor = self.schedule.factor(self.counters.step);
        let moving = Moving { settings, optimizer: &mut self.optimizer, factor };
        let (model, found) = moving.update(&stepping, model, batches, totals, &mut self.counters.objective)?;
        for metric in found.metrics {
            self.counters.window_metrics.entry(metric.name.into_owned()).or_default().add(metric.sum, metric.weight);
        }
        let anchor = std::mem::replace(&mut self.others.anchor, Anchor::None);
        self.others.anchor = anchor.follow(&model, step);
        self.model = Some(model);
        Ok((found.loss, found.norm))
    }

    fn write_train_row(&mut self, factor: f64, norm: f64, speed: f64) -> Result<(), TrainError> {
        let counters = &mut self.counters;
        let mut row = Map::new();
        let loss = counters.window_loss / counters.window_steps.max(1) as f64;
        let epoch = counters.step as f64 / self.trainer.data.plan.steps_per_epoch.max(1) as f64;
        row.insert("phase".into(), "train".into());
        row.insert("step".into(), counters.step.into());
        row.insert("epoch".into(), json!(epoch));
        if counters.window_steps > 0 {
            row.insert("loss".into(), json!(loss));
        }
        row.insert("grad_norm".into(), json!(norm));
        row.insert("learning_rate".into(), json!(self.trainer.settings.learning_rate * factor));
        for (part, key) in [
            (Part::VisionTower, "vision_tower_learning_rate"),
            (Part::Projector, "projector_learning_rate"),
            (Part::LanguageModel, "language_model_learning_rate"),
        ] {
            let own = part.learning_rate(self.trainer.settings);
            if own != self.trainer.settings.learning_rate {
                row.insert(key.into(), json!(own * factor));
            }
        }
        for (name, mean) in std::mem::take(&mut counters.window_metrics) {
            row.insert(name, json!(mean.value()));
        }
        for difference in self.trainer.objective.differences() {
            let value = |key: &str| row.get(key).and_then(Value::as_f64);
            if let (Some(of), Some(less)) = (value(difference.of), value(difference.less)) {
                row.insert(difference.name.into(), json!(of - less));
            }
        }
        row.insert("num_tokens".into(), counters.num_tokens.into());
        row.insert("tokens_per_second".into(), json!(speed));
        if !counters.skipped.is_empty() {
            row.insert("skipped".into(), counters.skipped.values().sum::<usize>().into());
        }
        counters.window_loss = 0.0;
        counters.window_steps = 0;
        self.window_tokens = 0;
        self.window_started = Instant::now();
        self.log(row)
    }

    /// Evaluates and saves where it is time to; `Interrupted` where the run must end, its checkpoint written.
    fn after_step(&mut self) -> Result<Ended, TrainError> {
        let settings = self.trainer.settings;
        let plan = &self.trainer.data.plan;
        let step = self.counters.step;
        let due = |every: Option<usize>| step.is_multiple_of(every.unwrap_or(plan.steps_per_epoch).max(1));
        let last = step >= plan.total_steps;
        if due(settings.eval_steps) || last {
            if self.trainer.interrupt.load(Ordering::Relaxed) {
                self.counters.pending_evaluation = true;
            } else {
                self.evaluate(if last { Scope::All } else { Scope::Some })?;
            }
        }
        // Read after the evaluation, which may take long, and only once: what is decided here is what happens.
        let interrupted = self.trainer.interrupt.load(Ordering::Relaxed);
        // The best weights can only be taken at the end if they are kept when they are found.
        let is_best = settings.load_best_model_at_end && self.counters.best.is_some_and(|(at, _)| at == step);
        if due(settings.save_steps) || last || interrupted || is_best {
            self.save()?;
        }
        let stops = interrupted && (!last || self.counters.pending_evaluation);
        Ok(if stops { Ended::Interrupted } else { Ended::Finished })
    }

    fn save(&mut self) -> Result<(), TrainError> {
        let started = Instant::now();
        self.log.sync()?;
        self.trackers.sync()?;
        let Some(model) = &self.model else { return Ok(()) };
        state::save(self.trainer.run_dir, model, &self.others.anchor, &self.optimizer, &self.counters)?;
        let best: Vec<usize> = self.counters.best.iter().map(|b| b.0).collect();
        checkpoints::prune(self.trainer.run_dir, self.trainer.settings.save_total_limit, &best)?;
        self.window_started += started.elapsed();
        Ok(())
    }

    fn evaluate(&mut self, scope: Scope) -> Result<(), TrainError> {
        let (Some(eval), Some(model)) = (&self.trainer.eval, &self.model) else { return Ok(()) };
        let generate = match (scope, self.trainer.settings.eval_generate) {
            _ if !<O::Signal as Signal>::GENERATES || !<K::Shape as Shape>::SHOWS => 0,
            (_, 0) => 0,
            (Scope::All, _) => usize::MAX,
            (Scope::Some, some) => some,
        };
        let started = Instant::now();
        let model = model.valid();
        let device = self.trainer.device.clone().inner();
        let evaluator =
            Evaluator { objective: self.trainer.objective, others: &self.others, data: eval, device: &device };
        let mut found = evaluator.run(&model, &self.counters.objective)?;
        let indices: Vec<usize> = spread(eval.usable.len(), generate).into_iter().map(|at| eval.usable[at]).collect();
        let answers = answer(&model, eval, &indices, Images::Own, &device)?;
        if !answers.is_empty() {
            found.exact_match = Some(exact_match(&answers));
        }
        let mut row = self.eval_row(&found, started.elapsed().as_secs_f64());
        if scope == Scope::All && !answers.is_empty() && self.trainer.settings.eval_shuffled_images {
            let shuffled = answer(&model, eval, &indices, Images::Shuffled, &device)?;
            row.insert("eval_exact_match_shuffled_images".into(), json!(exact_match(&shuffled)));
        }
        self.note_best(&row)?;
        self.announce(&row);
        self.log(row)?;
        self.window_started += started.elapsed();
        Ok(())
    }

    fn log(&mut self, row: Map<String, Value>) -> Result<(), TrainError> {
        self.trackers.row(&row)?;
        Ok(self.log.write(row)?)
    }

    fn eval_row(&self, found: &Evaluation, seconds: f64) -> Map<String, Value> {
        let epoch = self.counters.step as f64 / self.trainer.data.plan.steps_per_epoch.max(1) as f64;
        let mut row = Map::new();
        row.insert("phase".into(), "eval".into());
        row.insert("step".into(), self.counters.step.into());
        row.insert("epoch".into(), json!(epoch));
        row.insert("eval_loss".into(), json!(found.loss));
        if let Some(accuracy) = found.token_accuracy {
            row.insert("eval_token_accuracy".into(), json!(accuracy));
        }
        if let Some(exact) = found.exact_match {
            row.insert("eval_exact_match".into(), json!(exact));
        }
        for (name, value) in &found.metrics {
            row.insert(format!("eval_{name}"), json!(value));
        }
        row.insert("eval_seconds".into(), json!(seconds));
        if found.skipped > 0 {
            row.insert("eval_skipped".into(), found.skipped.into());
        }
        row
    }

    fn announce(&self, row: &Map<String, Value>) {
        let number = |key: &str| row.get(key).and_then(Value::as_f64);
        let mut text = format!("evaluation at step {}:", self.counters.step);
        if let Some(loss) = number("eval_loss") {
            text += &format!(" loss {loss:.4}");
        }
        for (key, label) in [
            ("eval_rewards/accuracies", "preference accuracy"),
            ("eval_accuracy", "accuracy"),
            ("eval_token_accuracy", "token accuracy"),
            ("eval_exact_match", "exact match"),
            ("eval_exact_match_shuffled_images", "exact match with the images shuffled"),
        ] {
            if let Some(value) = number(key) {
                text += &format!(", {label} {:.1}%", value * 100.0);
            }
        }
        if let Some(skipped) = row.get("eval_skipped").and_then(Value::as_u64) {
            text += &format!("; {skipped} bad records left out");
        }
        self.progress.message(&text);
    }

    fn note_best(&mut self, row: &Map<String, Value>) -> Result<(), TrainError> {
        let wanted = &self.trainer.settings.metric_for_best_model;
        let Some(value) = row.get(wanted).and_then(Value::as_f64) else {
            let metrics = row.keys().filter(|key| key.starts_with("eval_") && *key != "eval_seconds");
            let found = metrics.map(String::as_str).collect::<Vec<_>>().join(", ");
            return Err(TrainError::Metric { wanted: wanted.clone(), found });
        };
        // Step 0 has no checkpoint that could be the best one.
        if self.counters.step == 0 || !value.is_finite() {
            return Ok(());
        }
        let higher_is_better = self.trainer.settings.greater_is_better();
        let better = match self.counters.best {
            None => true,
            Some((_, best)) if higher_is_better => value > best,
            Some((_, best)) => value < best,
        };
        if better {
            self.counters.best = Some((self.counters.step, value));
        }
        Ok(())
    }

    fn finish(&mut self, ended: Ended) -> Result<Trained<P>, TrainError> {
        let Some(mut model) = self.model.take() else { unreachable!("the model is only taken within a step") };
        let takes_best = self.trainer.settings.load_best_model_at_end && ended == Ended::Finished;
        if let Some((step, value)) = self.counters.best.filter(|_| takes_best) {
            let path = self.trainer.run_dir.join(format!("checkpoint-{step}"));
            crate::checkpoint::verify(&path)?;
            let metric = &self.trainer.settings.metric_for_best_model;
            self.progress.message(&format!("taking the weights of step {step}: {metric} {value:.4}"));
            model = state::restore_weights(&path, model, &self.trainer.device)?;
        }
        self.progress.finish();
        Ok(Trained { model, ended, counters: self.counters.clone(), metrics: self.log.rows().to_vec() })
    }
}

/// What an optimizer step counts.
fn totals(batches: &[Batch]) -> StepTotals {
    let mut totals = StepTotals { training: true, ..StepTotals::default() };
    for batch in batches {
        totals.examples += batch.examples();
        let tokens = batch.supervised_by_place();
        totals.tokens.resize(tokens.len().max(totals.tokens.len()), 0);
        totals.tokens.iter_mut().zip(tokens).for_each(|(sum, n)| *sum += n);
    }
    totals
}

/// `wanted` indices spread evenly over `length`.
fn spread(length: usize, wanted: usize) -> Vec<usize> {
    let wanted = wanted.min(length);
    (0..wanted).map(|i| i * length / wanted).collect()
}
