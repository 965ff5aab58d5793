//! Generated answers to held-out records.

use super::evaluate::EvalData;
use super::policy::Policy;
use crate::data::{BadRecord, DataError, DataKind, Encoded, PadSide, Padding, Sample, collate};
use crate::example::Shape;
use crate::generation::decoding::{DecodeError, Decoding, Method};
use crate::generation::driver::{BatchError, Request};
use crate::generation::row::RowSettings;
use crate::generation::sequence::Sequence;
use crate::text::{Conversation, Role, StopText};
use burn::tensor::Device;
use rayon::prelude::*;
use std::sync::Arc;

/// What a model said to one record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The record's number in its data set.
    pub index: usize,
    /// What the record expects.
    pub expected: String,
    /// The model's answers; one, where the settings of generation ask for no more.
    pub replies: Vec<Reply>,
}

/// One generated answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reply {
    /// Its words.
    pub text: String,
    /// Its tokens, without the one that ends it.
    pub ids: Vec<u32>,
    /// What the search thought of it, where it tells.
    pub score: Option<f64>,
    /// The log-probability of each token as it was chosen, in nats, where the settings of generation ask for it.
    pub chosen_at: Option<Vec<f64>>,
    /// The log-probability of each of its tokens under the model, in nats, where a metric asked.
    pub log_probs: Option<Vec<f64>>,
    /// The same under the reference policy.
    pub reference: Option<Vec<f64>>,
    /// The same under the model that is only logged.
    pub observer: Option<Vec<f64>>,
    /// What a reward model gives it.
    pub reward: Option<f64>,
}

impl Answer {
    /// The first answer.
    pub fn generated(&self) -> &str {
        self.replies.first().map_or("", |reply| reply.text.as_str())
    }

    /// Whether the first answer is the expected one, surrounding space aside.
    pub fn is_exact(&self) -> bool {
        self.expected.trim() == self.generated().trim()
    }

    /// Share of the answers that are the expected one, surrounding space aside.
    pub fn exactness(&self) -> f64 {
        let exact = self.replies.iter().filter(|reply| self.expected.trim() == reply.text.trim()).count();
        exact as f64 / self.replies.len().max(1) as f64
    }
}

/// Share of exact answers.
pub fn exact_match(answers: &[Answer]) -> f64 {
    answers.iter().map(Answer::exactness).sum::<f64>() / answers.len().max(1) as f64
}

/// Which image a record is shown with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Images {
    /// Its own.
    Own,
    /// That of another record, where there is another with as many: an answer that does not need the picture does not suffer.
    Shuffled,
}

/// Answers that were not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AnswerError {
    /// A record that cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A search that found no answer.
    #[error("generating an answer to {place}: {source}")]
    Decode {
        /// The record.
        place: crate::data::Place,
        /// Why.
        source: DecodeError,
    },
}

/// Answers to the last turn of each of `indices`.
///
/// # Errors
/// [`AnswerError::Data`] of a record that cannot be read, unless bad records are skipped; [`AnswerError::Decode`].
pub fn answer<P: Policy, K: DataKind>(
    model: &P,
    data: &EvalData<K>,
    indices: &[usize],
    images: Images,
    device: &Device,
) -> Result<Vec<Answer>, AnswerError> {
    answer_each(model, data, indices, images, device, |_, _| ())
}

/// As [`answer`]; `look` sees the prompts and the answers of each batch.
pub(super) fn answer_each<P: Policy, K: DataKind>(
    model: &P,
    data: &EvalData<K>,
    indices: &[usize],
    images: Images,
    device: &Device,
    mut look: impl FnMut(&[Encoded], &mut [Answer]),
) -> Result<Vec<Answer>, AnswerError> {
    let mut answers = Vec::with_capacity(indices.len());
    let lanes = data.decoding.as_deref().map_or(1, lanes);
    let size = (data.batch_size / lanes).max(1);
    for (at, chunk) in indices.chunks(size).enumerate() {
        let prompts: Vec<_> = chunk
            .par_iter()
            .enumerate()
            .map(|(offset, &index)| prompt(data, indices, at * size + offset, index, images))
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
                Err(error) => return Err(error.into()),
            }
        }
        if encoded.is_empty() {
            continue;
        }
        let replies = match &data.decoding {
            None => greedy_replies(model, data, &encoded, device),
            Some(decoding) => searched_replies(model, data, decoding, &encoded, device)?,
        };
        let together = encoded.iter().zip(expected).zip(replies);
        let of = |((encoded, expected), replies): ((&Encoded, String), Vec<Reply>)| Answer {
            index: encoded.index,
            expected,
            replies,
        };
        let mut found: Vec<Answer> = together.map(of).collect();
        look(&encoded, &mut found);
        answers.extend(found);
    }
    Ok(answers)
}

