//! Layers of settings: default < recipe < file < command line.

use std::path::Path;

use serde_json::Value;

use super::error::hint;
use super::{Component, Given, Origin, Parameter, Recorded, Section, Setting, SettingError, given};

/// Puts the layers on each other, lowest first, and refuses what the tables do not allow.
#[derive(Clone, Debug)]
pub struct Resolver {
    resolved: Resolved,
}

impl Resolver {
    /// Starts with the defaults of these sections, whose names differ.
    pub fn new(sections: Vec<Section>) -> Self {
        let mut settings = Vec::new();
        for section in &sections {
            for (name, value) in &section.defaults {
                settings.push(Setting {
                    key: format!("{}.{name}", section.name),
                    value: value.clone(),
                    origin: Origin::Default,
                });
            }
        }
        Self { resolved: Resolved { sections, settings } }
    }

    /// Adds what the recipe says about one section.
    ///
    /// # Errors
    /// An unknown parameter, or a value that it does not take.
    pub fn recipe<C: Component>(mut self, section: &str, given: &Given<C>) -> Result<Self, SettingError> {
        given.usable(&format!("recipe, `{section}`"))?;
        for (name, value) in given.values() {
            self.resolved.put(&format!("{section}.{name}"), value, Origin::Recipe)?;
        }
        Ok(self)
    }

    /// Adds a settings file; see [`Recorded`] for its forms.
    ///
    /// Values that an earlier run derived from others are left out, so that they are derived anew.
    ///
    /// # Errors
    /// An unreadable file, an unknown parameter, or a value that it does not take; all with the
    /// file's name.
    pub fn file(self, path: &Path) -> Result<Self, SettingError> {
        self.recorded(&Recorded::read(path)?)
    }

    /// Adds a settings file that was read already; see [`file`](Self::file).
    ///
    /// # Errors
    /// As [`file`](Self::file).
    pub fn recorded(mut self, recorded: &Recorded) -> Result<Self, SettingError> {
        for entry in recorded.entries().iter().filter(|entry| !entry.derived) {
            let origin = Origin::File(recorded.path().to_owned());
            self.resolved.put(&entry.key, &entry.value, origin)?;
        }
        Ok(self)
    }

    /// Adds what was typed: `key=value`, as after `--set`; the last one of a key wins.
    ///
    /// # Errors
    /// Text that is no assignment, an unknown parameter, or a value that it does not take.
    pub fn command_line<T: AsRef<str>>(mut self, assignments: &[T]) -> Result<Self, SettingError> {
        for text in assignments {
            let text = text.as_ref();
            let Some((key, value)) = text.split_once('=') else {
                return Err(self.resolved.not_an_assignment(text));
            };
            self.resolved.put_text(key.trim(), value.trim())?;
        }
        Ok(self)
    }

    /// Sets one value; for options of the command line that stand for a setting.
    ///
    /// # Errors
    /// An unknown parameter, or a value that it does not take.
    pub fn set(mut self, key: &str, value: impl Into<Value>, origin: Origin) -> Result<Self, SettingError> {
        self.resolved.put(key, &value.into(), origin)?;
        Ok(self)
    }

    /// The values as they stand now.
    pub fn finish(self) -> Resolved {
        self.resolved
    }

    /// The sections, in their order.
    pub fn sections(&self) -> &[Section] {
        &self.resolved.sections
    }
}

/// Every setting of a run, in the order of the sections and their tables.
#[derive(Clone, Debug)]
pub struct Resolved {
    sections: Vec<Section>,
    settings: Vec<Setting>,
}

impl Resolved {
    /// Every setting.
    pub fn settings(&self) -> &[Setting] {
        &self.settings
    }

    /// One setting.
    pub fn setting(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().find(|setting| setting.key == key)
    }

    /// The component of one section, with the rules between its parameters checked.
    ///
    /// # Errors
    /// A broken rule, with the section's name; a section that the recipe does not have.
    pub fn section<C: Component>(&self, name: &str) -> Result<C, SettingError> {
        let Some(section) = self.sections.iter().find(|section| section.name == name) else {
            return Err(self.unknown_section(name, C::NAME));
        };
        let value = |parameter: &Parameter| {
            let setting = self.setting(&format!("{name}.{}", parameter.name))?;
            Some((parameter.name.to_owned(), setting.value.clone()))
        };
        let fields = section.parameters.iter().filter_map(value).collect();
        given::assemble(fields).map_err(|error| error.in_section(name))
    }

