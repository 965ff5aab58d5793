//! Texts that are read and not answered: scores, classes, embeddings.

// b rows, t tokens, d hidden width, k outputs of a head
use super::Failure;
use super::prompts::encoded;
use super::worker::Served;
use crate::data::{Batch, Encoded, PadSide, Padding, collate};
use crate::engine::{Pooling, Prompt};
use crate::models::LanguageModel;
use crate::nn::to_f32;
use crate::objectives::{Head, Level};
use crate::projector::Projector;
use crate::recipe::tools::pad_id;
use crate::vision::VisionEncoder;
use crate::vlm::{VlmInputs, last_tokens};
use burn::tensor::{Device, Int, Tensor, TensorData};

/// Texts that are read at once.
const ROWS: usize = 16;
/// Tokens that are read at once, padding included; a longer text is read alone.
const TOKENS: usize = 8192;
/// Texts that are taken from the queue at once, to be ordered by their length.
pub(super) const WINDOW: usize = 8 * ROWS;

/// A text that is to be read.
pub(super) struct Reading {
    pub(super) model: Option<String>,
    pub(super) prompt: Prompt,
    pub(super) wanted: Wanted,
    pub(super) reader: Box<dyn Reader>,
}

/// What is wanted of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// What a head of one output says.
    Score,
    /// What a head says of each class.
    Classes,
    /// Its hidden states, as one; the first so many values of it.
    #[cfg_attr(not(feature = "serve"), expect(dead_code, reason = "the server alone embeds"))]
    Embedding { pooling: Option<Pooling>, dimensions: Option<usize> },
}

/// Hears what a text was read as. Called on the thread that computes.
pub(super) trait Reader: Send {
    /// The result.
    fn done(self: Box<Self>, result: Result<Read, Failure>);

    /// Whether nobody waits for it any more.
    fn is_cancelled(&self) -> bool;
}

/// What a text was read as.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Read {
    /// One score, the probability of each class, or an embedding.
    pub(super) values: Vec<f64>,
    /// The names of the classes.
    pub(super) labels: Vec<String>,
    /// Tokens of the text.
    pub(super) tokens: u64,
}

/// A text on its way through the model.
struct Row {
    encoded: Encoded,
    wanted: Wanted,
    reader: Box<dyn Reader>,
}

/// Reads texts, together with others of their length, and tells what they are.
pub(super) fn read<M: LanguageModel, V: VisionEncoder, P: Projector>(served: &Served<M, V, P>, readings: Vec<Reading>) {
    let mut rows = Vec::new();
    for Reading { prompt, wanted, reader, .. } in readings {
        if reader.is_cancelled() {
            continue;
        }
        match suits(served, wanted).and_then(|()| whole(served, &prompt)) {
            Ok(encoded) => rows.push(Row { encoded, wanted, reader }),
            Err(failure) => reader.done(Err(failure)),
        }
    }
    rows.sort_by_key(|row| row.encoded.input_ids.len());
    while !rows.is_empty() {
        let batch: Vec<Row> = rows.drain(..fitting(&rows)).collect();
        read_batch(served, batch);
    }
}

/// How many of the first rows, the shortest first, are read together.
fn fitting(rows: &[Row]) -> usize {
    let fits = |(i, row): &(usize, &Row)| (i + 1) * row.encoded.input_ids.len() <= TOKENS;
    rows.iter().take(ROWS).enumerate().take_while(fits).count().max(1)
}

/// Whether the model can be asked that.
fn suits<M: LanguageModel, V: VisionEncoder, P: Projector>(
    served: &Served<M, V, P>,
    wanted: Wanted,
) -> Result<(), Failure> {
    let name = &served.info.id;
    let text = match (wanted, served.head) {
        (Wanted::Embedding { dimensions, .. }, _) => {
            let width = served.width();
            match dimensions.filter(|count| *count > width) {
                None => return Ok(()),
                Some(count) => {
                    format!("an embedding of {name} has {width} values, not {count}; ask for at most that many")
                }
            }
        }
        (_, None) => format!(
            "{name} has no head that yields scores, it writes; take a reward model or a classifier, in a folder whose \
             config.json names a ForSequenceClassification, or an adapter of the task type SEQ_CLS"
        ),
        (_, Some(Head { level: Level::Token, .. })) => {
            format!("the head of {name} is for single tokens; take one for whole texts, ForSequenceClassification")
        }
        (Wanted::Score, Some(Head { outputs: 1, .. })) => return Ok(()),
        (Wanted::Score, Some(Head { outputs, .. })) => {
            format!(
                "the head of {name} has {outputs} outputs, it is a classifier and no reward model; ask for its classes"
            )
        }
        (Wanted::Classes, Some(head)) if head.outputs == 1 && !each_by_itself(head) => {
            format!("the head of {name} has 1 output, it is a reward model and no classifier; ask for its score")
        }
        (Wanted::Classes, Some(_)) => return Ok(()),
    };
    Err(Failure::Invalid(text))
}

fn each_by_itself(head: Head) -> bool {
    head.problem_type == Some("multi_label_classification")
}

/// All tokens of a text or a conversation.
fn whole<M: LanguageModel, V: VisionEncoder, P: Projector>(
    served: &Served<M, V, P>,
    prompt: &Prompt,
) -> Result<Encoded, Failure> {
    let encoded = encoded(served, prompt, super::prompts::Upto::End)?;
    let length = encoded.input_ids.len();
    match served.context {
        _ if length == 0 => Err(Failure::Invalid("the text has no tokens".to_owned())),
        Some(context) if length > context => {
            let text = format!("the text has {length} tokens, but the model's context has {context}; shorten it");
            Err(Failure::Invalid(text))
        }
        _ => Ok(encoded),
    }
}

