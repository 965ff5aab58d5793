//! The Jinja environment that Hugging Face's chat templates are written for.

use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, syntax::SyntaxConfig};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The name under which a template's source is stored.
pub(super) const TEMPLATE: &str = "chat";

/// Instructions that one rendering may take. A template comes with a checkpoint and may loop for ever; a conversation of
/// a thousand turns takes about a hundred thousand.
const INSTRUCTIONS: u64 = 10_000_000;

/// Compiles a template with trimmed blocks, loop controls, Python's methods, `raise_exception`, `tojson` without HTML
/// escapes and `strftime_now`.
pub(super) fn environment(source: String) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_fuel(Some(INSTRUCTIONS));
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    env.add_function("strftime_now", |format: String| strftime(&format, SystemTime::now()));
    env.add_filter("tojson", to_json);
    env.add_filter(GENERATION, between_marks);
    // In Python nothing is not iterable, and what is undefined is.
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    // In Python a string is a sequence, too, and so is whatever has a length and items.
    env.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map)
    });
    env.add_template_owned(TEMPLATE, source)?;
    Ok(env)
}

/// What a `{% generation %}` block is made of: a filter, and the variable that holds its two marks.
pub(super) const GENERATION: &str = "__generation_block";

/// A generation block's text between the two marks of this rendering.
fn between_marks(state: &State, text: String) -> String {
    let marks = state.lookup(GENERATION).and_then(|marks| marks.as_str().map(str::to_owned)).unwrap_or_default();
    let mut marks = marks.chars();
    let (open, close) = (marks.next(), marks.next());
    open.into_iter().chain(text.chars()).chain(close).collect()
}

/// Python's `json.dumps(x, ensure_ascii=…, indent=…, separators=…, sort_keys=…)`, which transformers puts in place of
/// Jinja's `tojson`.
fn to_json(value: Value, kwargs: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let ensure_ascii: Option<bool> = kwargs.get("ensure_ascii")?;
    let sort_keys: Option<bool> = kwargs.get("sort_keys")?;
    kwargs.assert_all_used()?;
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::InvalidOperation, "cannot write as JSON what is undefined"));
    }
    let json = from_value(&value)?;
    let (item, key) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        // With an indentation a line break follows the comma.
        _ => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let style = JsonStyle {
        indent,
        item,
        key,
        ensure_ascii: ensure_ascii.unwrap_or(false),
        sort_keys: sort_keys.unwrap_or(false),
    };
    let mut out = String::new();
    style.write(&json, 0, &mut out);
    Ok(out)
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

/// The JSON of one of Jinja's values.
fn from_value(value: &Value) -> Result<serde_json::Value, Error> {
    Ok(match value.kind() {
        ValueKind::Undefined | ValueKind::None => serde_json::Value::Null,
        ValueKind::Bool => serde_json::Value::Bool(value.is_true()),
        ValueKind::Number if value.is_integer() => match (u64::try_from(value.clone()), i64::try_from(value.clone())) {
            (Ok(n), _) => n.into(),
            (_, n) => n?.into(),
        },
        ValueKind::Number => f64::try_from(value.clone())?.into(),
        ValueKind::String => value.to_string().into(),
        ValueKind::Seq | ValueKind::Iterable => {
            value.try_iter()?.map(|item| from_value(&item)).collect::<Result<Vec<_>, _>>()?.into()
        }
        ValueKind::Map => {
            let mut fields = serde_json::Map::new();
            for key in value.try_iter()? {
                fields.insert(key.to_string(), from_value(&value.get_item(&key)?)?);
            }
            fields.into()
        }
        kind => {
            return Err(Error::new(ErrorKind::InvalidOperation, format!("cannot write a {kind} as JSON")));
        }
    })
}

