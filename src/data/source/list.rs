//! A list of sources: `{"sources": [{"name"?, "records_path" | "records", …}, …]}`.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::open::malformed;
use super::select::{Amount, Selection};
use crate::data::scan::Span;
use crate::data::{DataError, Place};
use crate::settings::hint;

/// What a source may say.
const KEYS: &[&str] =
    &["name", "records_path", "records", "num_samples", "sample_rate", "offset", "n_rows", "system_prompt"];

/// One source as the list has it.
pub struct Entry {
    /// What reports call it.
    pub name: String,
    /// Its records.
    pub records: Records,
    /// Which of them are taken.
    pub selection: Selection,
    /// What is put in front of records without a system message.
    pub system_prompt: Option<String>,
    /// Where the list names it, and which it is: how an error about it begins.
    pub label: Label,
}

/// Where the records of a source are.
pub enum Records {
    /// In a file.
    File(PathBuf),
    /// In the list itself.
    Inline {
        /// The array.
        region: Range<usize>,
        /// Its elements.
        spans: Vec<Span>,
    },
}

/// A source, as messages name it.
#[derive(Clone)]
pub struct Label {
    place: Place,
    text: String,
}

impl Label {
    /// An error about this source.
    pub fn error(&self, detail: impl AsRef<str>) -> DataError {
        DataError::SourceList { place: self.place.clone(), detail: format!("{}: {}", self.text, detail.as_ref()) }
    }
}

/// Reads a list, which begins at `begin` of its file's `bytes`.
///
/// # Errors
/// [`DataError::SourceList`], [`DataError::Malformed`].
pub fn entries(bytes: &[u8], begin: usize, file: &Arc<Path>) -> Result<Vec<Entry>, DataError> {
    let list = List { bytes, file };
    let text = &bytes[begin..];
    let root: BTreeMap<String, &RawValue> =
        serde_json::from_slice(text).map_err(|error| malformed(Place::new(file.clone(), 1), &error))?;
    let top = |detail: String| DataError::SourceList { place: Place::new(file.clone(), 1), detail };
    if let Some(other) = root.keys().find(|key| *key != "sources") {
        let hint = hint(other, ["sources"].into_iter());
        return Err(top(format!(
            "`{other}` is not known in a list of sources{hint}; it holds `sources` and nothing else"
        )));
    }
    let sources = root.get("sources").map_or("null", |value| value.get());
    let sources: Vec<&RawValue> = serde_json::from_str(sources)
        .map_err(|_| top(format!("`sources` must be a list of objects, not {}", short(sources))))?;
    if sources.is_empty() {
        return Err(top("`sources` is empty; name at least one".to_owned()));
    }
    sources.iter().enumerate().map(|(i, source)| list.entry(i, source)).collect()
}

struct List<'a> {
    bytes: &'a [u8],
    file: &'a Arc<Path>,
}

/// A source's fields that have not been read yet.
struct Fields<'a> {
    values: BTreeMap<String, &'a RawValue>,
    label: Label,
}

impl<'a> List<'a> {
    fn entry(&self, i: usize, source: &'a RawValue) -> Result<Entry, DataError> {
        let place = Place::new(self.file.clone(), self.line(self.offset(source)));
        let label = Label { place, text: format!("source {}", i + 1) };
        let values = serde_json::from_str(source.get())
            .map_err(|_| label.error(format!("it must be an object, not {}", short(source.get()))))?;
        let mut fields = Fields { values, label };
        let name: Option<String> = fields.take("name", "a text")?;
        if let Some(name) = &name {
            fields.label.text = format!("source {} (\"{}\")", i + 1, name.chars().take(80).collect::<String>());
        }
        if let Some(other) = fields.values.keys().find(|key| !KEYS.contains(&key.as_str())) {
            let hint = hint(other, KEYS.iter().copied());
            return Err(fields.label.error(format!("`{other}` is not known{hint}; it takes: {}", KEYS.join(", "))));
        }
        let selection = fields.selection()?;
        let system_prompt = fields.take("system_prompt", "a text")?;
        let records = self.records(&mut fields)?;
        let name = name.unwrap_or_else(|| match &records {
            Records::File(path) => path.display().to_string(),
            Records::Inline { .. } => fields.label.text.clone(),
        });
        Ok(Entry { name, records, selection, system_prompt, label: fields.label })
    }

