//! Evaluations within a run, and the best of them.

use super::{Running, TrainError};
use crate::data::{DataKind, Sample};
use crate::example::{Shape, Supervised};
use crate::objectives::Objective;
use crate::trainer::answers::{Answer, Images, answer, answer_each, exact_match};
use crate::trainer::early_stopping::Improvement;
use crate::trainer::evaluate::{EvalData, Evaluation, Evaluator, judge};
use crate::trainer::generations;
use crate::trainer::policy::{Policy, Signal};
use crate::trainer::shown::{RowReading, Said, Shown};
use crate::trainer::track::Tracker;
use crate::trainer::watch::Value as MetricValue;
use burn::tensor::Device;
use serde_json::{Map, Value, json};
use std::any::TypeId;
use std::collections::HashSet;
use std::time::Instant;

/// How many held-out records are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// `train.eval_generate` of them.
    Some,
    /// All of them, at the end of a run.
    All,
}

/// Answers with the records that they are to, and what metrics say of them.
struct Answered<S: Shape> {
    samples: Vec<(usize, Sample<S>)>,
    answers: Vec<Answer>,
    /// Over the answers that count.
    values: Vec<MetricValue>,
    /// The same with the value of every record, those that are only shown included.
    each: Vec<MetricValue>,
    exact_match: Option<f64>,
}

impl<P: Policy, O: Objective<Signal: Signal>, K: DataKind> Running<'_, '_, P, O, K> {
    pub(super) fn evaluate(&mut self, scope: Scope) -> Result<(), TrainError> {
        let (Some(eval), Some(model)) = (&self.trainer.eval, &self.model) else { return Ok(()) };
        let started = Instant::now();
        let model = model.valid();
        let device = self.trainer.device.clone().inner();
        let evaluator =
            Evaluator { objective: self.trainer.objective, others: &self.others, data: eval, device: &device };
        let mut found = evaluator.run(&model, &self.counters.objective)?;
        let indices: Vec<usize> =
            spread(eval.usable.len(), self.generated(scope)).into_iter().map(|at| eval.usable[at]).collect();
        let answered = self.answers(&model, eval, &indices, &device)?;
        found.exact_match = answered.exact_match;
        let mut values = answered.values.clone();
        values.extend(self.trainer.watch.of_classes(&found.observations)?);
        let mut row = self.eval_row(&found, started.elapsed().as_secs_f64());
        note_values(&values, &mut row);
        if scope == Scope::All && !indices.is_empty() && self.trainer.settings.eval_shuffled_images {
            let shuffled = answer(&model, eval, &indices, Images::Shuffled, &device)?;
            if !shuffled.is_empty() {
                row.insert("eval_exact_match_shuffled_images".into(), json!(exact_match(&shuffled)));
            }
        }
        self.show(&model, eval, answered, &device)?;
        self.announce(&row, &values);
        self.note_best(&row)?;
        self.log(row)?;
        self.window_started += started.elapsed();
        Ok(())
    }

    /// Records that are answered for what is measured.
    fn generated(&self, scope: Scope) -> usize {
        match (scope, self.trainer.settings.eval_generate) {
            _ if !<O::Signal as Signal>::GENERATES || !<K::Shape as Shape>::SHOWS => 0,
            (_, 0) => 0,
            (Scope::All, _) => usize::MAX,
            (Scope::Some, some) => some,
        }
    }