struct JsonStyle {
    indent: Option<usize>,
    item: String,
    key: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

impl JsonStyle {
    fn write(&self, value: &serde_json::Value, depth: usize, out: &mut String) {
        match value {
            serde_json::Value::Array(items) if !items.is_empty() => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    self.separate(i, depth + 1, out);
                    self.write(item, depth + 1, out);
                }
                self.line(depth, out);
                out.push(']');
            }
            serde_json::Value::Object(fields) if !fields.is_empty() => {
                let mut fields: Vec<_> = fields.iter().collect();
                if self.sort_keys {
                    fields.sort_by_key(|(name, _)| name.as_str());
                }
                out.push('{');
                for (i, (name, field)) in fields.into_iter().enumerate() {
                    self.separate(i, depth + 1, out);
                    self.string(name, out);
                    out.push_str(&self.key);
                    self.write(field, depth + 1, out);
                }
                self.line(depth, out);
                out.push('}');
            }
            serde_json::Value::String(text) => self.string(text, out),
            other => out.push_str(&other.to_string()),
        }
    }

    fn separate(&self, index: usize, depth: usize, out: &mut String) {
        if index > 0 {
            out.push_str(&self.item);
        }
        self.line(depth, out);
    }

    fn line(&self, depth: usize, out: &mut String) {
        if let Some(indent) = self.indent {
            out.push('\n');
            out.push_str(&" ".repeat(indent * depth));
        }
    }

    fn string(&self, text: &str, out: &mut String) {
        for c in serde_json::Value::from(text).to_string().chars() {
            if c.is_ascii() || !self.ensure_ascii {
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

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Python's `strftime` for the directives templates use, in UTC.
fn strftime(format: &str, now: SystemTime) -> Result<String, Error> {
    let seconds = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (month_name, day_name) = (MONTHS[month as usize - 1], DAYS[(days % 7) as usize]);
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let directive = chars.next();
        out.push_str(&match directive {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('d') => format!("{day:02}"),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('A') => day_name.to_owned(),
            Some('a') => day_name[..3].to_owned(),
            Some('H') => format!("{:02}", time / 3600),
            Some('M') => format!("{:02}", time / 60 % 60),
            Some('S') => format!("{:02}", time % 60),
            Some('%') => "%".to_owned(),
            other => {
                let other = other.map_or(String::new(), String::from);
                let message = format!("strftime_now: the directive %{other} is not implemented");
                return Err(Error::new(ErrorKind::InvalidOperation, message));
            }
        });
    }
    Ok(out)
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years that begin in March put the leap day last; an era is 400 years or 146097 days.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_written_as_python_writes_it() {
        let render = |source: &str| {
            let env = environment(source.to_owned()).unwrap();
            let x = to_value(&serde_json::json!({"b": ["é<'&", 1, 2.5, null, true], "a": {}}));
            env.get_template(TEMPLATE).unwrap().render(minijinja::context! { x }).unwrap()
        };
        assert_eq!(render("{{ x|tojson }}"), "{\"b\": [\"é<'&\", 1, 2.5, null, true], \"a\": {}}");
        assert_eq!(
            render("{{ x|tojson(indent=2, sort_keys=true) }}"),
            "{\n  \"a\": {},\n  \"b\": [\n    \"é<'&\",\n    1,\n    2.5,\n    null,\n    true\n  ]\n}"
        );
        assert_eq!(render("{{ '🦙'|tojson(ensure_ascii=true) }}"), "\"\\ud83e\\udd99\"");
        assert_eq!(render("{{ x|tojson(separators=(',', ':')) }}"), "{\"b\":[\"é<'&\",1,2.5,null,true],\"a\":{}}");
    }

    #[test]
    fn dates_are_gregorian() {
        let at = |seconds| strftime("%d %b %Y %A %H:%M:%S %y %%", UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        assert_eq!(at(0), "01 Jan 1970 Thursday 00:00:00 70 %");
        assert_eq!(at(951_782_400), "29 Feb 2000 Tuesday 00:00:00 00 %");
        assert_eq!(at(1_735_689_599), "31 Dec 2024 Tuesday 23:59:59 24 %");
        assert!(strftime("%q", UNIX_EPOCH).unwrap_err().to_string().contains("%q"));
    }
}
