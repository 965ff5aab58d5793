//! Settings as people read them: `--print-config` and `--help`.

use std::fmt::Write;

use serde_json::Value;

use super::{Resolved, Resolver, Section};

impl Resolved {
    /// One aligned line per setting: `adapter.r = 8   (recipe)`.
    pub fn table(&self) -> String {
        let rows: Vec<[String; 3]> =
            self.settings().iter().map(|s| [s.key.clone(), plain(&s.value), s.origin.to_string()]).collect();
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
        let (keys, values) = (width(0), width(1).min(LONG));
        let mut text = String::new();
        for [key, value, origin] in &rows {
            // Writing to a `String` cannot fail.
            let _ = writeln!(text, "{key:<keys$} = {value:<values$}  ({origin})");
        }
        text
    }
}

/// Values longer than this do not widen the column for all the others.
const LONG: usize = 40;

impl Resolver {
    /// Every parameter with its default, what it takes and what it does.
    pub fn help(&self) -> String {
        let mut text = String::new();
        for section in self.sections().iter().filter(|section| !section.parameters().is_empty()) {
            describe(section, &mut text);
        }
        text
    }
}

fn describe(section: &Section, text: &mut String) {
    let _ = writeln!(text, "{} ({})", section.name(), section.component());
    for parameter in section.parameters() {
        let default = section.default_of(parameter.name).map(plain).unwrap_or_default();
        let _ = writeln!(
            text,
            "  --set {}.{}={default}\n      {} Takes {}.",
            section.name(),
            parameter.name,
            parameter.help.trim(),
            parameter.kind
        );
    }
}

/// A value as it would be typed on the command line.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "none".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