fn read_batch<M: LanguageModel, V: VisionEncoder, P: Projector>(served: &Served<M, V, P>, rows: Vec<Row>) {
    let (ready, model) = (&served.ready, &served.ready.loaded.model);
    let (encoded, rest): (Vec<Encoded>, Vec<_>) =
        rows.into_iter().map(|row| (row.encoded, (row.wanted, row.reader))).unzip();
    let padding = Padding { token: pad_id(&ready.encoder.tokenizer), side: PadSide::Right, multiple_of: 1 };
    let batch = collate(&encoded, &padding);
    let hidden_btd = model.hidden(&VlmInputs::upload(&batch, &ready.device), None);
    let [b, t, d] = hidden_btd.dims();
    let hidden_nd = hidden_btd.reshape([b * t, d]);
    let last_bd = hidden_nd.clone().select(0, last_tokens(&batch, &ready.device));
    let any = |wanted: fn(&Wanted) -> bool| rest.iter().any(|(one, _)| wanted(one));
    let scored = any(|wanted| !matches!(wanted, Wanted::Embedding { .. }));
    let pooled = any(|wanted| matches!(wanted, Wanted::Embedding { .. }));
    // A head was looked for before.
    let scores = model.scores(last_bd.clone()).filter(|_| scored).map(rows_of).unwrap_or_default();
    let last = if pooled { rows_of(to_f32(last_bd)) } else { Vec::new() };
    for (i, (wanted, reader)) in rest.into_iter().enumerate() {
        let (values, labels) = match wanted {
            Wanted::Score => (scores[i].clone(), Vec::new()),
            Wanted::Classes => (probabilities(&scores[i], served.head), served.labels.clone()),
            Wanted::Embedding { pooling, dimensions } => {
                let values = match pooling.unwrap_or(served.pooling) {
                    Pooling::Last => last[i].clone(),
                    Pooling::Mean => mean(&hidden_nd, &batch, i, &ready.device),
                };
                (unit(values, dimensions), Vec::new())
            }
        };
        let tokens = encoded[i].input_ids.len() as u64;
        let finite = values.iter().all(|value| value.is_finite());
        let words = "the model's weights yield what is no finite number for this text; they are damaged";
        reader.done(match finite {
            true => Ok(Read { values, labels, tokens }),
            false => Err(Failure::Broken(words.to_owned())),
        });
    }
}

/// The mean of a row's hidden states, `[d]`, in f32.
fn mean(hidden_nd: &Tensor<2>, batch: &Batch, row: usize, device: &Device) -> Vec<f64> {
    let places: Vec<i32> = batch.range(row).map(|place| place as i32).collect();
    let count = places.len();
    let index = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), device);
    let mean_1d = to_f32(hidden_nd.clone().select(0, index)).mean_dim(0);
    rows_of(mean_1d).remove(0)
}

fn rows_of(values_bk: Tensor<2>) -> Vec<Vec<f64>> {
    let [_, k] = values_bk.dims();
    let flat: Vec<f64> = values_bk.into_data().iter::<f32>().map(f64::from).collect();
    flat.chunks(k.max(1)).map(<[f64]>::to_vec).collect()
}

/// The probability of each class.
fn probabilities(scores: &[f64], head: Option<Head>) -> Vec<f64> {
    if head.is_some_and(each_by_itself) {
        return scores.iter().map(|score| 1.0 / (1.0 + (-score).exp())).collect();
    }
    let most = scores.iter().copied().fold(f64::MIN, f64::max);
    let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect()
}

/// The first so many values, scaled to the length 1.
fn unit(mut values: Vec<f64>, dimensions: Option<usize>) -> Vec<f64> {
    values.truncate(dimensions.unwrap_or(values.len()));
    let length = values.iter().map(|value| value * value).sum::<f64>().sqrt();
    // As torch's `normalize`, which leaves nothing at nothing.
    values.iter().map(|value| value / length.max(1e-12)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_sum_to_one_or_stand_alone() {
        let head = |problem_type| Some(Head { outputs: 2, bias: false, level: Level::Sequence, problem_type });
        assert_eq!(probabilities(&[3.0, 3.0], head(None)), [0.5, 0.5]);
        // A difference of ln 3.
        let found = probabilities(&[1000.0 + 3f64.ln(), 1000.0], head(Some("single_label_classification")));
        assert!((found[0] - 0.75).abs() < 1e-9 && (found[1] - 0.25).abs() < 1e-9, "{found:?}");
        let found = probabilities(&[0.0, 3f64.ln()], head(Some("multi_label_classification")));
        assert!((found[0] - 0.5).abs() < 1e-12 && (found[1] - 0.75).abs() < 1e-12, "{found:?}");
    }

    #[test]
    fn an_embedding_has_length_one_whatever_is_cut_off() {
        assert_eq!(unit(vec![3.0, 4.0], None), [0.6, 0.8]);
        assert_eq!(unit(vec![3.0, 4.0, 12.0], Some(2)), [0.6, 0.8]);
        assert_eq!(unit(vec![0.0, 0.0], None), [0.0, 0.0]);
    }
}