    /// Answers to `indices`, which count, and to those picks that are not among them, which are shown.
    fn answers(
        &self,
        model: &P,
        eval: &EvalData<K>,
        indices: &[usize],
        device: &Device,
    ) -> Result<Answered<K::Shape>, TrainError> {
        let watch = &self.trainer.watch;
        let counted: HashSet<usize> = indices.iter().copied().collect();
        // Where nothing is to be generated, nothing is for show either.
        let shown = self.trainer.picks.iter().copied().filter(|_| !indices.is_empty());
        let only_shown: Vec<usize> = shown.filter(|index| !counted.contains(index)).collect();
        let ask = |indices: &[usize]| {
            answer_each(model, eval, indices, Images::Own, device, |prompts, answers| {
                watch.score(model, &self.others, prompts, answers, eval.loader.padding, device);
            })
        };
        // In batches of their own, so that what is shown changes nothing of what counts.
        let mut answers = ask(indices)?;
        let counting = answers.len();
        answers.extend(ask(&only_shown)?);
        let exact = (counting > 0).then(|| exact_match(&answers[..counting]));
        let samples: Vec<Sample<K::Shape>> =
            answers.iter().map(|answer| eval.dataset.sample(answer.index)).collect::<Result<_, _>>()?;
        watch.reward(&samples, &mut answers)?;
        let values = watch.of_answers(&samples[..counting], &answers[..counting])?;
        let each = match answers.len() == counting {
            true => values.clone(),
            false => watch.of_answers(&samples, &answers)?,
        };
        let samples = answers.iter().map(|answer| answer.index).zip(samples).collect();
        Ok(Answered { samples, answers, values, each, exact_match: exact })
    }

    /// Writes what the model says into the run folder, and what it says of the picks into the logs.
    fn show(
        &mut self,
        model: &P,
        eval: &EvalData<K>,
        answered: Answered<K::Shape>,
        device: &Device,
    ) -> Result<(), TrainError> {
        let (step, picks) = (self.counters.step, &self.trainer.picks);
        let Answered { samples: mut told, answers, each, .. } = answered;
        let mut now = Said { answers, judgements: Vec::new() };
        if judges::<K>() {
            now.judgements = judge::<O::Signal, P, K>(model, eval, picks, device)?;
        }
        let known: HashSet<usize> = told.iter().map(|(index, _)| *index).collect();
        for judgement in now.judgements.iter().filter(|judgement| !known.contains(&judgement.index)) {
            told.push((judgement.index, eval.dataset.sample(judgement.index)?));
        }
        let shown = Shown {
            samples: &told,
            now: &now,
            before: &self.trainer.before,
            reading: RowReading::of(self.trainer.objective.head()),
            values: &each,
        };
        generations::write(self.trainer.run_dir, step, &shown.predictions(step))?;
        let picked: Vec<(usize, Sample<K::Shape>)> =
            picks.iter().filter_map(|index| told.iter().find(|(told, _)| told == index).cloned()).collect();
        let table = Shown { samples: &picked, ..shown }.table();
        if !table.rows.is_empty() {
            self.trackers.table(step, "cherry_picks", &table)?;
        }
        Ok(())
    }

