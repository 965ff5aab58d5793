//! Python's methods of strings, lists and dictionaries, before minijinja-contrib's.

use super::python::{self, center, is_space, or_named, padding, refusal};
use minijinja::value::{Kwargs, Tuple, ValueKind, from_args};
use minijinja::{Error, State, Value};

/// Calls a method of a value that is no object with methods of its own.
pub(in crate::text) fn call(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let result = match (value.kind(), value.as_str()) {
        (_, Some(text)) => match strip_or_split(text, method, args)? {
            Some(result) => Some(result),
            None => string(text, method, args)?,
        },
        (ValueKind::Seq, _) => list(value, method, args)?,
        (ValueKind::Map, _) if method == "copy" => {
            let () = from_args(args)?;
            Some(Value::from_pairs(python::pairs(value)))
        }
        _ => None,
    };
    match result {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn list(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(match method {
        "copy" => {
            let () = from_args(args)?;
            Some(value.try_iter()?.collect())
        }
        "index" => {
            let (what,): (&Value,) = from_args(args)?;
            let at = value.try_iter()?.position(|item| item == *what);
            Some(Value::from(at.ok_or_else(|| refusal("index: it is not in the list"))?))
        }
        _ => None,
    })
}

/// The methods that ask what white space is, or part a string.
fn strip_or_split(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<&str>,) = from_args(args)?;
            let strips = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
            Value::from(match method {
                "strip" => text.trim_matches(strips),
                "lstrip" => text.trim_start_matches(strips),
                _ => text.trim_end_matches(strips),
            })
        }
        "split" | "rsplit" => {
            let (separator, limit, named): (Option<String>, Option<i64>, Kwargs) = from_args(args)?;
            let separator = or_named(separator, &named, "sep")?;
            let limit = or_named(limit, &named, "maxsplit")?;
            named.assert_all_used()?;
            // Without a limit, or with a negative one, everywhere.
            let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX - 1);
            let split = if method == "split" { split } else { split_from_right };
            split(text, separator.as_deref(), limit)?.into_iter().map(Value::from).collect()
        }
        "splitlines" => {
            let (keep, named): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = or_named(keep, &named, "keepends")?;
            named.assert_all_used()?;
            let whole = |(line, end): (&str, &str)| match keep {
                Some(true) => Value::from(format!("{line}{end}")),
                _ => Value::from(line),
            };
            python::lines(text).into_iter().map(whole).collect()
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            check_separator(separator)?;
            let (parts, missing) = match method {
                "partition" => (text.split_once(separator), [text, "", ""]),
                _ => (text.rsplit_once(separator), ["", "", text]),
            };
            let parts = parts.map_or(missing, |(before, behind)| [before, separator, behind]);
            Value::from(Tuple::from(parts.map(Value::from)))
        }
        "isspace" => {
            let () = from_args(args)?;
            Value::from(!text.is_empty() && text.chars().all(is_space))
        }
        _ => return Ok(None),
    }))
}

fn string(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "index" | "rindex" => {
            let (what,): (&str,) = from_args(args)?;
            let at = if method == "index" { text.find(what) } else { text.rfind(what) };
            let at = at.ok_or_else(|| refusal(format!("{method}: {what:?} is not in the string")))?;
            Value::from(text[..at].chars().count())
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            Value::from(format!("{sign}{}{digits}", "0".repeat(padding(text, width)?.unwrap_or(0))))
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (i64, Option<&str>) = from_args(args)?;
            let fill = fill.unwrap_or(" ");
            if fill.chars().count() != 1 {
                return Err(refusal(format!("{method}: what fills is one character, not {fill:?}")));
            }
            if method == "center" {
                return Ok(Some(Value::from(center(text, width, fill)?)));
            }
            let blank = fill.repeat(padding(text, width)?.unwrap_or(0));
            Value::from(if method == "ljust" { format!("{text}{blank}") } else { format!("{blank}{text}") })
        }
        "title" => {
            let () = from_args(args)?;
            Value::from(title(text))
        }
        _ => return Ok(None),
    }))
}

/// `str.title`: a word begins behind whatever has no case.
fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut in_word = false;
    for c in text.chars() {
        if in_word {
            out.extend(c.to_lowercase());
        } else {
            // Where one letter becomes two (`ß`), only the first is a capital.
            let mut capital = c.to_uppercase();
            out.extend(capital.next());
            out.extend(capital.flat_map(char::to_lowercase));
        }
        in_word = c.is_lowercase() || c.is_uppercase();
    }
    out
}

fn check_separator(separator: &str) -> Result<(), Error> {
    if separator.is_empty() { Err(refusal("a string cannot be split at an empty separator")) } else { Ok(()) }
}

/// `str.split` at no more than `limit` places; without a separator at white space.
fn split<'a>(text: &'a str, separator: Option<&str>, limit: usize) -> Result<Vec<&'a str>, Error> {
    if let Some(separator) = separator {
        check_separator(separator)?;
        return Ok(text.splitn(limit + 1, separator).collect());
    }
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        let end = rest.find(is_space).filter(|_| parts.len() < limit).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    Ok(parts)
}

/// `str.rsplit`.
fn split_from_right<'a>(text: &'a str, separator: Option<&str>, limit: usize) -> Result<Vec<&'a str>, Error> {
    let mut parts = Vec::new();
    if let Some(separator) = separator {
        check_separator(separator)?;
        parts.extend(text.rsplitn(limit + 1, separator));
    } else {
        let mut rest = text.trim_end_matches(is_space);
        while !rest.is_empty() {
            let start = rest.trim_end_matches(|c| !is_space(c)).len();
            let start = if parts.len() < limit { start } else { 0 };
            parts.push(&rest[start..]);
            rest = rest[..start].trim_end_matches(is_space);
        }
    }
    parts.reverse();
    Ok(parts)
}
