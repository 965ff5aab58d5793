//! What metrics read of a record of a prediction file. This page is the whole of the mapping.
//!
//! | [`Judged`] | taken from |
//! |---|---|
//! | `id` | `id` |
//! | `question` | the words of the last of the user's `messages` |
//! | `answers` | `content` (with `tool_calls` behind it) and `logprobs` of each of `answers`; without any, the one `predicted_label` |
//! | their `reference_log_probs` | the answer's `reference_logprobs`, or of the record's `reference_logprobs` those of the answer's id (`{"0": […]}`), or the list itself where there is one answer |
//! | `references` | the first that is there of `references`, `reference`, `answer` (of a record without options), `label` |
//! | `label` | `label`, where it is a text, a number, `true` or `false`, or a list of numbers |
//! | `candidates` | the first that is there of `choices`, `options`, `candidates`, `documents`; else the `answers` with their `rewards`; else `answer_w` and `answer_l` with `reward_w` and `reward_l` |
//! | `baseline` | `baseline`, a number |
//! | `tools` | `tools`, a list or its JSON in a string |
//!
//! Fields that [`Prediction`] does not name are sought in the record, then in its `meta`. A reference is a text, a number, or an
//! object with an `answer` or a `text` (VQA's ten people are a list of `{"answer": …}`); several are a list.
//!
//! Options are a list of texts or of objects with `text` (or `content`), and `score` (or `logprob`) and `relevance` where they have
//! them; or an object of letters and texts; or ARC's `{"text": […], "label": […]}`. `scores` and `relevance` may also be lists beside
//! them. Where no option has a relevance, the first that is there of `answer`, `answerKey` and `label` says which is right: by its
//! number, counted from 0, by its text, or by its letter.
//!
//! Of rewards, the relevance of an answer is 1 where it is the chosen one of a pair (its id is `chosen`, `w` or `answer_w`). Such
//! candidates are no options, and have no text.
//!
//! [`References`] puts fields of a data file into records of the same id first.

mod candidates;
mod references;
#[cfg(test)]
mod tests;

pub use candidates::options;
pub use references::References;

use super::{PredictedAnswer, Prediction};
use crate::data::row::wrong_type;
use crate::data::{DataError, Place, Row};
use crate::metrics::{Generated, Judged, Tool};
use serde_json::Value;

/// What metrics read of `record`, which stands at `place`.
///
/// # Errors
/// [`DataError`] of a field that is there and has not the form that it should have.
pub fn judged(record: &Prediction, place: &Place) -> Result<Judged, DataError> {
    Ok(Judged {
        id: record.id.clone(),
        question: question(record),
        answers: answers(record, place)?,
        references: references::of(record, place)?,
        label: record.label.as_ref().and_then(class),
        candidates: candidates::of(record, place)?,
        baseline: field(record, "baseline").map(|(name, value)| number(value, &name, place)).transpose()?,
        tools: tools(record, place)?,
    })
}

/// A field of the record, or of its `meta`, with its name.
fn field<'a>(record: &'a Prediction, key: &str) -> Option<(String, &'a Value)> {
    let given = |value: &'a Value| Some(value).filter(|value| !value.is_null());
    let own = record.rest.get(key).and_then(given).map(|value| (key.to_owned(), value));
    let meta = || record.meta.as_ref()?.get(key).and_then(given).map(|value| (format!("meta.{key}"), value));
    own.or_else(meta)
}

/// A class in words: a text, `true` or `false`, the digits of a number (of `1.0` those of 1), or several numbers.
pub fn class(label: &Value) -> Option<String> {
    match label {
        Value::String(text) => Some(text.clone()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Number(number) if number.is_f64() => number.as_f64().map(|number| number.to_string()),
        Value::Number(number) => Some(number.to_string()),
        Value::Array(all) if !all.is_empty() && all.iter().all(Value::is_number) => {
            Some(format!("[{}]", all.iter().filter_map(class).collect::<Vec<_>>().join(", ")))
        }
        _ => None,
    }
}

fn question(record: &Prediction) -> String {
    let last = record.messages.iter().rev().find(|message| message["role"] == "user");
    last.map(|message| words(&message["content"])).unwrap_or_default()
}

/// The words of a message's content, be it a text or parts.
fn words(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part.as_str().or_else(|| part["text"].as_str())).collect()
        }
        _ => String::new(),
    }
}

fn answers(record: &Prediction, place: &Place) -> Result<Vec<Generated>, DataError> {
    if record.answers.is_empty() {
        let predicted = record.predicted_label.as_ref().map(|value| {
            let expected = "a class: a text, a number, true or false, or a list of numbers";
            class(value).ok_or_else(|| wrong_type(place, "predicted_label", expected, value))
        });
        return Ok(predicted.transpose()?.map(Generated::new).into_iter().collect());
    }
    let generated = |answer: &PredictedAnswer| {
        let reference_log_probs = reference_log_probs(record, answer, place)?;
        Ok(Generated { text: answer.said(), log_probs: answer.logprobs.clone(), reference_log_probs })
    };
    record.answers.iter().map(generated).collect()
}

fn reference_log_probs(
    record: &Prediction,
    answer: &PredictedAnswer,
    place: &Place,
) -> Result<Option<Vec<f64>>, DataError> {
    const KEY: &str = "reference_logprobs";
    let found = match (answer.rest.get(KEY), field(record, KEY)) {
        (Some(own), _) => Some((format!("answers[].{KEY}"), own)),
        (None, Some((name, of_all @ Value::Object(_)))) => of_all.get(&answer.id).map(|own| (name, own)),
        (None, found) => found.filter(|_| record.answers.len() == 1),
    };
    let Some((name, value)) = found.filter(|(_, value)| !value.is_null()) else { return Ok(None) };
    numbers(value, &name, place).map(Some)
}

fn number(value: &Value, name: &str, place: &Place) -> Result<f64, DataError> {
    value.as_f64().ok_or_else(|| wrong_type(place, name, "a number", value))
}

fn numbers(value: &Value, name: &str, place: &Place) -> Result<Vec<f64>, DataError> {
    let all = value.as_array().ok_or_else(|| wrong_type(place, name, "a list of numbers", value))?;
    all.iter().enumerate().map(|(i, one)| number(one, &format!("{name}[{i}]"), place)).collect()
}

fn tools(record: &Prediction, place: &Place) -> Result<Vec<Tool>, DataError> {
    let Some((name, value)) = field(record, "tools") else { return Ok(Vec::new()) };
    let written;
    let value = match value {
        Value::String(text) => {
            written = serde_json::from_str(text).unwrap_or(Value::Null);
            &written
        }
        value => value,
    };
    let all = value.as_array().ok_or_else(|| wrong_type(place, name.as_str(), "a list of tools", value))?;
    let tool = |(i, one): (usize, &Value)| {
        let expected = "a tool, {\"name\", \"parameters\"}";
        Tool::from_json(one).ok_or_else(|| wrong_type(place, format!("{name}[{i}]"), expected, one))
    };
    all.iter().enumerate().map(tool).collect()
}

/// A data file's row as a record that awaits its answers: what it says of what is right, where it says nothing `answer`, and the
/// messages that a model is shown.
pub fn question_of(row: Row, id: String, messages: Vec<Value>, answer: Option<&str>) -> Prediction {
    let mut record = Prediction { id, messages, ..Prediction::default() };
    references::fill(&mut record, row, answer);
    record
}