/// Lanes of a batch that one row takes.
fn lanes(decoding: &Decoding) -> usize {
    match &decoding.method {
        Method::Sample { sequences } => *sequences,
        Method::Beams(rules) | Method::DiverseBeams { rules, .. } => rules.beams,
        Method::Contrastive { candidates, .. } => *candidates,
        _ => 1,
    }
    .max(1)
}

fn greedy_replies<P: Policy, K: DataKind>(
    model: &P,
    data: &EvalData<K>,
    encoded: &[Encoded],
    device: &Device,
) -> Vec<Vec<Reply>> {
    let padding = Padding { side: PadSide::Left, ..data.loader.padding };
    let batch = collate(encoded, &padding);
    let tokenizer = &data.encoder.tokenizer;
    let mut ends = StopText::new(tokenizer, data.encoder.template.stop().as_deref(), encoded.len());
    let ids = model.generate(&batch, &data.stop, device, &mut |row, id| ends.push(row, id));
    let reply = |ids: Vec<u32>| {
        let text = ends.cut(&tokenizer.decode(&ids)).to_owned();
        vec![Reply { text, ids, ..Reply::default() }]
    };
    ids.into_iter().map(reply).collect()
}

/// Draws depend on the record's number and the seed, not on the step: evaluations of one run can be compared.
fn searched_replies<P: Policy, K: DataKind>(
    model: &P,
    data: &EvalData<K>,
    decoding: &Arc<Decoding>,
    encoded: &[Encoded],
    device: &Device,
) -> Result<Vec<Vec<Reply>>, AnswerError> {
    let row = |prompt: &Encoded| Request {
        prompt: prompt.clone(),
        settings: RowSettings {
            decoding: decoding.clone(),
            prompt: prompt.input_ids.clone(),
            key: prompt.index as u64,
            detokenizer: Some(Box::new(data.encoder.tokenizer.stream())),
        },
    };
    let room = encoded.iter().map(|prompt| decoding.stop.limit(prompt.input_ids.len())).max().unwrap_or(0);
    let requests = encoded.iter().map(row).collect();
    let answers = model.respond(requests, data.loader.padding.token, room, device);
    let answers = answers.map_err(|error| match error {
        BatchError::Model(never) => match never {},
        BatchError::Row { row, source } => {
            let place = encoded.get(row as usize).unwrap_or(&encoded[0]).place.clone();
            AnswerError::Decode { place, source }
        }
    })?;
    let reply = |sequence: Sequence| Reply {
        ids: sequence.content_ids().to_vec(),
        score: sequence.score,
        chosen_at: decoding.logprobs.map(|_| sequence.logprobs.iter().map(|token| f64::from(token.logprob)).collect()),
        text: sequence.text,
        ..Reply::default()
    };
    Ok(answers.into_iter().map(|row| row.into_iter().map(reply).collect()).collect())
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

/// What a record asks: its turns before the answer that is generated anew.
pub fn asked<S: Shape>(sample: &Sample<S>) -> Conversation {
    let shown = S::shown(&sample.conversation, &sample.target);
    let turns = &shown.messages;
    let Some(last) = turns.iter().rposition(|message| message.role == Role::Assistant) else { return shown };
    // Of several answers in a row the first is generated.
    let answers = turns[..=last].iter().rev().take_while(|message| message.role == Role::Assistant).count();
    shown.up_to(last + 1 - answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(expected: &str, texts: &[&str]) -> Answer {
        let reply = |text: &&str| Reply { text: (*text).to_owned(), ..Reply::default() };
        Answer { index: 0, expected: expected.to_owned(), replies: texts.iter().map(reply).collect() }
    }

    #[test]
    fn several_answers_count_by_their_share() {
        let answers = [answer("yes", &[" yes\n"]), answer("no", &["no", "yes", "No", "no "]), answer("x", &[])];
        assert_eq!(answers.each_ref().map(Answer::exactness), [1.0, 0.5, 0.0]);
        assert_eq!(exact_match(&answers), 0.5);
        assert_eq!(exact_match(&[]), 0.0);
        assert!(answers[1].is_exact() && answers[2].generated().is_empty());
    }
}
