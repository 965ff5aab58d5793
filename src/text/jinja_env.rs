//! The Jinja environment that Hugging Face's chat templates are written for.

use super::jinja::{date, filters, json, methods, python};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value, escape_formatter, syntax::SyntaxConfig};
use std::borrow::Cow;
use std::time::SystemTime;

/// The name under which a template's source is stored.
pub(super) const TEMPLATE: &str = "chat";

/// Instructions that one rendering may take. A template comes with a checkpoint and may loop for ever; a conversation of
/// a thousand turns takes about a hundred thousand.
const INSTRUCTIONS: u64 = 10_000_000;

/// Compiles a template with trimmed blocks, loop controls, values printed as Python prints them, Python's methods,
/// `raise_exception`, `tojson` without HTML escapes and `strftime_now`.
pub(super) fn environment(source: String) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_fuel(Some(INSTRUCTIONS));
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_formatter(print);
    env.set_unknown_method_callback(methods::call);
    filters::register(&mut env);
    env.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", |format: String| date::strftime(&format, SystemTime::now()));
    env.add_filter("tojson", json::to_json);
    env.add_filter(GENERATION, between_marks);
    env.add_template_owned(TEMPLATE, source)?;
    Ok(env)
}

/// What `{{ … }}` writes.
fn print(out: &mut Output, state: &mut State, value: &Value) -> Result<(), Error> {
    if python::is_written_otherwise(value) {
        return Ok(out.write_str(&python::display(value)?)?);
    }
    escape_formatter(out, state, value)
}

/// What a `{% generation %}` block is made of: a filter, and the variable that holds its two marks.
pub(super) const GENERATION: &str = "__generation_block";

/// A generation block's text between the two marks of this rendering.
fn between_marks(state: &State, text: Cow<'_, str>) -> String {
    let marks = state.lookup(GENERATION);
    let marks = marks.as_ref().and_then(Value::as_str).unwrap_or_default();
    let close = marks.char_indices().nth(1).map_or(marks.len(), |(at, _)| at);
    [&marks[..close], &text, &marks[close..]].concat()
}

/// A JSON value as Jinja sees it.
pub(super) fn to_value(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(flag) => Value::from(*flag),
        serde_json::Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(n), _) => Value::from(n),
            (None, Some(n)) => Value::from(n),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => Value::from(items.iter().map(to_value).collect::<Vec<_>>()),
        serde_json::Value::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(name, field)| (name.as_str(), to_value(field))))
        }
    }
}
