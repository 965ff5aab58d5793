//! `metrics.jsonl`: one JSON object per logged step.

use super::state::Counters;
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

/// Which rows of an interrupted run's log stay: what the resumed run will not write again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// The checkpoint's step.
    pub step: usize,
    /// Whether the checkpoint was written after the evaluation at its step.
    pub evaluation: bool,
}

impl Keep {
    /// What a checkpoint with these counters counts on.
    pub fn of(counters: &Counters) -> Self {
        Self { step: counters.step, evaluation: !counters.pending_evaluation }
    }

    fn stays(&self, row: &Map<String, Value>) -> bool {
        let step = row.get("step").and_then(Value::as_u64).unwrap_or(0) as usize;
        let evaluation = row.get("phase").is_some_and(|phase| phase == "eval");
        if evaluation { self.keeps_evaluation(step) } else { step <= self.step }
    }

    /// Whether what an evaluation after `step` wrote stays.
    pub fn keeps_evaluation(&self, step: usize) -> bool {
        step < self.step || (step == self.step && self.evaluation)
    }
}

impl MetricsLog {
    /// Opens `metrics.jsonl` in `run` with the rows that `keep` lets stay, or none.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn open(run: &Path, keep: Option<Keep>) -> Result<Self, CheckpointError> {
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
            if keep.is_some_and(|keep| keep.stays(&row)) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rows(log: &MetricsLog) -> Vec<(String, u64)> {
        let row = |row: &Map<String, Value>| (row["phase"].as_str().unwrap().to_owned(), row["step"].as_u64().unwrap());
        log.rows().iter().map(row).collect()
    }

    #[test]
    fn what_a_resumed_run_writes_again_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = MetricsLog::open(dir.path(), None).unwrap();
        for (phase, step) in [("train", 1), ("train", 2), ("eval", 2), ("train", 3)] {
            log.write(json!({"phase": phase, "step": step}).as_object().unwrap().clone()).unwrap();
        }
        drop(log);
        let path = dir.path().join("metrics.jsonl");
        // The process died within a line.
        let whole = std::fs::read_to_string(&path).unwrap() + "{\"phase\": \"tr";
        for (evaluation, expected) in [(true, 3), (false, 2)] {
            std::fs::write(&path, &whole).unwrap();
            let log = MetricsLog::open(dir.path(), Some(Keep { step: 2, evaluation })).unwrap();
            let all = [("train".to_owned(), 1), ("train".to_owned(), 2), ("eval".to_owned(), 2)];
            assert_eq!(rows(&log), all[..expected]);
            assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), expected);
        }
    }
}
