//! Options of a question, documents of a retrieval, and answers with rewards.

use super::super::Prediction;
use super::references::OPTIONS;
use super::{class, field, number, numbers};
use crate::data::row::wrong_type;
use crate::data::{DataError, Place};
use crate::metrics::Candidate;
use serde_json::Value;

/// The options of a multiple-choice record, with which of them is right; none of a record without options.
///
/// # Errors
/// [`DataError`] of options of another form than they should have.
pub fn options(record: &Prediction, place: &Place) -> Result<Vec<Candidate>, DataError> {
    let Some((name, value)) = OPTIONS.iter().find_map(|key| field(record, key)) else { return Ok(Vec::new()) };
    listed(record, &name, value, place)
}

pub(super) fn of(record: &Prediction, place: &Place) -> Result<Vec<Candidate>, DataError> {
    let named = OPTIONS.iter().chain(&["candidates", "documents"]).find_map(|key| field(record, key));
    if let Some((name, value)) = named {
        return listed(record, &name, value, place);
    }
    if let Some(rewards) = &record.rewards {
        let chosen = |id: &str| f64::from(matches!(id, "chosen" | "w" | "answer_w"));
        if record.answers.is_empty() {
            return Ok(rewards.iter().map(|(id, &reward)| rewarded(reward, chosen(id))).collect());
        }
        let known = record.answers.iter().filter_map(|answer| Some((&answer.id, *rewards.get(&answer.id)?)));
        return Ok(known.map(|(id, reward)| rewarded(reward, chosen(id))).collect());
    }
    let reward = |key: &str| field(record, key).map(|(name, value)| number(value, &name, place)).transpose();
    match (reward("reward_w")?, reward("reward_l")?) {
        (Some(won), Some(lost)) => Ok(vec![rewarded(won, 1.0), rewarded(lost, 0.0)]),
        _ => Ok(Vec::new()),
    }
}

/// An answer with a reward. It has no text: what chooses by letter takes candidates with one for options.
fn rewarded(reward: f64, relevance: f64) -> Candidate {
    candidate(String::new(), Some(reward), relevance)
}

fn candidate(text: String, score: Option<f64>, relevance: f64) -> Candidate {
    Candidate { text, score, relevance }
}

/// Candidates as a record lists them, with their letters where those are said.
fn listed(record: &Prediction, name: &str, value: &Value, place: &Place) -> Result<Vec<Candidate>, DataError> {
    let expected = "a list of texts or of objects with `text`, or an object of letters and texts";
    let wrong = || wrong_type(place, name, expected, value);
    let mut letters: Vec<String> = Vec::new();
    let all: Vec<&Value> = match value {
        Value::Array(all) => all.iter().collect(),
        Value::Object(fields) => match (fields.get("text"), fields.get("label")) {
            (Some(Value::Array(texts)), labels) => {
                letters = labels.and_then(Value::as_array).into_iter().flatten().filter_map(class).collect();
                texts.iter().collect()
            }
            _ => {
                letters = fields.keys().cloned().collect();
                fields.values().collect()
            }
        },
        _ => return Err(wrong()),
    };
    let mut relevant = Vec::new();
    let mut found = Vec::new();
    for (i, one) in all.into_iter().enumerate() {
        let name = format!("{name}[{i}]");
        let of = |keys: [&str; 2]| keys.into_iter().find_map(|key| one.get(key)).filter(|value| !value.is_null());
        let text = of(["text", "content"]).unwrap_or(one);
        let text =
            class(text).ok_or_else(|| wrong_type(place, name.as_str(), "a text, or an object with `text`", one))?;
        let score = of(["score", "logprob"]).map(|score| number(score, &format!("{name}.score"), place)).transpose()?;
        let relevance =
            one.get("relevance").map(|value| number(value, &format!("{name}.relevance"), place)).transpose()?;
        relevant.extend(relevance);
        found.push(candidate(text, score, relevance.unwrap_or_default()));
    }
    beside(record, "scores", found.len(), place)?.into_iter().zip(&mut found).for_each(|(s, one)| one.score = Some(s));
    let relevances = beside(record, "relevance", found.len(), place)?;
    relevances.iter().zip(&mut found).for_each(|(&r, one)| one.relevance = r);
    if relevant.is_empty() && relevances.is_empty() {
        right(record, &mut found, &letters, place)?;
    }
    Ok(found)
}

/// The numbers of a list that stands beside the candidates and has as many elements.
fn beside(record: &Prediction, key: &str, candidates: usize, place: &Place) -> Result<Vec<f64>, DataError> {
    let Some((name, value)) = field(record, key) else { return Ok(Vec::new()) };
    let all = numbers(value, &name, place)?;
    if all.len() != candidates {
        let reason = format!("`{name}` has {} numbers for {candidates} candidates; give one for each", all.len());
        return Err(DataError::Refused { place: place.clone(), reason });
    }
    Ok(all)
}

/// Marks the option that the record says is right.
fn right(record: &Prediction, options: &mut [Candidate], letters: &[String], place: &Place) -> Result<(), DataError> {
    let stated = ["answer", "answerKey"].into_iter().find_map(|key| field(record, key));
    let label = record.label.as_ref().map(|label| ("label".to_owned(), label));
    let Some((name, value)) = stated.or(label) else { return Ok(()) };
    let texts: Vec<&str> = options.iter().map(|option| option.text.trim()).collect();
    match which(value, &texts, letters) {
        Some(place) => options[place].relevance = 1.0,
        // A label may be about something else; metrics that need the right option say that there is none.
        None if name == "label" => {}
        None => {
            let expected = "the number (counted from 0), the letter or the text of one of the options";
            return Err(wrong_type(place, name, expected, value));
        }
    }
    Ok(())
}

fn which(value: &Value, texts: &[&str], letters: &[String]) -> Option<usize> {
    let number = |number: u64| usize::try_from(number).ok().filter(|&place| place < texts.len());
    let Some(text) = value.as_str().map(str::trim) else { return number(value.as_u64()?) };
    let listed = || letters.iter().position(|letter| letter == text);
    let letter = || match text.as_bytes() {
        [one] if one.is_ascii_alphabetic() => number(u64::from(one.to_ascii_uppercase() - b'A')),
        _ => None,
    };
    let said = texts.iter().position(|option| *option == text);
    said.or_else(listed).or_else(letter).or_else(|| number(text.parse().ok()?))
}
