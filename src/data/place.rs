//! Where a record stands in the user's files.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A line of a data file, shown as `train.json:41`, or a row of a table, shown as `train.parquet:row 41`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The file as the user named it.
    pub file: Arc<Path>,
    /// The line, counted from 1; of a table the row.
    pub line: usize,
}

impl Place {
    /// The place `line` (counted from 1) of `file`.
    pub fn new(file: impl Into<Arc<Path>>, line: usize) -> Self {
        Self { file: file.into(), line }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = if is_parquet(&self.file) { "row " } else { "" };
        write!(f, "{}:{row}{}", self.file.display(), self.line)
    }
}

/// Whether a file is a table, by its name.
pub(super) fn is_parquet(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("parquet"))
}
