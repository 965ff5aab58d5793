//! Evaluation: loss, token accuracy, and generated answers by exact match.

use super::policy::Policy;
use crate::data::{
    BadRecord, DataError, DataKind, Dataset, Encoded, Encoder, Loader, LoaderSettings, PadSide, Padding, collate,
};
use crate::generation::Stop;
use crate::text::StopText;
use burn::tensor::Device;
use rayon::prelude::*;
use std::sync::Arc;

/// The held-out data and how it is read.
#[derive(Clone, Debug)]
pub struct EvalData<K: DataKind> {
    /// The records.
    pub dataset: Arc<Dataset<K>>,
    /// How they become tokens.
    pub encoder: Arc<Encoder>,
    /// Records per batch.
    pub batch_size: usize,
    /// How the loader works.
    pub loader: LoaderSettings,
    /// When a generated answer ends.
    pub stop: Stop,
}

/// What an evaluation found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Mean negative log-probability per supervised token, in nats.
    pub loss: f64,
    /// Share of supervised tokens that the model would have chosen itself.
    pub token_accuracy: f64,
    /// Share of records whose generated answer equals the expected one, surrounding space aside; `None` where nothing
    /// was generated.
    pub exact_match: Option<f64>,
    /// Records left out under `data.bad_record=skip`.
    pub skipped: usize,
}

/// One generated answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The record's number in its data set.
    pub index: usize,
    /// What the record expects.
    pub expected: String,
    /// What the model said.
    pub generated: String,
}

impl Answer {
    /// Whether both are equal, surrounding space aside.
    pub fn is_exact(&self) -> bool {
        self.expected.trim() == self.generated.trim()
    }
}

/// Loss and token accuracy over all records.
///
/// # Errors
/// [`DataError`] of a record that cannot be read, unless bad records are skipped.
pub fn evaluate_loss<P: Policy, K: DataKind>(
    model: &P,
    data: &EvalData<K>,
    device: &Device,
) -> Result<Evaluation, DataError> {
    let order: Vec<usize> = (0..data.dataset.len()).collect();
    let batches: Vec<Vec<usize>> = order.chunks(data.batch_size).map(<[usize]>::to_vec).collect();
    let loader = Loader::new(data.dataset.clone(), data.encoder.clone(), batches, 0, data.loader)?;
    let (mut sum, mut correct, mut total, mut skipped) = (0.0, 0, 0, 0);
    for loaded in loader {
        let loaded = loaded?;
        skipped += loaded.skipped.len();
        let Some(batch) = loaded.batch else { continue };
        let scored = model.score(&batch, device);
        // In record order and in f64: the same sum whatever the batch size.
        sum += scored.log_probs.iter().flatten().map(|&v| f64::from(v)).sum::<f64>();
        correct += scored.correct;
        total += scored.total;
    }
    let tokens = total.max(1) as f64;
    Ok(Evaluation { loss: -sum / tokens, token_accuracy: correct as f64 / tokens, exact_match: None, skipped })
}

/// Which image a record is shown with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Images {
    /// Its own.
    Own,
    /// That of another record, where there is another with as many: an answer that does not need the picture does not suffer.
    Shuffled,
}

/// Greedy answers to the last turn of each of `indices`.
///
/// # Errors
/// [`DataError`] of a record that cannot be read, unless bad records are skipped.
pub fn answer<P: Policy, K: DataKind>(
    model: &P,
    data: &EvalData<K>,
    indices: &[usize],
    images: Images,
    device: &Device,
) -> Result<Vec<Answer>, DataError> {
    let mut answers = Vec::with_capacity(indices.len());
    let padding = Padding { side: PadSide::Left, ..data.loader.padding };
    for (at, chunk) in indices.chunks(data.batch_size).enumerate() {
        let prompts: Vec<_> = chunk
            .par_iter()
            .enumerate()
            .map(|(offset, &index)| prompt(data, indices, at * data.batch_size + offset, index, images))
            .collect();
        let mut encoded: Vec<Encoded> = Vec::new();
        let mut expected = Vec::new();
        for prompt in prompts {
            match prompt {
                Ok((prompt, answer)) => {
                    encoded.push(prompt);
                    expected.push(answer);
                }
                Err(_) if data.loader.bad_record == BadRecord::Skip => {}
                Err(error) => return Err(error),
            }
        }
        if encoded.is_empty() {
            continue;
        }
        let batch = collate(&encoded, &padding);
        let mut ends = StopText::new(&data.encoder.tokenizer, data.encoder.template.stop().as_deref(), encoded.len());
        let ids = model.generate(&batch, &data.stop, device, &mut |row, id| ends.push(row, id));
        for ((ids, expected), index) in ids.iter().zip(expected).zip(&batch.indices) {
            let generated = ends.cut(&data.encoder.tokenizer.decode(ids)).to_owned();
            answers.push(Answer { index: *index, expected, generated });
        }
    }
    Ok(answers)
}

fn prompt<K: DataKind>(
    data: &EvalData<K>,
    indices: &[usize],
    position: usize,
    index: usize,
    images: Images,
) -> Result<(Encoded, String), DataError> {
    let mut sample = data.dataset.sample(index)?;
    if images == Images::Shuffled {
        // Half-way round the list: far from neighbours, which data sets tend to make alike; oneself only where there is no other.
        let other = indices[(position + indices.len().div_ceil(2)) % indices.len()];
        let other = data.dataset.sample(other)?;
        if other.images.len() == sample.images.len() {
            sample.images = other.images;
        }
    }
    let prompt = data.encoder.encode_prompt(&sample, index)?;
    Ok((prompt.encoded, prompt.answer))
}

/// Share of exact answers.
pub fn exact_match(answers: &[Answer]) -> f64 {
    let exact = answers.iter().filter(|a| a.is_exact()).count();
    exact as f64 / answers.len().max(1) as f64
}
