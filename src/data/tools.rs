//! Functions that may be called, and calls of them.

use serde_json::{Value, json};

use super::row::{self, Row};
use super::{DataError, Place, RecordError};
use crate::text::ToolCall;

/// The functions of the row's `tools`: a list of JSON schemas, or a string of JSON that is one, as columns of tables hold
/// them. A schema that is not wrapped yet (`{"name", "parameters", …}`) is wrapped as `{"type": "function", "function": …}`.
///
/// # Errors
/// [`DataError::WrongType`], [`RecordError::Json`].
pub fn tools(row: &Row, place: &Place) -> Result<Vec<Value>, DataError> {
    const KEY: &str = "tools";
    let elements = match row::given(row, KEY) {
        None => return Ok(Vec::new()),
        Some(Value::String(text)) if text.trim().is_empty() => return Ok(Vec::new()),
        Some(Value::String(text)) => parse(text, KEY, place)?,
        Some(value) => value.clone(),
    };
    let Value::Array(elements) = elements else {
        return Err(row::wrong_type(place, KEY, "a list of functions", &elements));
    };
    elements
        .into_iter()
        .enumerate()
        .map(|(i, element)| match &element {
            Value::Object(fields) if row::given(fields, "function").is_some() => Ok(element),
            Value::Object(fields) if fields.contains_key("name") => {
                Ok(json!({"type": "function", "function": element}))
            }
            other => Err(row::wrong_type(place, format!("{KEY}[{i}]"), "a function with a `name`", other)),
        })
        .collect()
}

/// The `tool_calls` of a message.
pub(super) fn calls(message: &Row, path: &str, place: &Place) -> Result<Vec<ToolCall>, DataError> {
    let path = format!("{path}.tool_calls");
    match row::given(message, "tool_calls") {
        None => Ok(Vec::new()),
        Some(Value::Array(calls)) => {
            calls.iter().enumerate().map(|(i, call)| one_call(call, &format!("{path}[{i}]"), place)).collect()
        }
        Some(other) => Err(row::wrong_type(place, path, "a list of calls", other)),
    }
}

/// The calls that a string of JSON holds, one or a list of them: `{"name", "arguments"}`.
pub(in crate::data) fn written_calls(text: &str, path: &str, place: &Place) -> Result<Vec<ToolCall>, DataError> {
    match parse(text, path, place)? {
        Value::Array(calls) => {
            calls.iter().enumerate().map(|(i, call)| one_call(call, &format!("{path}[{i}]"), place)).collect()
        }
        call => Ok(vec![one_call(&call, path, place)?]),
    }
}

fn one_call(call: &Value, path: &str, place: &Place) -> Result<ToolCall, DataError> {
    let expected = "a call: {\"function\": {\"name\", \"arguments\"}}";
    let outer = call.as_object().ok_or_else(|| row::wrong_type(place, path, expected, call))?;
    let inner = match row::given(outer, "function") {
        None => outer,
        Some(Value::Object(inner)) => inner,
        Some(other) => return Err(row::wrong_type(place, format!("{path}.function"), expected, other)),
    };
    let name = row::string(inner, "name", || format!("{path}.name"), place)?;
    let arguments = match row::given(inner, "arguments") {
        None => json!({}),
        Some(arguments @ (Value::Object(_) | Value::String(_))) => arguments.clone(),
        Some(other) => {
            return Err(row::wrong_type(place, format!("{path}.arguments"), "an object or a string of JSON", other));
        }
    };
    let id = row::optional_text(outer, "id", || format!("{path}.id"), place)?;
    Ok(ToolCall { id: id.map(str::to_owned), ..ToolCall::new(name, arguments) })
}

fn parse(text: &str, field: &str, place: &Place) -> Result<Value, DataError> {
    serde_json::from_str(text)
        .map_err(|error| RecordError::Json { field: field.to_owned(), detail: error.to_string() }.at(place))
}
