//! Errors: of requests that cannot be obeyed, and as they travel.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Why a request cannot be obeyed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The body is not a JSON object.
    #[error("the body must be a JSON object: {reason}")]
    Json {
        /// What is wrong with it.
        reason: String,
    },
    /// A field has another type, or lies outside its range.
    #[error("`{field}` takes {expected}, not {found}")]
    Field {
        /// Where it stands: `messages[0].content[1].type`.
        field: String,
        /// What is allowed, in words.
        expected: String,
        /// What was sent, shortened.
        found: String,
    },
    /// A field that must be there.
    #[error("`{field}` is missing; it takes {expected}")]
    Missing {
        /// Its name.
        field: String,
        /// What is allowed, in words.
        expected: String,
    },
    /// A field that is not known: ignoring it could change results unnoticed.
    #[error("`{field}` is unknown{hint}; leave it out")]
    Unknown {
        /// Where it stands.
        field: String,
        /// ` (did you mean …?)`, or nothing.
        hint: String,
    },
    /// A known field with a value that asks for something which is not done here.
    #[error("`{field}`: {found} is not supported; {advice}")]
    Unsupported {
        /// Where it stands.
        field: String,
        /// What was sent, shortened.
        found: String,
        /// What to do.
        advice: String,
    },
}

impl RequestError {
    /// The field that is at fault, for the error's `param`.
    pub fn field(&self) -> Option<&str> {
        match self {
            Self::Json { .. } => None,
            Self::Field { field, .. }
            | Self::Missing { field, .. }
            | Self::Unknown { field, .. }
            | Self::Unsupported { field, .. } => Some(field),
        }
    }

    pub(super) fn wrong(field: impl Into<String>, expected: impl Into<String>, found: &Value) -> Self {
        Self::Field { field: field.into(), expected: expected.into(), found: shown(found) }
    }
}

/// A value as messages show it: whole where it is short.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".to_owned(),
        other => shortened(other.to_string()),
    }
}

/// A text as messages show it: nobody gets a megabyte back.
pub(super) fn shortened(text: String) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

/// The body of an answer that is an error: `{"error": {"message", "type", "param", "code"}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// The error itself.
    pub error: ErrorObject,
}

/// What went wrong, as OpenAI's clients read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorObject {
    /// A sentence for people.
    pub message: String,
    /// `invalid_request_error`, `authentication_error`, `rate_limit_error`, `server_error` …
    #[serde(rename = "type")]
    pub kind: String,
    /// The field at fault, where there is one.
    pub param: Option<String>,
    /// A word for programs, where there is one.
    pub code: Option<String>,
}

/// The sentence in an error's body, in the forms that servers use: OpenAI's, vLLM's older one (`message` at the top) and
/// FastAPI's (`detail`).
pub fn error_message(body: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    let error = &body["error"];
    let places = [&error["message"], error, &body["message"], &body["detail"]];
    let found = places.into_iter().find(|place| place.is_string() || place.is_array())?;
    Some(found.as_str().map_or_else(|| found.to_string(), str::to_owned))
}
