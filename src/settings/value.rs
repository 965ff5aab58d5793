//! Values at run time: the same kinds, for JSON and for what was typed on the command line.

use serde_json::Value;

use super::kind::{Kind, Shape};
use super::literal::Literal;

impl Kind {
    /// The value as it is kept, or nothing where it is not allowed.
    ///
    /// Numbers become floats, so that `1` and `1.0` are the same setting; where a list is expected
    /// and nothing else, one text is a list of one.
    pub(super) fn normalize(&self, value: &Value) -> Option<Value> {
        let value = match (self.shape, value) {
            (Shape::Number { .. }, Value::Number(number)) => Value::from(number.as_f64()?),
            (Shape::List | Shape::Choices(_), Value::String(_)) => Value::Array(vec![value.clone()]),
            _ => value.clone(),
        };
        self.admits(&value).then_some(value)
    }

    /// Reads what was typed after `--set key=`.
    ///
    /// `none` and `null` leave a parameter open that allows it. A list is written with commas or as
    /// JSON.
    pub(super) fn parse(&self, text: &str) -> Option<Value> {
        if self.nullable && matches!(text, "none" | "None" | "null") {
            return Some(Value::Null);
        }
        let value = match self.shape {
            Shape::Integer { .. } => Value::from(text.parse::<i64>().ok()?),
            Shape::Number { .. } => Value::from(text.parse::<f64>().ok()?),
            Shape::Bool => Value::from(text.parse::<bool>().ok()?),
            Shape::List | Shape::Choices(_) | Shape::ListOrText if text.starts_with('[') => {
                serde_json::from_str(text).ok()?
            }
            Shape::List | Shape::Choices(_) if text.is_empty() => Value::Array(Vec::new()),
            Shape::List | Shape::Choices(_) => Value::from_iter(text.split(',').map(str::trim)),
            Shape::ListOrText if text.contains(',') => Value::from_iter(text.split(',').map(str::trim)),
            Shape::Text | Shape::Choice(_) | Shape::ListOrText => Value::from(text),
        };
        self.normalize(&value)
    }

    fn admits(&self, value: &Value) -> bool {
        let literal = match value {
            Value::Null => Literal::None,
            Value::Bool(value) => Literal::Bool(*value),
            Value::String(text) => Literal::Text(text),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(n), _) => Literal::Integer(n.into()),
                (_, Some(n)) => Literal::Integer(n.into()),
                _ => number.as_f64().map_or(Literal::Other, Literal::Number),
            },
            Value::Array(items) => {
                let texts: Option<Vec<&str>> = items.iter().map(Value::as_str).collect();
                return match texts {
                    Some(texts) => self.accepts(&Literal::Texts(&texts)),
                    None => false,
                };
            }
            Value::Object(_) => Literal::Other,
        };
        self.accepts(&literal)
    }
}
