//! Settings in JSON: a run's own `config.json`, and what a person writes by hand.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{Difference, Origin, Resolved, SettingError};

/// The settings that a file holds, not yet compared with what a recipe takes.
///
/// Three forms may be mixed: what [`Resolved::to_json`] writes,
/// `{"adapter.r": {"value": 8, "origin": "recipe"}}`; plain keys, `{"adapter.r": 8}`; and nested
/// sections, `{"adapter": {"r": 8}}`.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    path: PathBuf,
    entries: Vec<Entry>,
}

/// One setting of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: Value,
    /// Whether the run computed it from other settings.
    pub(super) derived: bool,
}

impl Recorded {
    /// Reads a file.
    ///
    /// # Errors
    /// The file, with the line and column of what is not JSON.
    pub fn read(path: &Path) -> Result<Self, SettingError> {
        let failed = |message: String| SettingError::File { path: path.to_owned(), message };
        let text = std::fs::read_to_string(path).map_err(|error| failed(format!("cannot be read: {error}")))?;
        let json = serde_json::from_str(&text).map_err(|error| failed(error.to_string()))?;
        Self::from_json(path, &json)
    }

    /// Takes settings that were read already; `path` is for messages.
    ///
    /// # Errors
    /// The file, where it is not a JSON object.
    pub fn from_json(path: &Path, json: &Value) -> Result<Self, SettingError> {
        let Value::Object(top) = json else {
            return Err(SettingError::File {
                path: path.to_owned(),
                message: "is not a JSON object; write {\"adapter\": {\"r\": 8}}".to_owned(),
            });
        };
        let mut entries = Vec::new();
        for (key, value) in top {
            match value {
                Value::Object(section) if !key.contains('.') => {
                    for (name, value) in section {
                        entries.push(Entry::of(format!("{key}.{name}"), value));
                    }
                }
                _ => entries.push(Entry::of(key.clone(), value)),
            }
        }
        Ok(Self { path: path.to_owned(), entries })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

impl Entry {
    fn of(key: String, value: &Value) -> Self {
        match value {
            Value::Object(fields) if fields.contains_key("value") => Self {
                key,
                value: fields["value"].clone(),
                derived: fields
                    .get("origin")
                    .and_then(Value::as_str)
                    .is_some_and(|origin| origin.starts_with(Origin::DERIVED)),
            },
            _ => Self { key, value: value.clone(), derived: false },
        }
    }
}

impl Resolved {
    /// What a run keeps in its `config.json`: every value and where it came from.
    pub fn to_json(&self) -> Value {
        let entry = |value: &Value, origin: &Origin| {
            let mut fields = Map::new();
            fields.insert("value".to_owned(), value.clone());
            fields.insert("origin".to_owned(), Value::from(origin.to_string()));
            Value::Object(fields)
        };
        let settings = self.settings().iter();
        Value::Object(settings.map(|s| (s.key.clone(), entry(&s.value, &s.origin))).collect())
    }

    /// The settings whose values are not those of an earlier run, in this run's order; a run that
    /// is continued refuses them. A setting that the earlier run's program did not have yet, and that nobody gave, is none.
    pub fn differences(&self, earlier: &Recorded) -> Vec<Difference> {
        let recorded = |key: &str| earlier.entries.iter().find(|entry| entry.key == key);
        let changed = self.settings().iter().filter_map(|setting| {
            let earlier = recorded(&setting.key).map(|entry| entry.value.clone());
            let is_new = earlier.is_none() && setting.origin == Origin::Default;
            (!is_new && earlier.as_ref() != Some(&setting.value)).then(|| Difference {
                key: setting.key.clone(),
                earlier,
                now: Some(setting.value.clone()),
            })
        });
        let gone = earlier.entries.iter().filter(|entry| self.setting(&entry.key).is_none()).map(|entry| Difference {
            key: entry.key.clone(),
            earlier: Some(entry.value.clone()),
            now: None,
        });
        changed.chain(gone).collect()
    }
}
