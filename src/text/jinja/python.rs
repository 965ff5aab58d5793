//! Values as Python writes them (`str` and `repr`), and what is white space to Python.

use minijinja::value::{ArgType, Kwargs, Tuple, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use regex::Regex;
use std::sync::LazyLock;

/// How deep lists and dictionaries may be nested where they are written. A template can put a namespace into itself.
const DEPTH: usize = 200;

/// How many bytes one written value or one padded string may take.
const BYTES: usize = 1 << 24;

/// Whether `str.strip` and `str.split` take a character for white space: also the four separator controls that Unicode's
/// White_Space leaves out.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `str.splitlines`, each line with what ends it.
pub(super) fn lines(text: &str) -> Vec<(&str, &str)> {
    let mut lines = Vec::new();
    let mut rest = text;
    let ends = |c: char| matches!(c, '\n'..='\r' | '\x1c'..='\x1e' | '\u{85}' | '\u{2028}' | '\u{2029}');
    while let Some(end) = rest.find(ends) {
        let break_len = match &rest[end..] {
            both if both.starts_with("\r\n") => 2,
            other => other.chars().next().map_or(0, char::len_utf8),
        };
        lines.push((&rest[..end], &rest[end..end + break_len]));
        rest = &rest[end + break_len..];
    }
    if !rest.is_empty() {
        lines.push((rest, ""));
    }
    lines
}

/// `fill` as often as it takes to make `text` `width` characters wide, `None` where it already is.
///
/// # Errors
/// Where that is more than a rendering may take.
pub(super) fn padding(text: &str, width: i64) -> Result<Option<usize>, Error> {
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
    check_size(missing)?;
    Ok((missing > 0).then_some(missing))
}

/// `str.center`, which puts the odd blank to the left where the width is odd.
pub(super) fn center(text: &str, width: i64, fill: &str) -> Result<String, Error> {
    let Some(missing) = padding(text, width)? else { return Ok(text.to_owned()) };
    let left = missing / 2 + (missing & 1 & usize::try_from(width).unwrap_or(0));
    Ok(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left)))
}

/// `repr` of a float.
pub(super) fn float(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() { "nan".to_owned() } else { x.to_string() };
    }
    let scientific = format!("{x:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    match exponent.parse::<i32>() {
        Ok(n) if !(-4..16).contains(&n) => format!("{digits}e{}{:02}", if n < 0 { '-' } else { '+' }, n.abs()),
        _ => format!("{x:?}"),
    }
}

/// The float that a value is.
pub(super) fn as_float(value: &Value) -> Option<f64> {
    (value.kind() == ValueKind::Number && !value.is_integer()).then(|| f64::try_from(value.clone()).ok()).flatten()
}

/// Whether minijinja does not write a value as Python does.
pub(in crate::text) fn is_written_otherwise(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Map) || as_float(value).is_some()
}

/// `str(value)`.
///
/// # Errors
/// Where the value is too large, too deep or invalid.
pub(in crate::text) fn display(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match value.as_str() {
        Some(text) => out.push_str(text),
        None => repr(value, 0, &mut out)?,
    }
    Ok(out)
}

fn repr(value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
    check_nesting(depth, out)?;
    match value.kind() {
        ValueKind::String => repr_text(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq => {
            let tuple = value.downcast_object_ref::<Tuple>().is_some();
            let (open, close) = if tuple { ('(', ')') } else { ('[', ']') };
            out.push(open);
            let mut count = 0;
            for item in value.try_iter()? {
                out.push_str(if count > 0 { ", " } else { "" });
                repr(&item, depth + 1, out)?;
                count += 1;
            }
            out.push_str(if tuple && count == 1 { "," } else { "" });
            out.push(close);
        }
        ValueKind::Map => {
            out.push('{');
            for (i, (key, item)) in pairs(value).into_iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                repr(&key, depth + 1, out)?;
                out.push_str(": ");
                repr(&item, depth + 1, out)?;
            }
            out.push('}');
        }
        ValueKind::Undefined if depth > 0 => out.push_str("Undefined"),
        _ => match as_float(value) {
            Some(x) => out.push_str(&float(x)),
            None => out.push_str(&value.to_string()),
        },
    }
    Ok(())
}

/// `repr` of a string. Characters for private use are left alone, unlike in Python: they are this crate's marks.
fn repr_text(text: &str, out: &mut String) {
    static HIDDEN: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[[\p{C}\p{Z}]--\p{Co}]").ok());
    let hidden = |c: char| HIDDEN.as_ref().is_some_and(|hidden| hidden.is_match(c.encode_utf8(&mut [0; 4])));
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => out.extend(['\\', quote]),
            ' '..='~' => out.push(c),
            c if !hidden(c) => out.push(c),
            c => out.push_str(&match u32::from(c) {
                code @ ..=0xff => format!("\\x{code:02x}"),
                code @ ..=0xffff => format!("\\u{code:04x}"),
                code => format!("\\U{code:08x}"),
            }),
        }
    }
    out.push(quote);
}

/// A dictionary's entries.
pub(super) fn pairs(value: &Value) -> Vec<(Value, Value)> {
    value.as_object().and_then(|map| map.try_iter_pairs()).map_or_else(Vec::new, |pairs| pairs.collect())
}

/// Refuses what would never end, or would be larger than a text for a model can be.
pub(super) fn check_nesting(depth: usize, out: &str) -> Result<(), Error> {
    if depth > DEPTH {
        return Err(refusal(format!("a value is nested more than {DEPTH} times")));
    }
    check_size(out.len())
}

fn check_size(bytes: usize) -> Result<(), Error> {
    if bytes > BYTES { Err(refusal(format!("a value takes more than {BYTES} bytes"))) } else { Ok(()) }
}

/// An argument, where it was not given by its place the one of this name.
pub(super) fn or_named<T>(positional: Option<T>, named: &Kwargs, name: &'static str) -> Result<Option<T>, Error>
where
    T: for<'a> ArgType<'a, Output = T>,
{
    match positional {
        Some(value) => Ok(Some(value)),
        None if named.has(name) => named.get(name).map(Some),
        None => Ok(None),
    }
}

/// What lines are indented by: text, or a number of blanks.
pub(super) fn indentation(width: &Value) -> Result<String, Error> {
    match width.as_str() {
        Some(text) => Ok(text.to_owned()),
        None => Ok(" ".repeat(i64::try_from(width.clone())?.clamp(0, 1 << 10) as usize)),
    }
}

/// The error of an operation that Python would refuse.
pub(super) fn refusal(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}
