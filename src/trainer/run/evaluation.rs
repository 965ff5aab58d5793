//! Evaluations within a run, and the best of them.

use super::{Running, TrainError};
use crate::data::DataKind;
use crate::example::Shape;
use crate::objectives::Objective;
use crate::trainer::evaluate::{Evaluation, Evaluator, Images, answer, exact_match};
use crate::trainer::policy::{Policy, Signal};
use serde_json::{Map, Value, json};
use std::time::Instant;

/// How many held-out records are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// `train.eval_generate` of them.
    Some,
    /// All of them, at the end of a run.
    All,
}

impl<P: Policy, O: Objective<Signal: Signal>, K: DataKind> Running<'_, '_, P, O, K> {
    pub(super) fn evaluate(&mut self, scope: Scope) -> Result<(), TrainError> {
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
}

/// `wanted` indices spread evenly over `length`.
fn spread(length: usize, wanted: usize) -> Vec<usize> {
    let wanted = wanted.min(length);
    (0..wanted).map(|i| i * length / wanted).collect()
}
