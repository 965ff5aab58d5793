//! A line of a prediction file: a record with what a model said of it, as turbo-alignment writes it.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// One record and what a model said of it.
///
/// Fields that are not named here are kept and written again.
///
/// ```
/// use firebrick::pipelines::Prediction;
///
/// let line = r#"{"id": 7, "dataset_name": "made", "messages": [], "answers": [{"id": "0", "content": "yes"}]}"#;
/// let prediction: Prediction = serde_json::from_str(line)?;
/// assert_eq!((prediction.id.as_str(), prediction.answers[0].content.as_str()), ("7", "yes"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// The record's id; numbers are read as their digits.
    #[serde(deserialize_with = "word")]
    pub id: String,
    /// Which data set it is of.
    #[serde(default)]
    pub dataset_name: String,
    /// The turns that the model was shown, `{"role", "content"}` each, as data files have them.
    #[serde(default)]
    pub messages: Vec<Value>,
    /// What is right: a class, a letter, a text, or several of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<Value>,
    /// What the record says besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Value>,
    /// What the model said.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answers: Vec<PredictedAnswer>,
    /// The class that a classifier took it for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted_label: Option<Value>,
    /// What a reward model gave each answer, by the answer's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewards: Option<BTreeMap<String, f64>>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// One answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PredictedAnswer {
    /// Its name within the record: its number, counted from 0, where nobody gave it another.
    #[serde(deserialize_with = "word")]
    pub id: String,
    /// Its words.
    pub content: String,
    /// What the search thought of it: the log-probability of the whole in nats, with beams after the length penalty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence_score: Option<f64>,
    /// The log-probability of each of its tokens, in nats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<f64>>,
    /// Everything else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl PredictedAnswer {
    /// Its words and behind them its `tool_calls`, as a model writes them: `<tool_call>{"name", "arguments"}</tool_call>`. Engines
    /// take calls out of the words; whoever judges an answer needs them.
    ///
    /// ```
    /// use firebrick::pipelines::PredictedAnswer;
    /// use firebrick::text::parse_tool_calls;
    ///
    /// let written = r#"{"id": "0", "content": "I look.", "tool_calls":
    ///     [{"type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}]}"#;
    /// let answer: PredictedAnswer = serde_json::from_str(written)?;
    /// assert_eq!(parse_tool_calls(&answer.said())?[0].name, "look");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn said(&self) -> String {
        with_calls(&self.content, self.rest.get("tool_calls"))
    }
}

/// Words with calls behind them; `calls` is a message's `tool_calls`.
pub(crate) fn with_calls(words: &str, calls: Option<&Value>) -> String {
    const START: &str = "<tool_call>";
    let mut said = words.to_owned();
    if words.contains(START) {
        // They stand there already.
        return said;
    }
    for call in calls.and_then(Value::as_array).into_iter().flatten() {
        let call = call.get("function").unwrap_or(call);
        // OpenAI's are JSON in a string.
        let read = call["arguments"].as_str().and_then(|text| serde_json::from_str(text).ok());
        let arguments: Value = read.unwrap_or_else(|| call["arguments"].clone());
        let mut call = serde_json::json!({"name": call["name"], "arguments": arguments}).to_string();
        if call.contains("tool_call>") {
            // In a string of the arguments, where it would end the call.
            call = call.replace('<', "\\u003c");
        }
        if !said.is_empty() {
            said.push('\n');
        }
        said.push_str(&format!("{START}{call}</tool_call>"));
    }
    said
}

/// A text, or the digits of a number.
fn word<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    match Value::deserialize(from)? {
        Value::String(text) => Ok(text),
        Value::Number(number) => Ok(number.to_string()),
        other => Err(serde::de::Error::custom(format!("an id is a text or a number, and not {other}"))),
    }
}
