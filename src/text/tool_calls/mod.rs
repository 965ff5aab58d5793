//! Tool calls out of the text of an answer, in the formats that models write.

mod stream;
#[cfg(test)]
mod tests;

use super::ToolCall;
use serde_json::{Map, Value};
use thiserror::Error;

pub use stream::ToolText;

/// Why an answer's calls cannot be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum ToolCallError {
    /// Nothing in it looks like a call.
    #[error("the answer calls no tool")]
    NoCall,
    /// A call is no JSON.
    #[error("call {number} is no JSON: {reason}")]
    Json {
        /// Which call, from 1.
        number: usize,
        /// What the parser says.
        reason: String,
    },
    /// A call is JSON of another shape.
    #[error("call {number}: {what}")]
    Shape {
        /// Which call, from 1.
        number: usize,
        /// What is wrong.
        what: &'static str,
    },
}

/// Reads the calls of an answer. The formats, told apart by what is there:
/// - OpenAI's: an object with `tool_calls`, a list of `{"type": "function", "function": {"name", "arguments"}}`, whose arguments are
///   JSON in a string or an object;
/// - Hermes' and Qwen's: `<tool_call>{"name", "arguments"}</tool_call>`, any number of times within other text; a last block may
///   lack its end, which a stop token may have been;
/// - Mistral's: `[TOOL_CALLS]` before a list of `{"name", "arguments"}`, or before `name[ARGS]{…}` or `name{…}`, repeated for several;
/// - Llama 3's: `{"name", "parameters"}` and nothing else, after `<|python_tag|>` or not, several with `;` between them. A bare
///   list of calls is read as well.
///
/// # Errors
/// [`ToolCallError`]; of several calls all must be sound.
pub fn parse_tool_calls(text: &str) -> Result<Vec<ToolCall>, ToolCallError> {
    let text = text.trim();
    let calls = if text.contains("<tool_call>") {
        hermes(text)?
    } else if let Some((_, calls)) = text.split_once("[TOOL_CALLS]") {
        mistral(calls)?
    } else {
        bare(text)?
    };
    if calls.is_empty() { Err(ToolCallError::NoCall) } else { Ok(calls) }
}

fn hermes(text: &str) -> Result<Vec<ToolCall>, ToolCallError> {
    let blocks = text.split("<tool_call>").skip(1).enumerate();
    let read = |(i, block): (usize, &str)| {
        let inner = block.split_once("</tool_call>").map_or(block, |(inner, _)| inner);
        call(&json(i + 1, inner)?, i + 1)
    };
    blocks.map(read).collect()
}

fn mistral(text: &str) -> Result<Vec<ToolCall>, ToolCallError> {
    if text.trim_start().starts_with('[') {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
        let list = values.next().unwrap_or(Ok(Value::Null)).map_err(|error| broken(1, &error))?;
        return list.as_array().map_or(Ok(Vec::new()), |list| all(list));
    }
    let blocks = text.split("[TOOL_CALLS]").enumerate();
    let read = |(i, block): (usize, &str)| {
        let (name, arguments) = match block.split_once("[ARGS]") {
            Some(parts) => parts,
            None => block.split_at(block.find('{').unwrap_or(block.len())),
        };
        // Newer models put an id between both.
        let name = name.split("[CALL_ID]").next().unwrap_or_default().trim();
        if name.is_empty() {
            return Err(ToolCallError::Shape { number: i + 1, what: "there is no name before its arguments" });
        }
        let mut values = serde_json::Deserializer::from_str(arguments).into_iter::<Value>();
        let arguments = values.next().unwrap_or(Ok(Value::Null)).map_err(|error| broken(i + 1, &error))?;
        Ok(ToolCall::new(name, object(arguments, i + 1)?))
    };
    blocks.map(read).collect()
}

fn bare(text: &str) -> Result<Vec<ToolCall>, ToolCallError> {
    let tagged = text.strip_prefix("<|python_tag|>");
    let text = tagged.unwrap_or(text).trim();
    let text = ["<|eom_id|>", "<|eot_id|>"].iter().fold(text, |text, end| text.strip_suffix(end).unwrap_or(text));
    if tagged.is_none() && !text.starts_with(['{', '[']) {
        return Err(ToolCallError::NoCall);
    }
    let mut calls = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let number = calls.len() + 1;
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let Some(value) = values.next() else { break };
        let value = value.map_err(|error| broken(number, &error))?;
        rest = rest[values.byte_offset()..].trim_start();
        if let Some(after) = rest.strip_prefix(';') {
            rest = after.trim_start();
        } else if !rest.is_empty() {
            return Err(ToolCallError::Shape { number, what: "other text follows it" });
        }
        match &value {
            Value::Array(list) => calls.extend(all(list)?),
            Value::Object(map) if map.contains_key("tool_calls") => match &map["tool_calls"] {
                Value::Array(list) => calls.extend(all(list)?),
                Value::Null => {}
                _ => return Err(ToolCallError::Shape { number, what: "`tool_calls` is no list" }),
            },
            value => calls.push(call(value, number)?),
        }
    }
    Ok(calls)
}

fn json(number: usize, text: &str) -> Result<Value, ToolCallError> {
    serde_json::from_str(text.trim()).map_err(|error| broken(number, &error))
}

fn broken(number: usize, error: &serde_json::Error) -> ToolCallError {
    ToolCallError::Json { number, reason: error.to_string() }
}

fn all(list: &[Value]) -> Result<Vec<ToolCall>, ToolCallError> {
    list.iter().enumerate().map(|(i, value)| call(value, i + 1)).collect()
}

/// A call out of its object, in which everything may lie one `function` deeper.
fn call(value: &Value, number: usize) -> Result<ToolCall, ToolCallError> {
    let shape = |what| ToolCallError::Shape { number, what };
    let outer = value.as_object().ok_or_else(|| shape("it is no object"))?;
    let inner = outer.get("function").and_then(Value::as_object).unwrap_or(outer);
    let name = inner.get("name").and_then(Value::as_str).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| shape("it has no `name`"))?.to_owned();
    let arguments = inner.get("arguments").or_else(|| inner.get("parameters"));
    let arguments = arguments.ok_or_else(|| shape("it has neither `arguments` nor `parameters`"))?;
    Ok(ToolCall::new(name, object(arguments.clone(), number)?))
}

/// Arguments as an object, also where that is written as JSON in a string; an empty string or null is no arguments.
fn object(arguments: Value, number: usize) -> Result<Value, ToolCallError> {
    match arguments {
        Value::Object(_) => Ok(arguments),
        Value::Null => Ok(Value::Object(Map::new())),
        Value::String(text) if text.trim().is_empty() => Ok(Value::Object(Map::new())),
        Value::String(text) => match json(number, &text)? {
            object @ Value::Object(_) => Ok(object),
            _ => Err(ToolCallError::Shape { number, what: "its arguments are no object" }),
        },
        _ => Err(ToolCallError::Shape { number, what: "its arguments are no object" }),
    }
}
