//! Where a record stands in the user's files.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A line of a data file, shown as `train.json:41`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The file as the user named it.
    pub file: Arc<Path>,
    /// The line, counted from 1.
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
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}
