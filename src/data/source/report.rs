//! What the sources of a data set gave.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::Dataset;

/// What one source gave, shown as `chat (data/chat.jsonl): 80 records of 100 rows; left out: 20 sampled out`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceReport {
    /// Its name in the list of sources, or the file's.
    pub name: String,
    /// Its file; the list, where the records stand in it.
    pub file: PathBuf,
    /// Rows that it has.
    pub rows: usize,
    /// Records that were taken from them.
    pub records: usize,
    /// Rows, or records of a row, that were not taken, by reason.
    pub left_out: BTreeMap<&'static str, usize>,
}

impl SourceReport {
    pub(super) fn new(name: String, file: &Path, rows: usize) -> Self {
        Self { name, file: file.to_owned(), rows, records: 0, left_out: BTreeMap::new() }
    }

    pub(super) fn leave_out(&mut self, reason: &'static str, count: usize) {
        if count > 0 {
            *self.left_out.entry(reason).or_default() += count;
        }
    }
}

impl fmt::Display for SourceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display().to_string();
        match self.name == file {
            true => write!(f, "{file}")?,
            false => write!(f, "{} ({file})", self.name)?,
        }
        write!(f, ": {} records of {} rows", self.records, self.rows)?;
        for (i, (reason, count)) in self.left_out.iter().enumerate() {
            let before = if i == 0 { "; left out: " } else { ", " };
            write!(f, "{before}{count} {reason}")?;
        }
        Ok(())
    }
}

impl<K> Dataset<K> {
    /// What each source gave, a line each; none for a single file that was taken whole.
    pub fn source_lines(&self) -> Vec<String> {
        let plain = |source: &SourceReport| source.left_out.is_empty() && source.records == source.rows;
        if self.sources.len() == 1 && self.sources().all(plain) {
            return Vec::new();
        }
        self.sources().map(|source| format!("source {source}")).collect()
    }

    /// Rows, or records of a row, that no source gave, by reason: sampled out, outside the range, or dropped by the data
    /// kind. What the preflight refuses or finds too long comes on top.
    pub fn left_out(&self) -> BTreeMap<&'static str, usize> {
        let mut all = BTreeMap::new();
        for (reason, count) in self.sources().flat_map(|source| &source.left_out) {
            *all.entry(*reason).or_default() += count;
        }
        all
    }
}
