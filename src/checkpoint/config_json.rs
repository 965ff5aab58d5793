//! Reading `config.json` and its kin: errors name the file and the line, or the field by its path
//! inside the file.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::error::CheckpointError;

/// Reads a JSON file.
///
/// # Errors
/// [`CheckpointError::Io`], or [`CheckpointError::Json`] as `file:line:column`.
pub fn read_json(path: &Path) -> Result<Value, CheckpointError> {
    // A pipe that nobody writes to would be waited for without end.
    if fs::metadata(path).is_ok_and(|metadata| !metadata.is_file() && !metadata.is_dir()) {
        let reason = std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a regular file");
        return Err(CheckpointError::io(path, "reading")(reason));
    }
    let bytes = fs::read(path).map_err(CheckpointError::io(path, "reading"))?;
    // Editors on Windows put a byte order mark in front, which the JSON grammar does not allow.
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
    serde_json::from_slice(text).map_err(|error| {
        let message = error.to_string();
        let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(text, _)| text).to_owned();
        CheckpointError::Json { path: path.to_path_buf(), line: error.line(), column: error.column(), message }
    })
}

/// A JSON file in memory, with its path for messages.
#[derive(Debug, Clone)]
pub struct JsonFile {
    path: PathBuf,
    value: Value,
}

impl JsonFile {
    /// Reads the file.
    ///
    /// # Errors
    /// As [`read_json`].
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        Ok(Self { path: path.to_path_buf(), value: read_json(path)? })
    }

    /// Reads the file, `None` where there is none.
    ///
    /// # Errors
    /// As [`read_json`].
    pub fn read_if_there(path: &Path) -> Result<Option<Self>, CheckpointError> {
        if path.exists() { Self::read(path).map(Some) } else { Ok(None) }
    }

    /// A value that was made and not read; `path` is for messages.
    pub fn from_value(path: impl Into<PathBuf>, value: Value) -> Self {
        Self { path: path.into(), value }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The whole value.
    pub fn value(&self) -> &Value {
        &self.value
    }

    /// The file's fields.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] where the file is not one object.
    pub fn fields(&self) -> Result<Fields<'_>, CheckpointError> {
        match &self.value {
            Value::Object(map) => Ok(Fields { file: &self.path, at: String::new(), map }),
            other => Err(field_error(&self.path, "the file".to_owned(), Some(other), "an object")),
        }
    }
}

/// The fields of one object of a JSON file.
///
/// For every type there are three ways to ask: `usize(key)` must be there, `opt_usize(key)` may be
/// missing or `null`, `usize_or(key, default)` takes a default then, which is how the configs of
/// transformers 4 are meant to be read: they omit what equals their class's default. A field of the
/// wrong type is always an error.
#[derive(Debug, Clone)]
pub struct Fields<'a> {
    file: &'a Path,
    /// Path of this object inside the file, empty or ending in a dot.
    at: String,
    map: &'a Map<String, Value>,
}

/// Defines `name`, `opt_name` and `name_or` for one type.
macro_rules! getters {
    ($($type:ty, $name:ident, $opt:ident, $or:ident, $expected:literal, $take:expr;)*) => {$(
        #[doc = concat!("The field `key`, which must be ", $expected, ".")]
        ///
        /// # Errors
        /// [`CheckpointError::Field`] where it is missing, `null` or of another type.
        pub fn $name(&self, key: &str) -> Result<$type, CheckpointError> {
            self.$opt(key)?.ok_or_else(|| self.error(key, $expected))
        }

        #[doc = concat!("The field `key`, ", $expected, "; `None` where it is missing or `null`.")]
        ///
        /// # Errors
        /// [`CheckpointError::Field`] where it is of another type.
        pub fn $opt(&self, key: &str) -> Result<Option<$type>, CheckpointError> {
            self.opt(key, $expected, $take)
        }

        #[doc = concat!("The field `key`, ", $expected, "; `default` where missing or `null`.")]
        ///
        /// # Errors
        /// [`CheckpointError::Field`] where it is of another type.
        pub fn $or(&self, key: &str, default: impl Into<$type>) -> Result<$type, CheckpointError> {
            Ok(self.$opt(key)?.unwrap_or_else(|| default.into()))
        }
    )*};
}