    /// Replaces a value by one that follows from other settings, saying why.
    ///
    /// # Errors
    /// An unknown parameter, or a value that it does not take.
    pub fn derive(&mut self, key: &str, value: impl Into<Value>, reason: &str) -> Result<(), SettingError> {
        self.put(key, &value.into(), Origin::Derived(reason.to_owned()))
    }

    fn put(&mut self, key: &str, value: &Value, origin: Origin) -> Result<(), SettingError> {
        let place = match &origin {
            Origin::File(path) => path.display().to_string(),
            other => other.to_string(),
        };
        let (section, name) = self.locate(key, &place)?;
        let value = admit(section.component, section.parameters, key, name, value, &place)?;
        self.replace(key, value, origin);
        Ok(())
    }

    fn put_text(&mut self, key: &str, text: &str) -> Result<(), SettingError> {
        let place = format!("--set {key}={text}");
        let (section, name) = self.locate(key, &place)?;
        let parameter = lookup(section.component, section.parameters, key, name, &place)?;
        let value = parameter.kind.parse(text).ok_or_else(|| SettingError::Refused {
            key: key.to_owned(),
            value: if text.is_empty() { "nothing".to_owned() } else { format!("`{text}`") },
            allowed: parameter.kind.to_string(),
            origin: place,
        })?;
        self.replace(key, value, Origin::CommandLine);
        Ok(())
    }

    fn replace(&mut self, key: &str, value: Value, origin: Origin) {
        if let Some(setting) = self.settings.iter_mut().find(|setting| setting.key == key) {
            setting.value = value;
            setting.origin = origin;
        }
    }

    fn locate<'k>(&self, key: &'k str, place: &str) -> Result<(&Section, &'k str), SettingError> {
        let (head, name) = key.split_once('.').unwrap_or((key, ""));
        match self.sections.iter().find(|section| section.name == head) {
            Some(section) => Ok((section, name)),
            None => Err(self.unknown_section(key, place)),
        }
    }

    fn unknown_section(&self, key: &str, place: &str) -> SettingError {
        let (head, name) = key.split_once('.').unwrap_or(("", key));
        // `--set r=16` means a parameter whose section was forgotten.
        let whole = self.settings.iter().filter(|s| s.key.split('.').nth(1) == Some(name));
        let candidates: Vec<&str> = whole.map(|setting| setting.key.as_str()).collect();
        let hint = match candidates.as_slice() {
            [] => hint(head, self.sections.iter().map(|section| section.name)),
            candidates => format!(" (did you mean `{}`?)", candidates.join("` or `")),
        };
        let known: Vec<&str> = self.sections.iter().map(|section| section.name).collect();
        SettingError::UnknownSection { key: key.to_owned(), origin: place.to_owned(), hint, known: known.join(", ") }
    }

    fn not_an_assignment(&self, text: &str) -> SettingError {
        let example = self.settings.iter().find(|setting| setting.key == text);
        let example = example.or(self.settings.first());
        SettingError::NotAnAssignment {
            text: text.to_owned(),
            example: example.map_or("train.seed=1".to_owned(), |setting| {
                format!("{}={}", setting.key, super::show::plain(&setting.value))
            }),
        }
    }
}

/// The value as it is kept, where the table allows it.
pub(super) fn admit(
    component: &str,
    table: &[Parameter],
    key: &str,
    name: &str,
    value: &Value,
    place: &str,
) -> Result<Value, SettingError> {
    let parameter = lookup(component, table, key, name, place)?;
    parameter.kind.normalize(value).ok_or_else(|| SettingError::Refused {
        key: key.to_owned(),
        value: value.to_string(),
        allowed: parameter.kind.to_string(),
        origin: place.to_owned(),
    })
}

pub(super) fn lookup<'t>(
    component: &str,
    table: &'t [Parameter],
    key: &str,
    name: &str,
    place: &str,
) -> Result<&'t Parameter, SettingError> {
    if let Some(parameter) = table.iter().find(|parameter| parameter.name == name) {
        return Ok(parameter);
    }
    let names: Vec<&str> = table.iter().map(|parameter| parameter.name).collect();
    let meant = hint(name, names.iter().copied());
    Err(SettingError::UnknownParameter {
        key: key.to_owned(),
        component: component.to_owned(),
        origin: place.to_owned(),
        hint: match names.as_slice() {
            [] => "; it takes none".to_owned(),
            names => format!("{meant}; it takes: {}", names.join(", ")),
        },
    })
}
