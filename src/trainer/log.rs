//! `metrics.jsonl`: one JSON object per logged step.

use crate::checkpoint::{CheckpointError, DurableFile, write_file};
use serde_json::{Map, Value};
use std::io::Write;
use std::path::{Path, PathBuf};

/// An append-only file of metrics.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: DurableFile,
    rows: Vec<Map<String, Value>>,
}

impl MetricsLog {
    /// Opens `metrics.jsonl` in `run`, keeping the rows up to step `keep`, or none: what a resumed run will write again is
    /// cut.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn open(run: &Path, keep: Option<usize>) -> Result<Self, CheckpointError> {
        let path = run.join("metrics.jsonl");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(CheckpointError::io(&path, "reading")(error)),
        };
        // A line that was being written when the process died is not JSON, and is written again. Lines that stay keep
        // their bytes.
        let (mut kept, mut rows) = (String::new(), Vec::new());
        for line in text.lines() {
            let Ok(row) = serde_json::from_str::<Map<String, Value>>(line) else { continue };
            let step = row.get("step").and_then(Value::as_u64).unwrap_or(0) as usize;
            if keep.is_some_and(|keep| step <= keep) {
                kept.push_str(line);
                kept.push('\n');
                rows.push(row);
            }
        }
        write_file(&path, kept.as_bytes())?;
        let file = DurableFile::open_at(&path, kept.len() as u64)?;
        Ok(Self { path, file, rows })
    }

    /// Appends one row, for whoever follows the file; [`sync`](Self::sync) makes it last.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn write(&mut self, row: Map<String, Value>) -> Result<(), CheckpointError> {
        let written = self.file.write_all(line(&row).as_bytes()).and_then(|()| self.file.flush());
        written.map_err(CheckpointError::io(&self.path, "writing"))?;
        self.rows.push(row);
        Ok(())
    }

    /// Forces all rows onto the disk: before a checkpoint that counts on them.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn sync(&mut self) -> Result<(), CheckpointError> {
        self.file.sync()
    }

    /// Every row so far, those of the run before a resume included.
    pub fn rows(&self) -> &[Map<String, Value>] {
        &self.rows
    }
}

fn line(row: &Map<String, Value>) -> String {
    format!("{}\n", Value::Object(row.clone()))
}
