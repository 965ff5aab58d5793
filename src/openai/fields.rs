//! Reading an object's fields one by one, so that every complaint names its field.

use serde_json::{Map, Value};

use super::error::{RequestError, shortened, shown};
use crate::settings::hint;

/// Fields that no answer depends on: accepted, not looked at.
pub const HARMLESS: &[&str] = &[
    "cache_salt",
    "metadata",
    "prediction",
    "priority",
    "prompt_cache_key",
    "prompt_cache_retention",
    "request_id",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
];

/// Fields accepted with one value only (JSON), which asks for what happens anyway. Others may choose differently.
pub const NEUTRAL: &[(&str, &str)] = &[
    ("add_generation_prompt", "true"),
    ("add_special_tokens", "true"),
    ("audio", "null"),
    ("best_of", "1"),
    ("chat_template_kwargs", "{}"),
    ("continue_final_message", "false"),
    ("detokenize", "true"),
    ("documents", "[]"),
    ("function_call", "\"none\""),
    ("functions", "[]"),
    ("include_reasoning", "true"),
    ("include_stop_str_in_output", "false"),
    ("length_penalty", "1"),
    ("logit_bias", "{}"),
    ("modalities", "[\"text\"]"),
    ("parallel_tool_calls", "true"),
    ("response_format", "{\"type\":\"text\"}"),
    ("skip_special_tokens", "true"),
    ("spaces_between_special_tokens", "true"),
    ("suffix", "\"\""),
    ("use_beam_search", "false"),
];

/// The fields of an object that have not been read yet.
pub(super) struct Fields {
    map: Map<String, Value>,
    /// `messages[0].`, or nothing at the top.
    prefix: String,
    /// The names that were asked for, for the hint about an unknown one.
    asked: Vec<&'static str>,
}

