//! What a metric is asked about: one record with what was generated for it and what was expected.

use serde_json::Value;

/// One record with its generations and whatever it is judged by.
///
/// A metric reads the fields it needs and refuses a record that lacks one ([`super::MetricError::Missing`]), naming it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Judged {
    /// The record's id, for messages and for pairing two files.
    pub id: String,
    /// The last thing that was asked.
    pub question: String,
    /// What was generated, one entry per answer.
    pub answers: Vec<Generated>,
    /// The answers that count as right.
    pub references: Vec<String>,
    /// The class, letter or word that is right.
    pub label: Option<String>,
    /// The options of a multiple-choice question, or the documents of a retrieval.
    pub candidates: Vec<Candidate>,
    /// Mean log-probability of the right answer without any document, in nats; what [`super::utility`] compares with.
    pub baseline: Option<f64>,
    /// The functions that may be called.
    pub tools: Vec<Tool>,
}

/// One generated answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    /// Its text, without special tokens that end a turn.
    pub text: String,
    /// Log-probability of each of its tokens, in nats.
    pub log_probs: Option<Vec<f64>>,
    /// The same tokens' log-probabilities under the model that it is compared with, in nats.
    pub reference_log_probs: Option<Vec<f64>>,
}

/// One option or document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Candidate {
    /// Its text.
    pub text: String,
    /// How much the model prefers it: a log-likelihood in nats (summed over tokens) or a retrieval's score.
    pub score: Option<f64>,
    /// How right it is; 0 is wrong.
    pub relevance: f64,
}

/// A function that a model may call.
#[derive(Clone, Debug, PartialEq)]
pub struct Tool {
    /// Its name.
    pub name: String,
    /// JSON schema of its arguments.
    pub parameters: Value,
}

impl Judged {
    /// A record with one answer and its references.
    pub fn new(id: impl Into<String>, answer: impl Into<String>, references: &[&str]) -> Self {
        Self {
            id: id.into(),
            answers: vec![Generated::new(answer)],
            references: references.iter().map(|&text| text.to_owned()).collect(),
            ..Self::default()
        }
    }
}

impl Generated {
    /// A text alone.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

impl Tool {
    /// Reads one entry of a `tools` list: `{"type": "function", "function": {"name", "parameters"}}`, or its inner object alone.
    /// Without `parameters` the function takes any arguments.
    pub fn from_json(value: &Value) -> Option<Self> {
        let function = value.get("function").unwrap_or(value);
        let name = function.get("name")?.as_str()?.to_owned();
        let parameters = function.get("parameters").or_else(|| function.get("input_schema"));
        Some(Self { name, parameters: parameters.cloned().unwrap_or(Value::Bool(true)) })
    }
}
