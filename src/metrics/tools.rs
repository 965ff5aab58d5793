//! Whether an answer calls tools as it should.

use super::{Asked, Better, Generated, Judged, Measured, MetricError, Statistics, TextMetric};
use crate::text::{ToolCall, parse_tool_calls};
use serde_json::Value;

/// What an answer must fulfil; each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolCheck {
    /// It holds at least one call, and every call can be read ([`parse_tool_calls`]).
    Readable,
    /// Every function that it calls is one of the record's tools.
    KnownName,
    /// Every call's arguments satisfy that tool's JSON schema, checked by the `jsonschema` crate: the draft that the schema names, or
    /// 2020-12. A `format` is a note, as the standard has it; a reference to another document is refused.
    Arguments,
    /// It makes the very calls of one of the references, in their order. Numbers are equal by value, the order of keys is free.
    Matches,
}

/// Share of the answers that fulfil a [`ToolCheck`], as a metric. An answer without any call fulfils none.
#[derive(Clone, Debug)]
pub struct ToolCalls {
    name: String,
    check: ToolCheck,
}

impl ToolCalls {
    /// The metric `name`.
    pub fn new(name: impl Into<String>, check: ToolCheck) -> Self {
        Self { name: name.into(), check }
    }

    /// What the record must have for this check, whatever the answer is: so that it is missed before any answer is there.
    fn require(&self, asked: &Asked<'_>) -> Result<(), MetricError> {
        match self.check {
            ToolCheck::Readable => {}
            ToolCheck::KnownName => drop(tools(asked)?),
            ToolCheck::Arguments => {
                for tool in tools(asked)? {
                    validator(asked, &tool.name, &tool.parameters)?;
                }
            }
            ToolCheck::Matches => drop(asked.references()?),
        }
        Ok(())
    }

    fn fulfils(&self, asked: &Asked<'_>, answer: &Generated) -> Result<bool, MetricError> {
        let Ok(calls) = parse_tool_calls(&answer.text) else { return Ok(false) };
        match self.check {
            ToolCheck::Readable => Ok(true),
            ToolCheck::KnownName => {
                let tools = tools(asked)?;
                Ok(calls.iter().all(|call| tools.iter().any(|tool| tool.name == call.name)))
            }
            ToolCheck::Arguments => {
                for call in &calls {
                    let Some(tool) = tools(asked)?.iter().find(|tool| tool.name == call.name) else { return Ok(false) };
                    if !satisfies(&call.arguments, asked, &tool.name, &tool.parameters)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            ToolCheck::Matches => {
                let references = asked.references()?;
                Ok(references
                    .iter()
                    .filter_map(|text| parse_tool_calls(text).ok())
                    .any(|expected| same(&expected, &calls)))
            }
        }
    }
}

fn tools<'a>(asked: &Asked<'a>) -> Result<&'a [super::Tool], MetricError> {
    Some(&asked.sample.tools[..])
        .filter(|tools| !tools.is_empty())
        .ok_or_else(|| asked.missing("tool that may be called"))
}

fn satisfies(arguments: &Value, asked: &Asked<'_>, tool: &str, schema: &Value) -> Result<bool, MetricError> {
    Ok(validator(asked, tool, schema)?.is_valid(arguments))
}

fn validator(asked: &Asked<'_>, tool: &str, schema: &Value) -> Result<jsonschema::Validator, MetricError> {
    jsonschema::validator_for(schema).map_err(|error| MetricError::Schema {
        id: asked.sample.id.clone(),
        tool: tool.to_owned(),
        reason: error.to_string(),
    })
}

fn same(expected: &[ToolCall], calls: &[ToolCall]) -> bool {
    let equal = |(a, b): (&ToolCall, &ToolCall)| a.name == b.name && equal_values(&a.arguments, &b.arguments);
    expected.len() == calls.len() && expected.iter().zip(calls).all(equal)
}

/// Equality of JSON, in which 1 and 1.0 are the same number.
fn equal_values(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => x == y || x.as_f64() == y.as_f64(),
        (Value::Array(x), Value::Array(y)) => x.len() == y.len() && x.iter().zip(y).all(|(a, b)| equal_values(a, b)),
        (Value::Object(x), Value::Object(y)) => {
            x.len() == y.len() && x.iter().all(|(key, a)| y.get(key).is_some_and(|b| equal_values(a, b)))
        }
        _ => a == b,
    }
}

impl TextMetric for ToolCalls {
    fn name(&self) -> &str {
        &self.name
    }

    fn better(&self) -> Better {
        Better::Higher
    }

    fn measure(&self, sample: &Judged) -> Result<Measured, MetricError> {
        let asked = Asked { metric: &self.name, sample };
        let answers = asked.answers()?;
        self.require(&asked)?;
        let mut hits = 0.0;
        for answer in answers {
            hits += f64::from(self.fulfils(&asked, answer)?);
        }
        let value = hits / answers.len() as f64;
        Ok(Measured { value: Some(value), statistics: Statistics::Sums(vec![value, 1.0]) })
    }
}