impl Fields {
    /// The fields of `value`, which stands at `path`.
    pub fn new(value: Value, path: &str) -> Result<Self, RequestError> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        match value {
            Value::Object(map) => Ok(Self { map, prefix, asked: Vec::new() }),
            other if path.is_empty() => Err(RequestError::Json { reason: format!("it is {}", shown(&other)) }),
            other => Err(RequestError::wrong(path, "an object", &other)),
        }
    }

    /// Where the field `name` stands.
    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The value of a field that is there and not `null`.
    pub fn take(&mut self, name: &'static str) -> Option<Value> {
        self.asked.push(name);
        self.map.swap_remove(name).filter(|value| !value.is_null())
    }

    /// As [`take`](Self::take), of a field that must be there.
    pub fn need(&mut self, name: &'static str, expected: &str) -> Result<Value, RequestError> {
        let missing = || RequestError::Missing { field: self.path(name), expected: expected.to_owned() };
        let missing = missing();
        self.take(name).ok_or(missing)
    }

    pub fn text(&mut self, name: &'static str) -> Result<Option<String>, RequestError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(RequestError::wrong(self.path(name), "a string", &other)),
        }
    }

    pub fn flag(&mut self, name: &'static str) -> Result<Option<bool>, RequestError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(other) => Err(RequestError::wrong(self.path(name), "true or false", &other)),
        }
    }

    /// A number in a closed range.
    pub fn number(&mut self, name: &'static str, low: f64, high: f64) -> Result<Option<f64>, RequestError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match value.as_f64() {
            Some(number) if (low..=high).contains(&number) => Ok(Some(number)),
            _ if high == f64::MAX => {
                Err(RequestError::wrong(self.path(name), format!("a number of at least {low}"), &value))
            }
            _ => Err(RequestError::wrong(self.path(name), format!("a number from {low} to {high}"), &value)),
        }
    }

    /// A whole number in a closed range. `2.0` is one: some clients have no other numbers.
    pub fn integer(&mut self, name: &'static str, low: i64, high: i64) -> Result<Option<i64>, RequestError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        match whole(&value) {
            Some(number) if (low..=high).contains(&number) => Ok(Some(number)),
            _ => {
                let range = match high {
                    i64::MAX => format!("a whole number of at least {low}"),
                    _ => format!("a whole number from {low} to {high}"),
                };
                Err(RequestError::wrong(self.path(name), range, &value))
            }
        }
    }

    /// A count that fits in a `u32`.
    pub fn count(&mut self, name: &'static str, low: u32) -> Result<Option<u32>, RequestError> {
        let found = self.integer(name, low.into(), u32::MAX.into())?;
        Ok(found.map(|count| u32::try_from(count).unwrap_or(u32::MAX)))
    }

    /// A list of strings, or one string.
    pub fn texts(&mut self, name: &'static str) -> Result<Vec<String>, RequestError> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text]),
            Some(Value::Array(items)) => {
                let path = self.path(name);
                let text = |(i, item)| match item {
                    Value::String(text) => Ok(text),
                    other => Err(RequestError::wrong(format!("{path}[{i}]"), "a string", &other)),
                };
                items.into_iter().enumerate().map(text).collect()
            }
            Some(other) => Err(RequestError::wrong(self.path(name), "a string or a list of strings", &other)),
        }
    }

    /// A list.
    pub fn list(&mut self, name: &'static str) -> Result<Vec<Value>, RequestError> {
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::Array(items)) => Ok(items),
            Some(other) => Err(RequestError::wrong(self.path(name), "a list", &other)),
        }
    }

    /// A list of token ids.
    pub fn token_ids(&mut self, name: &'static str) -> Result<Vec<u32>, RequestError> {
        let path = self.path(name);
        token_ids(self.list(name)?, &path)
    }

    fn hint(&self, name: &str) -> String {
        /// Comparing takes as long as the product of the lengths.
        const LONGEST: usize = 64;
        if name.len() > LONGEST { String::new() } else { hint(name, self.asked.iter().copied()) }
    }

    /// Refuses what has not been read: fields whose value is not the neutral one, and unknown fields.
    pub fn finish(mut self) -> Result<(), RequestError> {
        for (name, value) in std::mem::take(&mut self.map) {
            if value.is_null() || HARMLESS.contains(&name.as_str()) {
                continue;
            }
            let field = shortened(self.path(&name));
            let Some((_, neutral)) = NEUTRAL.iter().find(|(known, _)| *known == name) else {
                let hint = self.hint(&name);
                return Err(RequestError::Unknown { field, hint });
            };
            if !same(&value, neutral) {
                let advice = match *neutral {
                    "null" => "leave it out".to_owned(),
                    neutral => format!("leave it out or give {neutral}"),
                };
                return Err(RequestError::Unsupported { field, found: shown(&value), advice });
            }
        }
        Ok(())
    }

    /// As [`finish`](Self::finish) for objects inside a request, where the lists of the request's own fields mean nothing:
    /// what has not been read must be empty (`"refusal": null`, `"annotations": []`).
    pub fn finish_inner(self) -> Result<(), RequestError> {
        let is_empty = |value: &Value| match value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty(),
            _ => false,
        };
        match self.map.iter().find(|(_, value)| !is_empty(value)) {
            None => Ok(()),
            Some((name, _)) => {
                let hint = self.hint(name);
                Err(RequestError::Unknown { field: shortened(self.path(name)), hint })
            }
        }
    }
}

/// Token ids out of a list that stands at `path`.
pub(super) fn token_ids(items: Vec<Value>, path: &str) -> Result<Vec<u32>, RequestError> {
    let id = |(i, item): (usize, Value)| {
        let id = whole(&item).and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| RequestError::wrong(format!("{path}[{i}]"), "a token id", &item))
    };
    items.into_iter().enumerate().map(id).collect()
}

fn whole(value: &Value) -> Option<i64> {
    /// Beyond it a float has no digits behind the comma, and may have lost some in front.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    let from_float = || value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() <= EXACT);
    value.as_i64().or_else(|| from_float().map(|number| number as i64))
}

/// Whether a value is the neutral one; `1` and `1.0` are the same number.
fn same(value: &Value, neutral: &str) -> bool {
    let Ok(neutral) = serde_json::from_str::<Value>(neutral) else { return false };
    match (value.as_f64(), neutral.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => *value == neutral,
    }
}