    /// Writes what the untrained model says, where no evaluation does.
    pub(super) fn write_before(&self) -> Result<(), TrainError> {
        let (Some(eval), before) = (&self.trainer.eval, &self.trainer.before) else { return Ok(()) };
        let answered = before.answers.iter().map(|answer| answer.index);
        let mut indices: Vec<usize> = answered.chain(before.judgements.iter().map(|one| one.index)).collect();
        let mut seen = HashSet::new();
        indices.retain(|index| seen.insert(*index));
        let told: Vec<(usize, Sample<K::Shape>)> = indices
            .into_iter()
            .map(|index| Ok((index, eval.dataset.sample(index)?)))
            .collect::<Result<_, TrainError>>()?;
        let reading = RowReading::of(self.trainer.objective.head());
        let shown = Shown { samples: &told, now: before, before, reading, values: &[] };
        Ok(generations::write(self.trainer.run_dir, 0, &shown.predictions(0))?)
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

    fn announce(&self, row: &Map<String, Value>, values: &[MetricValue]) {
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
        for MetricValue { name, all, .. } in values.iter().filter(|value| !OWN_LABELS.contains(&value.name.as_str())) {
            text += &format!(", {name} {all:.4}");
        }
        if let Some(skipped) = row.get("eval_skipped").and_then(Value::as_u64) {
            text += &format!("; {skipped} bad records left out");
        }
        self.progress.message(&text);
    }

    /// Refuses a metric for the best checkpoint that no evaluation yields, before the first step.
    pub(super) fn check_best(&self) -> Result<(), TrainError> {
        let (Some(eval), Some(model)) = (&self.trainer.eval, &self.model) else { return Ok(()) };
        let settings = self.trainer.settings;
        let wanted = settings.best_key();
        let name = wanted.strip_prefix("eval_").unwrap_or(&wanted);
        let known = match name {
            "loss" => true,
            "token_accuracy" => <K::Shape as Shape>::IMITATES && <O::Signal as Signal>::GENERATES,
            "exact_match" => self.generated(Scope::Some) > 0,
            _ => self.trainer.watch.logged(&self.others).iter().any(|logged| logged == name),
        };
        if known {
            return Ok(());
        }
        // The objective's own names show in what it logs: one batch has them, those of a whole evaluation aside.
        let (model, device) = (model.valid(), self.trainer.device.clone().inner());
        let mut found = Vec::new();
        for records in [eval.batch_size.min(eval.usable.len()), eval.usable.len()] {
            let data = EvalData { usable: eval.usable[..records].to_vec(), ..eval.clone() };
            let evaluator =
                Evaluator { objective: self.trainer.objective, others: &self.others, data: &data, device: &device };
            let evaluation = evaluator.run(&model, &self.counters.objective)?;
            let row = self.eval_row(&evaluation, 0.0);
            if row.contains_key(&wanted) {
                return Ok(());
            }
            found = row.keys().filter(|key| key.starts_with("eval_") && *key != "eval_seconds").cloned().collect();
        }
        found.extend(self.trainer.watch.logged(&self.others).iter().map(|name| format!("eval_{name}")));
        if self.generated(Scope::Some) > 0 {
            found.push("eval_exact_match".to_owned());
        }
        Err(TrainError::Metric { wanted, found: found.join(", ") })
    }

    fn note_best(&mut self, row: &Map<String, Value>) -> Result<(), TrainError> {
        let settings = self.trainer.settings;
        let wanted = settings.best_key();
        let value = match row.get(&wanted) {
            // What JSON makes of a number that is not finite.
            Some(Value::Null) => f64::NAN,
            Some(value) => value.as_f64().unwrap_or(f64::NAN),
            None => {
                let metrics = row.keys().filter(|key| key.starts_with("eval_") && *key != "eval_seconds");
                let found = metrics.map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(TrainError::Metric { wanted, found });
            }
        };
        let improvement = Improvement {
            greater_is_better: settings.greater_is_better(),
            patience: settings.early_stopping_patience,
            threshold: settings.early_stopping_threshold,
        };
        if improvement.note(value, &mut self.counters) {
            let (stale, best) = (self.counters.stale_evaluations, self.counters.best);
            let best = best.map_or_else(String::new, |(step, best)| format!(" (best: {best:.4} at step {step})"));
            self.progress.message(&format!(
                "stopping early after step {}: {wanted} did not improve in {stale} evaluations{best}",
                self.counters.step
            ));
        }
        Ok(())
    }
}

/// Names that the terminal's line has words for.
const OWN_LABELS: [&str; 2] = ["accuracy", "exact_match"];

/// Puts values into the row of an evaluation; where the objective logs something else of that name, behind `generated_`.
fn note_values(values: &[MetricValue], row: &mut Map<String, Value>) {
    for MetricValue { name, all, .. } in values {
        let key = format!("eval_{name}");
        match row.contains_key(&key) {
            false => drop(row.insert(key, json!(all))),
            // Those mean the same, whoever computes them.
            true if OWN_LABELS.contains(&name.as_str()) => {}
            true => drop(row.insert(format!("eval_generated_{name}"), json!(all))),
        }
    }
}

/// Whether records have rows to be judged, and not one learned answer alone.
fn judges<K: DataKind>() -> bool {
    TypeId::of::<K::Shape>() != TypeId::of::<Supervised>()
}

/// `wanted` indices spread evenly over `length`.
pub fn spread(length: usize, wanted: usize) -> Vec<usize> {
    let wanted = wanted.min(length);
    (0..wanted).map(|i| i * length / wanted).collect()
}
