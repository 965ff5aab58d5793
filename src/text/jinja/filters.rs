//! Jinja2's filters, tests and functions that minijinja lacks or has otherwise.

use super::python::{self, center, display, indentation, or_named, refusal};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Environment, Error, State, Value, filters};
use regex::Regex;
use std::borrow::Cow;
use std::sync::LazyLock;

/// Adds them to an environment.
pub(in crate::text) fn register(env: &mut Environment) {
    // In Jinja2 what is undefined is empty.
    let length = |value: &Value| if value.is_undefined() { Ok(0) } else { filters::length(value) };
    env.add_filter("length", length);
    env.add_filter("count", length);
    env.add_filter("string", |value: &Value| display(value));
    env.add_filter("escape", escape);
    env.add_filter("e", escape);
    env.add_filter("trim", |text: Cow<'_, str>, chars: Option<&str>| match chars {
        Some(chars) => text.trim_matches(|c| chars.contains(c)).to_owned(),
        None => text.trim_matches(python::is_space).to_owned(),
    });
    env.add_filter("indent", indent);
    env.add_filter(
        "replace",
        |text: Cow<'_, str>, old: Cow<'_, str>, new: Cow<'_, str>, count: Option<i64>| match count
            .and_then(|count| usize::try_from(count).ok())
        {
            Some(count) => text.replacen(&*old, &new, count),
            None => text.replace(&*old, &new),
        },
    );
    env.add_filter("center", |text: Cow<'_, str>, width: Option<i64>| center(&text, width.unwrap_or(80), " "));
    env.add_filter("truncate", truncate);
    env.add_filter("urlencode", urlencode);
    env.add_filter("wordcount", |text: Cow<'_, str>| {
        static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").ok());
        WORD.as_ref().map_or(0, |word| word.find_iter(&text).count())
    });
    env.add_filter("int", |state: &State, value: &Value, default: Option<Value>, base: Option<u32>, named: Kwargs| {
        let default = default.or_else(|| (!named.has("default")).then(|| Value::from(0)));
        filters::int(state, value, default, base, named)
    });
    env.add_filter("float", |state: &State, value: &Value, default: Option<Value>, named: Kwargs| {
        let default = default.or_else(|| (!named.has("default")).then(|| Value::from(0.0)));
        filters::float(state, value, default, named)
    });
    // In Python nothing is not iterable, and what is undefined is.
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    // In Python a string is a sequence, too, and so is whatever has a length and items.
    env.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map)
    });
    // What is undefined has a `__call__`, too, if only to refuse.
    env.add_test("callable", |value: &Value| matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined));
    env.add_function("joiner", minijinja_contrib::globals::joiner);
    env.add_function("cycler", |items: Rest<Value>| minijinja_contrib::globals::cycler(items.0));
}

/// `escape`, as markupsafe writes it.
fn escape(value: &Value) -> Result<Value, Error> {
    if value.is_safe() {
        return Ok(value.clone());
    }
    let text = display(value)?.replace('&', "&amp;").replace('>', "&gt;").replace('<', "&lt;");
    Ok(Value::from_safe_string(text.replace('\'', "&#39;").replace('"', "&#34;")))
}

/// `indent`: all lines but the first, and those that are empty, begin with `width`, a number of blanks or text.
fn indent(
    text: Cow<'_, str>,
    width: Option<Value>,
    first: Option<bool>,
    blank: Option<bool>,
    named: Kwargs,
) -> Result<String, Error> {
    let width = or_named(width, &named, "width")?;
    let first = or_named(first, &named, "first")?;
    let blank = or_named(blank, &named, "blank")?;
    named.assert_all_used()?;
    let by = width.map_or_else(|| Ok(" ".repeat(4)), |width| indentation(&width))?;
    let text = format!("{text}\n");
    let mut out = String::new();
    for (i, (line, _)) in python::lines(&text).into_iter().enumerate() {
        out.push_str(if i > 0 { "\n" } else { "" });
        let indented = if i == 0 { first == Some(true) } else { blank == Some(true) || !line.is_empty() };
        out.push_str(if indented { &by } else { "" });
        out.push_str(line);
    }
    Ok(out)
}

/// `truncate`: a text that is `leeway` longer than `length` is cut behind its last whole word.
fn truncate(
    text: Cow<'_, str>,
    length: Option<usize>,
    kill_words: Option<bool>,
    end: Option<String>,
    named: Kwargs,
) -> Result<String, Error> {
    let length = or_named(length, &named, "length")?.unwrap_or(255);
    let leeway = named.get::<Option<usize>>("leeway")?.unwrap_or(5);
    let kill_words = or_named(kill_words, &named, "killwords")?;
    let end = or_named(end, &named, "end")?;
    let end = end.unwrap_or_else(|| "...".to_owned());
    named.assert_all_used()?;
    let Some(kept) = length.checked_sub(end.chars().count()) else {
        return Err(refusal(format!("truncate: {end:?} is longer than {length} characters")));
    };
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(text.into_owned());
    }
    let cut: String = text.chars().take(kept).collect();
    let whole = cut.rfind(' ').filter(|_| kill_words != Some(true)).unwrap_or(cut.len());
    Ok(format!("{}{end}", &cut[..whole]))
}

/// `urlencode` of a string, as `urllib.parse.quote` writes it.
fn urlencode(value: &Value) -> Result<String, Error> {
    if matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
        return Err(refusal("urlencode: only a string can be quoted here"));
    }
    let quoted = |byte: u8| match byte {
        b'_' | b'.' | b'-' | b'~' | b'/' => char::from(byte).to_string(),
        byte if byte.is_ascii_alphanumeric() => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    Ok(display(value)?.bytes().map(quoted).collect())
}
