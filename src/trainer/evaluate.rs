//! Evaluation: loss and metrics over held-out records, and what a model says of their rows.

use super::anchor::{Others, Split};
use super::policy::{Policy, Signal};
use super::run::TrainError;
use super::state::Mean;
use crate::data::{Batch, DataError, DataKind, Dataset, Encoder, Loader, LoaderSettings};
use crate::example::Shape;
use crate::generation::Stop;
use crate::generation::decoding::Decoding;
use crate::objectives::{Inputs, Objective, Observation, State, StepTotals, Wants};
use burn::tensor::Device;
use std::borrow::Cow;
use std::sync::Arc;

/// The held-out data and how it is read.
#[derive(Clone, Debug)]
pub struct EvalData<K: DataKind> {
    /// The records.
    pub dataset: Arc<Dataset<K>>,
    /// The numbers of the records that can be used.
    pub usable: Vec<usize>,
    /// How they become tokens.
    pub encoder: Arc<Encoder>,
    /// Records per batch.
    pub batch_size: usize,
    /// How the loader works.
    pub loader: LoaderSettings,
    /// When a generated answer ends.
    pub stop: Stop,
    /// How answers are made; `None` takes the likeliest token at each step until [`stop`](Self::stop).
    pub decoding: Option<Arc<Decoding>>,
}

/// What an evaluation found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// The objective's loss; for [`Sft`](crate::objectives::Sft) the mean negative log-probability per supervised token, in
    /// nats.
    pub loss: f64,
    /// Share of supervised tokens that the model would have chosen itself; `None` for a model that yields scores.
    pub token_accuracy: Option<f64>,
    /// The objective's own metrics.
    pub metrics: Vec<(Cow<'static, str>, f64)>,
    /// Share of records whose generated answer equals the expected one, surrounding space aside; `None` where nothing
    /// was generated.
    pub exact_match: Option<f64>,
    /// Records left out under `data.bad_record=skip`.
    pub skipped: usize,
    /// What the model said of each example, where the objective keeps it.
    pub observations: Vec<Observation>,
}

/// Asks a model about held-out data.
pub struct Evaluator<'a, O, P, K: DataKind> {
    /// The loss.
    pub objective: &'a O,
    /// The reference, and a model that is only logged.
    pub others: &'a Others<P>,
    /// The records.
    pub data: &'a EvalData<K>,
    /// The device, without gradients.
    pub device: &'a Device,
}

impl<O: Objective<Signal: Signal>, P: Policy, K: DataKind> Evaluator<'_, O, P, K> {
    /// Loss, metrics and token accuracy over all records, of a model without gradients.
    ///
    /// # Errors
    /// [`TrainError::Data`] of a record that cannot be read, unless bad records are skipped; [`TrainError::Stored`].
    pub fn run(&self, model: &P, state: &State) -> Result<Evaluation, TrainError> {
        let data = self.data;
        let batches: Vec<Vec<usize>> = data.usable.chunks(data.batch_size).map(<[usize]>::to_vec).collect();
        let loader = Loader::new(data.dataset.clone(), data.encoder.clone(), batches, 0, data.loader)?;
        let wants = Wants { correct: true, embedding_noise: 0.0, ..self.objective.wants() };
        let mut found = Evaluation::default();
        let (mut loss, mut hits, mut asked) = (Mean::default(), 0, 0);
        let mut means: Vec<(Cow<'static, str>, Mean)> = Vec::new();
        let mut observations = Vec::new();
        for loaded in loader {
            let loaded = loaded?;
            found.skipped += loaded.skipped.len();
            let Some(batch) = loaded.batch else { continue };
            let policy = O::Signal::of(model, &batch, self.device, &wants);
            if let Some((right, all)) = policy.hits() {
                hits += right;
                asked += all;
            }
            let observed = self.others.observe(&policy, &batch, <O::Example as Shape>::PLACES, self.device);
            let totals =
                StepTotals { examples: batch.examples(), tokens: batch.supervised_by_place(), training: false };
            let inputs = Inputs {
                policy,
                reference: self.reference(&batch)?,
                mismatched: self.mismatched(model, &batch),
                facts: &batch.facts,
            };
            // An evaluation leaves no trace in what the objective carries from step to step.
            let batch_loss = self.objective.loss(inputs, &totals, &mut state.clone());
            let sum = batch_loss.exact.unwrap_or_else(|| {
                let value: f64 = batch_loss.value.into_scalar::<f32>().into();
                value * batch_loss.weight
            });
            loss.add(sum, batch_loss.weight);
            for metric in observed.into_iter().chain(batch_loss.metrics) {
                match means.iter_mut().find(|(name, _)| *name == metric.name) {
                    Some((_, mean)) => mean.add(metric.sum, metric.weight),
                    None => means.push((metric.name, Mean { sum: metric.sum, weight: metric.weight })),
                }
            }
            observations.extend(batch_loss.observations);
        }
        found.loss = loss.value();
        found.token_accuracy = (asked > 0 && <K::Shape as Shape>::IMITATES).then(|| hits as f64 / asked as f64);
        found.metrics = means.into_iter().map(|(name, mean)| (name, mean.value())).collect();
        for difference in self.objective.differences() {
            let value = |key: &str| found.metrics.iter().find(|(name, _)| name == key).map(|(_, value)| *value);
            if let (Some(of), Some(less)) = (value(difference.of), value(difference.less)) {
                found.metrics.push((difference.name.into(), of - less));
            }
        }
        found.metrics.extend(self.objective.summarise(&observations));
        found.observations = observations;
        Ok(found)
    }

    fn reference(&self, batch: &Batch) -> Result<Option<O::Signal>, TrainError> {
        match self.objective.compares() {
            true => Ok(self.others.anchor.ask(batch, Split::Eval, self.device)?),
            false => Ok(None),
        }
    }

    fn mismatched(&self, model: &P, batch: &Batch) -> Option<(O::Signal, O::Signal)> {
        let batch = batch.mismatched.as_deref().filter(|_| self.objective.compares_mismatched())?;
        let reference = self.others.anchor.ask_model::<O::Signal>(batch, self.device)?;
        Some((O::Signal::of(model, batch, self.device, &Wants::default()), reference))
    }
}

/// What a model says of the rows of one record.
#[derive(Clone, Debug, PartialEq)]
pub struct Judgement {
    /// The record's number in its data set.
    pub index: usize,
    /// Of each row, its log-probability or its scores.
    pub rows: Vec<Vec<f64>>,
}

/// What a model says of these records, as an objective reads it.
///
/// # Errors
/// [`DataError`] of a record that cannot be read, unless bad records are skipped.
pub fn judge<S: Signal, P: Policy, K: DataKind>(
    model: &P,
    data: &EvalData<K>,
    indices: &[usize],
    device: &Device,
) -> Result<Vec<Judgement>, DataError> {
    let batches: Vec<Vec<usize>> = indices.chunks(data.batch_size).map(<[usize]>::to_vec).collect();
    let mut found = Vec::with_capacity(indices.len());
    for loaded in Loader::new(data.dataset.clone(), data.encoder.clone(), batches, 0, data.loader)? {
        let Some(batch) = loaded?.batch else { continue };
        let values = S::of(model, &batch, device, &Wants::default()).row_values();
        let places = batch.rows_per_example.max(1);
        let examples = batch.indices.iter().step_by(places).zip(values.chunks(places));
        found.extend(examples.map(|(&index, rows)| Judgement { index, rows: rows.to_vec() }));
    }
    Ok(found)
}