impl<'a> Fields<'a> {
    getters! {
        usize, usize, opt_usize, usize_or, "a whole number, 0 or more", whole;
        f64, f64, opt_f64, f64_or, "a number", Value::as_f64;
        bool, bool, opt_bool, bool_or, "true or false", Value::as_bool;
        String, string, opt_string, string_or, "a string", text;
        Vec<usize>, usizes, opt_usizes, usizes_or, "a list of whole numbers", |v| list(v, whole);
        Vec<f64>, f64s, opt_f64s, f64s_or, "a list of numbers", |v| list(v, Value::as_f64);
        Vec<String>, strings, opt_strings, strings_or, "a list of strings", |v| list(v, text);
    }

    /// The field `key`, a whole number from 1 to `most`; `default` where missing or `null`.
    ///
    /// For sizes, which decide how much memory is taken before any weight is seen.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] where it is of another type or out of range.
    pub fn size_or(&self, key: &str, default: usize, most: usize) -> Result<usize, CheckpointError> {
        match self.usize_or(key, default)? {
            size if (1..=most).contains(&size) => Ok(size),
            _ => Err(self.error(key, &format!("at least 1 and at most {most}"))),
        }
    }

    /// The object `key`, which must be there.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] where it is missing, `null` or no object.
    pub fn object(&self, key: &str) -> Result<Fields<'a>, CheckpointError> {
        self.opt_object(key)?.ok_or_else(|| self.error(key, "an object"))
    }

    /// The object `key`; `None` where it is missing or `null`.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] where it is no object.
    pub fn opt_object(&self, key: &str) -> Result<Option<Fields<'a>>, CheckpointError> {
        let map = self.opt(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Fields { file: self.file, at: format!("{}{key}.", self.at), map }))
    }

    /// The string `key` as one of the named `choices`; `None` where it is missing or `null`.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] that lists the choices where it is something else.
    pub fn opt_choice<T: Clone>(&self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>, CheckpointError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let chosen = value.as_str().and_then(|text| choices.iter().find(|(name, _)| *name == text));
        chosen.map(|(_, value)| Some(value.clone())).ok_or_else(|| self.error(key, &one_of(choices)))
    }

    /// The string `key` as one of the named `choices`, which must be there.
    ///
    /// # Errors
    /// [`CheckpointError::Field`] that lists the choices where it is missing or something else.
    pub fn choice<T: Clone>(&self, key: &str, choices: &[(&str, T)]) -> Result<T, CheckpointError> {
        self.opt_choice(key, choices)?.ok_or_else(|| self.error(key, &one_of(choices)))
    }

    /// The first of several names of the same field that is there and not `null`; for fields that
    /// were renamed between versions.
    pub fn first_of<'k>(&self, keys: &[&'k str]) -> Option<&'k str> {
        keys.iter().copied().find(|key| self.has(key))
    }

    /// Whether `key` is there and not `null`.
    pub fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// The raw value, `None` where it is missing or `null`.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    /// All fields, in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&'a String, &'a Value)> + use<'a> {
        self.map.iter()
    }

    /// The file, for messages of one's own.
    pub fn file(&self) -> &'a Path {
        self.file
    }

    /// An error about `key`: `config.json: text_config.hidden_act is "relu6", expected …`. For
    /// values that have the right type and are not implemented.
    pub fn error(&self, key: &str, expected: &str) -> CheckpointError {
        field_error(self.file, format!("{}{key}", self.at), self.map.get(key), expected)
    }

    fn opt<T>(
        &self,
        key: &str,
        expected: &str,
        take: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(value) => take(value).map(Some).ok_or_else(|| self.error(key, expected)),
        }
    }
}

fn field_error(file: &Path, field: String, found: Option<&Value>, expected: &str) -> CheckpointError {
    /// Longer values are cut: a whole nested config would hide the message.
    const SHOWN: usize = 60;
    let mut found = found.map_or_else(|| "missing".to_owned(), Value::to_string);
    if let Some((cut, _)) = found.char_indices().nth(SHOWN) {
        found.truncate(cut);
        found.push('…');
    }
    CheckpointError::Field { path: file.to_path_buf(), field, found, expected: expected.to_owned() }
}

fn one_of<T>(choices: &[(&str, T)]) -> String {
    let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
    if names.len() == 1 { names.concat() } else { format!("one of {}", names.join(", ")) }
}

