//! One optimizer step and its row of the log.

use super::{Running, TrainError};
use crate::data::{Batch, DataKind, LoadedBatch};
use crate::objectives::{Metric, Objective, StepTotals};
use crate::trainer::anchor::Anchor;
use crate::trainer::policy::{Policy, Signal};
use crate::trainer::step::Stepping;
use crate::trainer::stepper::{Moving, Stepped};
use crate::vlm::Part;
use serde_json::{Map, Value, json};
use std::time::Instant;

impl<P: Policy, O: Objective<Signal: Signal>, K: DataKind> Running<'_, '_, P, O, K> {
    pub(super) fn step(&mut self, micro: Vec<LoadedBatch>) -> Result<(), TrainError> {
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
            recompute: settings.recompute(),
        };
        let factor = self.schedule.factor(self.counters.step);
        let moving = Moving { settings, optimizer: &mut self.optimizer, factor };
        let (model, found) = moving.update(&stepping, model, batches, totals, &mut self.counters.objective)?;
        let Stepped { loss, norm, metrics } = found;
        self.note(metrics);
        let anchor = std::mem::replace(&mut self.others.anchor, Anchor::None);
        self.others.anchor = anchor.follow(&model, step);
        self.model = Some(model);
        Ok((loss, norm))
    }

    fn note(&mut self, metrics: Vec<Metric>) {
        for metric in metrics {
            self.counters.window_metrics.entry(metric.name.into_owned()).or_default().add(metric.sum, metric.weight);
        }
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
