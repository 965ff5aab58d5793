//! What counts as right: of a record itself, or of the data file that it comes from.

use super::super::Prediction;
use super::super::predictions::PredictionData;
use super::super::record::with_calls;
use super::{class, field};
use crate::data::row::{self, Row, wrong_type};
use crate::data::{DataError, Dataset, Place};
use serde_json::Value;
use std::collections::HashMap;
use std::path::PathBuf;

/// What lists several options, of which the answer is one.
pub(super) const OPTIONS: &[&str] = &["choices", "options"];

/// The references of a record.
pub(super) fn of(record: &Prediction, place: &Place) -> Result<Vec<String>, DataError> {
    let is_choice = OPTIONS.iter().any(|key| field(record, key).is_some());
    let keys = ["references", "reference", "answer"].into_iter().filter(|&key| key != "answer" || !is_choice);
    let label = || record.label.as_ref().filter(|label| !label.is_null()).map(|label| ("label".to_owned(), label));
    match keys.into_iter().find_map(|key| field(record, key)).or_else(label) {
        Some((name, value)) => several(value, &name, place),
        None => Ok(Vec::new()),
    }
}

fn several(value: &Value, name: &str, place: &Place) -> Result<Vec<String>, DataError> {
    match value {
        Value::Array(all) => {
            all.iter().enumerate().map(|(i, one)| reference(one, &format!("{name}[{i}]"), place)).collect()
        }
        one => Ok(vec![reference(one, name, place)?]),
    }
}

fn reference(value: &Value, name: &str, place: &Place) -> Result<String, DataError> {
    let inner = ["answer", "text"].into_iter().find_map(|key| value.get(key)).unwrap_or(value);
    let text = if inner.is_array() { None } else { class(inner) };
    text.ok_or_else(|| wrong_type(place, name, "a text, a number, or an object with an `answer`", value))
}

/// A data file whose rows say what is right for records of the same id.
///
/// A row's `id` (or `question_id`, or its number in the files, counted from 0) is the record's. Its fields replace the record's;
/// people's `answers` become `references`. Of a row without any (`references`, `reference`, and where it has no options `answer` and
/// `label`), the reference is the last answer of its conversation: of `conversations` or `messages` the last turn, or `answer_w`,
/// `chosen` or `output`.
#[derive(Debug)]
pub struct References {
    data: Dataset<PredictionData>,
    by_id: HashMap<String, usize>,
    files: String,
}

impl References {
    /// Opens the files and finds their rows' ids.
    ///
    /// # Errors
    /// [`DataError`] of files or rows that cannot be read, and of an id that two rows have.
    pub fn open(files: &[PathBuf]) -> Result<Self, DataError> {
        let data = Dataset::open(PredictionData::default(), files, &[])?;
        let mut by_id: HashMap<String, usize> = HashMap::new();
        for index in 0..data.len() {
            let (row, place) = (data.row(index)?, data.place(index));
            let mut id = row::id(&row, &place)?;
            if id.is_empty() {
                id = row.get("question_id").and_then(class).unwrap_or_else(|| index.to_string());
            }
            if let Some(first) = by_id.insert(id.clone(), index) {
                let reason = format!(
                    "the id `{id}` is also that of {}; give each reference an id of its own",
                    data.place(first)
                );
                return Err(DataError::Refused { place, reason });
            }
        }
        let names: Vec<String> = data.files().map(|file| file.display().to_string()).collect();
        Ok(Self { data, by_id, files: names.join(", ") })
    }

    /// Puts into `record`, which stands at `place`, what is said of its id.
    ///
    /// # Errors
    /// [`DataError::Refused`] where nothing is.
    pub fn fill(&self, record: &mut Prediction, place: &Place) -> Result<(), DataError> {
        let index = self.by_id.get(&record.id).ok_or_else(|| DataError::Refused {
            place: place.clone(),
            reason: format!(
                "no row of {} has the id `{}`; give the references of these very records",
                self.files, record.id
            ),
        })?;
        let row = self.data.row(*index)?;
        let said = last_answer(&row);
        fill(record, row, said.as_deref());
        Ok(())
    }
}

/// Puts a row's fields into a record. `answer`: what the row's conversation ends with.
pub(super) fn fill(record: &mut Prediction, row: Row, answer: Option<&str>) {
    // Of a question with options these say which is right, and its conversation in which words.
    const WITHOUT_OPTIONS: &[&str] = &["answer", "label"];
    let mut row = row;
    if let Some(people) = row.remove("answers").filter(|answers| !answers.is_null()) {
        row.entry("references").or_insert(people);
    }
    let says = |key: &str| row.get(key).or_else(|| row.get("meta")?.get(key)).is_some_and(|value| !value.is_null());
    let is_choice = OPTIONS.iter().any(|key| says(key));
    let mut known = ["references", "reference"].iter().chain(WITHOUT_OPTIONS.iter().filter(|_| !is_choice));
    if !known.any(|key| says(key)) {
        row.extend(answer.map(|answer| ("references".to_owned(), Value::from(vec![answer]))));
    }
    for (key, value) in row {
        match key.as_str() {
            "id" | "messages" | "conversations" | "predicted_label" | "rewards" => {}
            "dataset_name" => {
                if let (true, Some(name)) = (record.dataset_name.is_empty(), value.as_str()) {
                    record.dataset_name = name.to_owned();
                }
            }
            "label" => record.label = Some(value),
            "meta" => record.meta = Some(value),
            _ => drop(record.rest.insert(key, value)),
        }
    }
}

/// What the conversation of a row ends with.
fn last_answer(row: &Row) -> Option<String> {
    let speaks = |turn: &Value| {
        let role = turn.get("role").or_else(|| turn.get("from")).and_then(Value::as_str);
        matches!(role, Some("assistant" | "bot" | "gpt"))
    };
    let words = |turn: &Value| {
        let content = turn.get("content").or_else(|| turn.get("value")).unwrap_or(turn);
        Some(with_calls(&super::words(content), turn.get("tool_calls"))).filter(|words| !words.is_empty())
    };
    let of = |key: &str| match row.get(key)? {
        Value::Array(turns) => turns.last().filter(|turn| speaks(turn)).and_then(words),
        one => words(one),
    };
    ["answer_w", "chosen", "conversations", "messages", "output"].into_iter().find_map(of)
}