    fn records(&self, fields: &mut Fields<'a>) -> Result<Records, DataError> {
        let path: Option<PathBuf> = fields.take("records_path", "the path of a data file")?;
        let inline = fields.values.remove("records").filter(|value| value.get() != "null");
        match (path, inline) {
            (Some(_), Some(_)) => Err(fields.label.error("it has both `records_path` and `records`; leave one out")),
            (None, None) => Err(fields.label.error("it names no records; give `records_path` or `records`")),
            (Some(path), None) => Ok(Records::File(match self.file.parent() {
                Some(folder) => folder.join(path),
                None => path,
            })),
            (None, Some(array)) => {
                let records: Vec<&RawValue> = serde_json::from_str(array.get())
                    .map_err(|_| fields.label.error("`records` must be a list of records"))?;
                if records.is_empty() {
                    return Err(fields.label.error("`records` is empty"));
                }
                let begin = self.offset(array);
                Ok(Records::Inline { region: begin..begin + array.get().len(), spans: self.spans(&records) })
            }
        }
    }

    fn spans(&self, records: &[&RawValue]) -> Vec<Span> {
        let mut spans: Vec<Span> = Vec::with_capacity(records.len());
        for record in records {
            let start = self.offset(record);
            let line = match spans.last() {
                Some(last) => last.line + lines(&self.bytes[last.start..start]),
                None => self.line(start),
            };
            spans.push(Span { start, end: start + record.get().len(), line });
        }
        spans
    }

    /// Where in the file a value begins, which was parsed without being copied.
    fn offset(&self, value: &RawValue) -> usize {
        value.get().as_ptr().addr() - self.bytes.as_ptr().addr()
    }

    fn line(&self, offset: usize) -> usize {
        1 + lines(&self.bytes[..offset])
    }
}

impl Fields<'_> {
    fn selection(&mut self) -> Result<Selection, DataError> {
        let number: Option<usize> = self.take("num_samples", "a number of records")?;
        let share: Option<f64> = self.take("sample_rate", "a share between 0 and 1")?;
        let amount = match (number, share) {
            (Some(_), Some(_)) => {
                return Err(self.label.error("it has both `num_samples` and `sample_rate`; leave one out"));
            }
            (Some(0), _) => return Err(self.label.error("`num_samples` is 0; leave the source out instead")),
            (Some(number), None) => Amount::Number(number),
            (None, Some(share)) if share > 0.0 && share <= 1.0 => Amount::Share(share),
            (None, Some(share)) => {
                return Err(self.label.error(format!("`sample_rate` must be above 0 and at most 1, not {share}")));
            }
            (None, None) => Amount::All,
        };
        let offset: Option<usize> = self.take("offset", "a number of records")?;
        let n_rows = self.take("n_rows", "a number of records")?;
        if n_rows == Some(0) {
            return Err(self.label.error("`n_rows` is 0; leave the source out instead"));
        }
        Ok(Selection { offset: offset.unwrap_or(0), n_rows, amount })
    }

    fn take<T: for<'de> Deserialize<'de>>(&mut self, key: &str, expected: &str) -> Result<Option<T>, DataError> {
        let Some(value) = self.values.remove(key) else { return Ok(None) };
        serde_json::from_str(value.get())
            .map_err(|_| self.label.error(format!("`{key}` must be {expected}, not {}", short(value.get()))))
    }
}

fn lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

fn short(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("`{}…`", &text[..cut]),
        None => format!("`{text}`"),
    }
}