/// A whole number, also where a writer put a fraction of zero (`16.0`).
fn whole(value: &Value) -> Option<usize> {
    /// Up to here every whole f64 is exact.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if let Some(number) = value.as_u64() {
        return usize::try_from(number).ok();
    }
    value.as_f64().filter(|f| f.fract() == 0.0 && (0.0..=EXACT).contains(f)).map(|f| f as usize)
}

fn text(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn list<T>(value: &Value, take: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(take).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file() -> JsonFile {
        let value = json!({
            "text_config": {
                "hidden_size": "abc", "num_layers": 4, "r": 16.0, "eps": 1e-5, "half": 2.5,
                "minus": -1, "nothing": null, "eos": [1, 2], "act": "relu6", "tie": true,
                "modules": ["q", 3], "rope": {"type": "llama3"}
            },
            "text_config2": [1]
        });
        JsonFile::from_value("config.json", value)
    }

    #[test]
    fn fields_are_typed() {
        let file = file();
        let text = file.fields().unwrap().object("text_config").unwrap();
        assert_eq!(text.usize("num_layers").unwrap(), 4);
        assert_eq!(text.usize("r").unwrap(), 16);
        assert_eq!(text.f64("num_layers").unwrap(), 4.0);
        assert_eq!(text.usize_or("absent", 7usize).unwrap(), 7);
        assert_eq!(text.usize_or("nothing", 7usize).unwrap(), 7);
        assert_eq!(text.opt_f64("nothing").unwrap(), None);
        assert_eq!(text.usizes("eos").unwrap(), [1, 2]);
        assert_eq!(text.string_or("absent", "silu").unwrap(), "silu");
        assert!(text.bool("tie").unwrap());
        assert_eq!(text.object("rope").unwrap().choice("type", &[("llama3", 3)]).unwrap(), 3);
        assert_eq!(text.first_of(&["nothing", "eps", "r"]), Some("eps"));
    }

    #[test]
    fn errors_name_file_field_and_both_values() {
        let file = file();
        let top = file.fields().unwrap();
        let text = top.object("text_config").unwrap();
        let check = |error: CheckpointError, expected: &str| assert_eq!(error.to_string(), expected);
        let whole = "expected a whole number, 0 or more";
        check(
            text.usize("hidden_size").unwrap_err(),
            &format!(r#"config.json: text_config.hidden_size is "abc", {whole}"#),
        );
        check(text.usize("half").unwrap_err(), &format!("config.json: text_config.half is 2.5, {whole}"));
        check(text.opt_usize("minus").unwrap_err(), &format!("config.json: text_config.minus is -1, {whole}"));
        check(text.usize_or("tie", 1usize).unwrap_err(), &format!("config.json: text_config.tie is true, {whole}"));
        check(text.usize("absent").unwrap_err(), &format!("config.json: text_config.absent is missing, {whole}"));
        check(text.bool("nothing").unwrap_err(), "config.json: text_config.nothing is null, expected true or false");
        check(
            text.strings("modules").unwrap_err(),
            r#"config.json: text_config.modules is ["q",3], expected a list of strings"#,
        );
        check(top.object("text_config2").unwrap_err(), "config.json: text_config2 is [1], expected an object");
        let choices = [("silu", 0), ("gelu", 1)];
        check(
            text.choice("act", &choices).unwrap_err(),
            r#"config.json: text_config.act is "relu6", expected one of "silu", "gelu""#,
        );
        let rope = text.object("rope").unwrap();
        check(
            rope.error("type", "\"default\""),
            r#"config.json: text_config.rope.type is "llama3", expected "default""#,
        );
        check(JsonFile::from_value("c", json!(3)).fields().unwrap_err(), "c: the file is 3, expected an object");
        let long = top.usize("text_config").unwrap_err().to_string();
        assert!(long.len() < 150 && long.contains('…'), "{long}");
    }

    #[test]
    fn bad_files_are_placed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        std::fs::write(&path, "{\n  \"a\": 1,\n  \"b\": }\n").unwrap();
        let error = read_json(&path).unwrap_err().to_string();
        assert!(error.ends_with("config.json:3:8: not valid JSON: expected value"), "{error}");
        std::fs::write(&path, b"\xef\xbb\xbf{\"a\": 1}").unwrap();
        assert_eq!(read_json(&path).unwrap(), json!({"a": 1}));
        assert!(JsonFile::read_if_there(&dir.path().join("none.json")).unwrap().is_none());
        assert!(read_json(dir.path()).unwrap_err().to_string().contains("reading failed"));
    }
}
