//! Answers, scores and classes for some records.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use serde_json::Value;

use super::super::{PredictedAnswer, Prediction};
use super::records::written;
use super::{GenerationSetting, Record};
use crate::engine::ImageSource;
use crate::engine::{Answer, Choice, Engine, EngineError, Finished, Prompt, Request, Sampling, ScoreRequest};
use crate::text::{Conversation, Message, Role};

/// What is to be said of records.
pub trait Task: Sync {
    /// Says it, one result for each record.
    fn work(&self, records: &[Record], spent: &mut Spent) -> Vec<Result<Prediction, EngineError>>;
}

/// What it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Tokens that were read, where that is known.
    pub prompt_tokens: u64,
    /// Tokens that were written.
    pub completion_tokens: u64,
}

/// Answers.
pub struct Generate<'e> {
    /// Who answers.
    pub engine: &'e dyn Engine,
    /// Which of its models.
    pub model: Option<String>,
    /// How.
    pub setting: &'e GenerationSetting,
    /// Whether answers come with the log-probabilities of their tokens.
    pub logprobs: bool,
    /// Whether answers come with their scores; with beams they do anyway.
    pub scores: bool,
    /// Who chooses, where more answers are drawn than are kept.
    pub best_of: Option<BestOf<'e>>,
}

/// A choice among drawn answers.
#[derive(Clone, Copy)]
pub struct BestOf<'e> {
    /// Answers that are drawn.
    pub drawn: usize,
    /// The reward model.
    pub judge: &'e dyn Engine,
}

impl Generate<'_> {
    /// What the engine is asked of a record.
    pub fn request(&self, record: &Record) -> Request {
        let wanted = self.logprobs || self.scores;
        Request {
            id: record.place.to_string(),
            model: self.model.clone(),
            prompt: chat(record, record.question.clone()),
            sampling: Sampling::default(),
            generation: Some(self.setting.for_engine()),
            key: Some(record.index as u64),
            n: self.best_of.map_or(self.setting.returned(), |best_of| best_of.drawn),
            logprobs: wanted.then_some(0),
            echo: false,
        }
    }

    fn answers(&self, request: &Request, answer: Answer) -> Result<Vec<PredictedAnswer>, EngineError> {
        answer.choices.into_iter().enumerate().map(|(number, choice)| self.answer(request, number, choice)).collect()
    }

    fn answer(&self, request: &Request, number: usize, choice: Choice) -> Result<PredictedAnswer, EngineError> {
        let logprobs: Option<Vec<f64>> = choice.tokens.iter().map(|token| token.logprob.map(exact)).collect();
        let logprobs = logprobs.filter(|logprobs| !logprobs.is_empty() || choice.text.is_empty());
        if request.logprobs.is_some() && logprobs.is_none() {
            let reason = "the answer came without the log-probabilities that were asked for".to_owned();
            return Err(EngineError::Unsupported { request: request.id.clone(), reason });
        }
        let scored = self.scores || self.setting.has_beams();
        let sum = || logprobs.as_ref().filter(|_| request.logprobs.is_some()).map(|all| all.iter().sum());
        let sequence_score = if scored { choice.score.or_else(sum) } else { None };
        let mut answer = PredictedAnswer {
            id: number.to_string(),
            // Templates write the space between a role and its words themselves.
            content: choice.text.trim().to_owned(),
            sequence_score,
            logprobs: logprobs.filter(|_| self.logprobs),
            ..PredictedAnswer::default()
        };
        if !choice.tool_calls.is_empty() {
            let calls: Vec<Value> = choice.tool_calls.iter().map(crate::text::ToolCall::to_json).collect();
            answer.rest.insert("tool_calls".to_owned(), calls.into());
        }
        Ok(answer)
    }

    /// Keeps the best answers of each record, the best first.
    fn choose(&self, records: &[Record], drawn: &mut [Result<Prediction, EngineError>], best_of: BestOf<'_>) {
        let mut asked = Vec::new();
        let mut of = Vec::new();
        for (place, (record, prediction)) in records.iter().zip(drawn.iter()).enumerate() {
            for (number, answer) in prediction.iter().flat_map(|prediction| prediction.answers.iter().enumerate()) {
                let mut whole = record.question.clone();
                whole.messages.push(Message::text(Role::Assistant, answer.said()));
                asked.push(scored(record, whole, None));
                of.push((place, number));
            }
        }
        let rewards = gather(&asked, |asked| &asked.id, |asked, finished| best_of.judge.score(asked, finished));
        let mut judged: Vec<Vec<f64>> = drawn.iter().map(|_| Vec::new()).collect();
        for ((place, _), reward) in of.into_iter().zip(rewards) {
            match (reward.and_then(|reward| number(&records[place], reward)), &drawn[place]) {
                (Ok(reward), _) => judged[place].push(reward),
                (Err(error), Ok(_)) => drawn[place] = Err(error),
                (Err(_), Err(_)) => {}
            }
        }
        for (prediction, rewards) in drawn.iter_mut().zip(judged) {
            let Ok(prediction) = prediction else { continue };
            let mut ranked: Vec<(f64, PredictedAnswer)> =
                rewards.into_iter().zip(std::mem::take(&mut prediction.answers)).collect();
            ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
            ranked.truncate(self.setting.returned());
            prediction.rewards = Some(ranked.iter().map(|(reward, answer)| (answer.id.clone(), *reward)).collect());
            prediction.answers = ranked.into_iter().map(|(_, answer)| answer).collect();
        }
    }
}

