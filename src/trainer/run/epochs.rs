//! From the first step to the last: steps, evaluations and checkpoints in their order.

use super::evaluation::Scope;
use super::{Ended, Running, TrainError, Trained};
use crate::checkpoint::run as checkpoints;
use crate::data::{DataError, DataKind, LoadedBatch, Loader};
use crate::objectives::Objective;
use crate::trainer::policy::{Policy, Signal};
use crate::trainer::state;
use crate::trainer::track::Tracker;
use std::sync::atomic::Ordering;
use std::time::Instant;

impl<P: Policy, O: Objective<Signal: Signal>, K: DataKind> Running<'_, '_, P, O, K> {
    pub(super) fn all(&mut self) -> Result<Trained<P>, TrainError> {
        self.check_best()?;
        if self.counters.step == 0 {
            match self.trainer.settings.eval_on_start {
                true => self.evaluate(Scope::Some)?,
                false => self.write_before()?,
            }
        }
        let plan = &self.trainer.data.plan;
        if self.counters.pending_evaluation {
            // An interrupt came before it; an unbroken run has it here.
            self.counters.pending_evaluation = false;
            self.evaluate(if self.counters.step >= plan.total_steps { Scope::All } else { Scope::Some })?;
            self.save()?;
        }
        let mut ended = Ended::Finished;
        'epochs: while self.counters.step < plan.total_steps && !self.counters.stopped_early {
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
                if self.counters.step >= plan.total_steps || self.counters.stopped_early {
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

    /// Evaluates and saves where it is time to; `Interrupted` where the run must end, its checkpoint written.
    fn after_step(&mut self) -> Result<Ended, TrainError> {
        let settings = self.trainer.settings;
        let plan = &self.trainer.data.plan;
        let step = self.counters.step;
        let due = |every: Option<usize>| step.is_multiple_of(every.unwrap_or(plan.steps_per_epoch).max(1));
        let mut last = step >= plan.total_steps;
        if due(settings.eval_steps) || last {
            if self.trainer.interrupt.load(Ordering::Relaxed) {
                self.counters.pending_evaluation = true;
            } else {
                self.evaluate(if last { Scope::All } else { Scope::Some })?;
            }
        }
        last |= self.counters.stopped_early;
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

    fn finish(&mut self, ended: Ended) -> Result<Trained<P>, TrainError> {
        let Some(mut model) = self.model.take() else { unreachable!("the model is only taken within a step") };
        let takes_best = self.trainer.settings.load_best_model_at_end && ended == Ended::Finished;
        if let Some((step, value)) = self.counters.best.filter(|_| takes_best) {
            let path = self.trainer.run_dir.join(format!("checkpoint-{step}"));
            crate::checkpoint::verify(&path)?;
            let metric = self.trainer.settings.best_key();
            self.progress.message(&format!("taking the weights of step {step}: {metric} {value:.4}"));
            model = state::restore_weights(&path, model, &self.trainer.device)?;
        }
        self.progress.finish();
        Ok(Trained { model, ended, counters: self.counters.clone(), metrics: self.log.rows().to_vec() })
    }
}
