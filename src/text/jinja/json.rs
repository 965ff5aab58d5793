//! `tojson` as transformers defines it.

use super::python::{as_float, check_nesting, float, indentation, or_named, pairs, refusal};
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, Value};

/// Python's `json.dumps(x, ensure_ascii=…, indent=…, separators=…, sort_keys=…)`, which transformers puts in place of
/// Jinja's `tojson`. Its first positional argument is `ensure_ascii`.
pub(in crate::text) fn to_json(
    value: &Value,
    ensure_ascii: Option<Value>,
    indent: Option<Value>,
    separators: Option<Vec<String>>,
    named: Kwargs,
) -> Result<String, Error> {
    let is_set = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    let indent = or_named(indent, &named, "indent")?.filter(|indent| !indent.is_none());
    let indent = indent.map(|indent| indentation(&indent)).transpose()?;
    let (item, key) = match or_named(separators, &named, "separators")?.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(other) => return Err(refusal(format!("tojson: separators are two strings, not {}", other.len()))),
        // With an indentation a line break follows the comma.
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let ensure_ascii = is_set(or_named(ensure_ascii, &named, "ensure_ascii")?);
    let sort_keys = is_set(named.get("sort_keys")?);
    named.assert_all_used()?;
    let mut out = String::new();
    Style { indent, item, key, ensure_ascii, sort_keys }.write(value, 0, &mut out)?;
    Ok(out)
}

struct Style {
    indent: Option<String>,
    item: String,
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl Style {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        check_nesting(depth, out)?;
        match value.kind() {
            ValueKind::Seq | ValueKind::Iterable => {
                self.list('[', value.try_iter()?, ']', depth, out, |item, out| self.write(&item, depth + 1, out))?;
            }
            ValueKind::Map => {
                let mut fields = pairs(value);
                if self.sort_keys {
                    fields.sort_by(|(a, _), (b, _)| a.cmp(b));
                }
                self.list('{', fields.into_iter(), '}', depth, out, |(key, field), out| {
                    let name = key.as_str().map(str::to_owned).or_else(|| scalar(&key));
                    let no_name = || refusal(format!("tojson: a {} cannot be the key of an object", key.kind()));
                    self.string(&name.ok_or_else(no_name)?, out);
                    out.push_str(&self.key);
                    self.write(&field, depth + 1, out)
                })?;
            }
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            kind => match scalar(value) {
                Some(text) => out.push_str(&text),
                None => return Err(refusal(format!("tojson: cannot write as JSON what is {kind}"))),
            },
        }
        Ok(())
    }

    fn list<T>(
        &self,
        open: char,
        items: impl Iterator<Item = T>,
        close: char,
        depth: usize,
        out: &mut String,
        mut write: impl FnMut(T, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        out.push(open);
        let mut any = false;
        for item in items {
            out.push_str(if any { &self.item } else { "" });
            any = true;
            self.line(depth + 1, out);
            write(item, out)?;
        }
        if any {
            self.line(depth, out);
        }
        out.push(close);
        Ok(())
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        for c in serde_json::Value::from(text).to_string().chars() {
            if matches!(c, ' '..='~') || !self.ensure_ascii {
                out.push(c);
            } else {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}

/// What is neither a string nor holds others.
fn scalar(value: &Value) -> Option<String> {
    match value.kind() {
        ValueKind::None => Some("null".to_owned()),
        ValueKind::Bool => Some(value.is_true().to_string()),
        ValueKind::Number => Some(match as_float(value) {
            Some(x) if x.is_nan() => "NaN".to_owned(),
            Some(x) if x.is_infinite() => if x > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
            Some(x) => float(x),
            None => value.to_string(),
        }),
        _ => None,
    }
}