impl Task for Generate<'_> {
    fn work(&self, records: &[Record], spent: &mut Spent) -> Vec<Result<Prediction, EngineError>> {
        let requests: Vec<Request> = records.iter().map(|record| self.request(record)).collect();
        let answers = gather(&requests, |request| &request.id, |requests, each| self.engine.generate(requests, each));
        let mut predictions: Vec<Result<Prediction, EngineError>> = Vec::new();
        for ((record, request), answer) in records.iter().zip(&requests).zip(answers) {
            predictions.push(answer.and_then(|answer| {
                spent.prompt_tokens += answer.usage.prompt_tokens;
                spent.completion_tokens += answer.usage.completion_tokens;
                let answers = self.answers(request, answer)?;
                Ok(Prediction { answers, ..record.prediction.clone() })
            }));
        }
        if let Some(best_of) = self.best_of {
            self.choose(records, &mut predictions, best_of);
        }
        predictions
    }
}

/// What a reward model gives the answers that records have.
pub struct Reward<'e> {
    /// The reward model.
    pub engine: &'e dyn Engine,
    /// Which of its models.
    pub model: Option<String>,
}

impl Task for Reward<'_> {
    fn work(&self, records: &[Record], _: &mut Spent) -> Vec<Result<Prediction, EngineError>> {
        let all = records.iter().flat_map(|record| record.answers.iter().map(move |answer| (record, answer)));
        let asked: Vec<ScoreRequest> =
            all.map(|(record, answer)| scored(record, record.answered(answer), self.model.clone())).collect();
        let mut rewards =
            gather(&asked, |asked| &asked.id, |asked, finished| self.engine.score(asked, finished)).into_iter();
        let mut judge = |record: &Record| {
            if record.answers.is_empty() {
                let reason =
                    "there is no answer to score: give `answers`, a pair, or an assistant's last turn".to_owned();
                return Err(EngineError::Unsupported { request: record.place.to_string(), reason });
            }
            // All of the record's are taken, whatever becomes of the first.
            let own: Vec<_> = rewards.by_ref().take(record.answers.len()).collect();
            let mut given = BTreeMap::new();
            for (answer, reward) in record.answers.iter().zip(own) {
                if given.insert(answer.written.id.clone(), number(record, reward?)?).is_some() {
                    let reason = format!("two answers have the id {:?}; give each one of its own", answer.written.id);
                    return Err(EngineError::Unsupported { request: record.place.to_string(), reason });
                }
            }
            let answers = record.answers.iter().map(|answer| answer.written.clone()).collect();
            Ok(Prediction { answers, rewards: Some(given), ..record.prediction.clone() })
        };
        records.iter().map(&mut judge).collect()
    }
}

/// The classes that a classifier takes records for.
pub struct Classify<'e> {
    /// The classifier.
    pub engine: &'e dyn Engine,
    /// Which of its models.
    pub model: Option<String>,
}

impl Task for Classify<'_> {
    fn work(&self, records: &[Record], _: &mut Spent) -> Vec<Result<Prediction, EngineError>> {
        let asked: Vec<ScoreRequest> =
            records.iter().map(|record| scored(record, record.whole(), self.model.clone())).collect();
        let classes = gather(&asked, |asked| &asked.id, |asked, finished| self.engine.classify(asked, finished));
        let predict = |(record, probabilities): (&Record, Result<Vec<f64>, EngineError>)| {
            let probabilities = probabilities?;
            for probability in &probabilities {
                number(record, *probability)?;
            }
            // Of equals the first.
            let best = probabilities.iter().enumerate().rev().max_by(|a, b| a.1.total_cmp(b.1)).map(|(class, _)| class);
            let mut prediction = record.prediction.clone();
            // The class is that of the whole conversation.
            if let [only] = record.answers.as_slice() {
                prediction.messages.extend(written(&only.messages, &[]));
            }
            prediction.predicted_label = best.map(Value::from);
            prediction.rest.insert("probabilities".to_owned(), probabilities.into());
            Ok(prediction)
        };
        records.iter().zip(classes).map(predict).collect()
    }
}

fn chat(record: &Record, conversation: Conversation) -> Prompt {
    let shown = conversation.image_count();
    let images = record.images.iter().take(shown).cloned().map(ImageSource::File).collect();
    Prompt::Chat { conversation, images }
}

fn scored(record: &Record, conversation: Conversation, model: Option<String>) -> ScoreRequest {
    ScoreRequest { id: record.place.to_string(), model, prompt: chat(record, conversation) }
}

/// A score that has a rank.
fn number(record: &Record, score: f64) -> Result<f64, EngineError> {
    if score.is_finite() {
        return Ok(score);
    }
    let reason = format!("the model's score is {score}, which is no number; check its weights");
    Err(EngineError::Unsupported { request: record.place.to_string(), reason })
}

/// Everything that an engine says, in the order of the requests.
fn gather<R, T>(
    requests: &[R],
    id: fn(&R) -> &String,
    ask: impl FnOnce(&[R], &mut Finished<'_, T>),
) -> Vec<Result<T, EngineError>> {
    let mut results: Vec<Option<Result<T, EngineError>>> = requests.iter().map(|_| None).collect();
    if !requests.is_empty() {
        ask(requests, &mut |index, result| {
            if let Some(place) = results.get_mut(index) {
                *place = Some(result);
            }
            ControlFlow::Continue(())
        });
    }
    let missing = |request: &R| EngineError::Failed {
        request: id(request).clone(),
        reason: "the engine said nothing of it".to_owned(),
    };
    requests.iter().zip(results).map(|(request, result)| result.unwrap_or_else(|| Err(missing(request)))).collect()
}

/// The number with the same digits: 0.1 stays 0.1.
fn exact(logprob: f32) -> f64 {
    logprob.to_string().parse().unwrap_or(f64::from(logprob))
}
