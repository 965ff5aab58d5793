//! `tracking/run.jsonl`: a run as JSON lines that other trackers import; the format stands in the [module](super) docs.

use super::{About, Keep, Sample, Status, Tracker, Written, is_evaluation, plain, points, since_epoch, step_of, typed};
use crate::checkpoint::{CheckpointError, DurableFile, recover, write_file};
use crate::trainer::shown::Table;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The format's version, raised when a reader would have to change.
const VERSION: u64 = 1;
/// Where the pictures are, beside the file.
const PICTURES: &str = "pictures";

/// The JSON log of one run.
#[derive(Debug)]
pub struct JsonLog {
    path: PathBuf,
    file: DurableFile,
    /// The last value of every curve.
    summary: Map<String, Value>,
    /// The last step whose samples are in the file.
    sampled: Option<u64>,
}

impl JsonLog {
    /// Opens `tracking/run.jsonl` in `run` with the lines that `keep` lets stay, or with none but the first.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn open(run: &Path, about: &About<'_>, keep: Option<Keep>) -> Result<Self, CheckpointError> {
        let dir = run.join("tracking");
        let pictures = dir.join(PICTURES);
        std::fs::create_dir_all(&pictures).map_err(CheckpointError::io(&pictures, "creating the folder"))?;
        recover(&dir)?;
        recover(&pictures)?;
        let path = dir.join("run.jsonl");
        let text = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(CheckpointError::io(&path, "reading")(error)),
        };
        let (mut kept, mut begun, mut summary, mut sampled) = (Vec::new(), false, Map::new(), None);
        for line in text.split(|&byte| byte == b'\n') {
            // A line that was being written when the process died is not JSON.
            let Ok(row) = serde_json::from_slice::<Map<String, Value>>(line) else { continue };
            if !stays(keep, &row) {
                continue;
            }
            begun |= kept.is_empty() && row.get("type").is_some_and(|kind| kind == "run");
            kept.extend_from_slice(line);
            kept.push(b'\n');
            note(&row, &mut summary, &mut sampled);
        }
        // Readers count on the first line.
        if !begun {
            kept.splice(0..0, first_line(about).into_bytes());
        }
        write_file(&path, &kept)?;
        let file = DurableFile::open_at(&path, kept.len() as u64)?;
        Ok(Self { path, file, summary, sampled })
    }

    fn write(&mut self, row: Value) -> Result<(), CheckpointError> {
        if let Value::Object(row) = &row {
            note(row, &mut self.summary, &mut self.sampled);
        }
        let written = self.file.write_all(format!("{row}\n").as_bytes()).and_then(|()| self.file.flush());
        written.map_err(CheckpointError::io(&self.path, "writing"))
    }

    /// Writes a picture, once, under a name that its bytes give it.
    fn picture(&self, media: &str, bytes: &[u8]) -> Result<String, CheckpointError> {
        let sum = Sha256::digest(bytes);
        let sum: String = sum.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let extension = match media.strip_prefix("image/") {
            Some("jpeg") => "jpg",
            Some(kind) if !kind.is_empty() && kind.bytes().all(|b| b.is_ascii_alphanumeric()) => kind,
            _ => "bin",
        };
        let name = format!("{PICTURES}/{sum}.{extension}");
        let path = self.path.with_file_name(PICTURES).join(format!("{sum}.{extension}"));
        if !path.is_file() {
            write_file(&path, bytes)?;
        }
        Ok(name)
    }
}

impl Tracker for JsonLog {
    fn row(&mut self, row: &Map<String, Value>) -> Result<(), CheckpointError> {
        let (step, timestamp) = (step_of(row), millis(SystemTime::now()));
        let metrics: Vec<Value> = points(row)
            .map(|(key, value)| json!({"key": key, "value": number(value), "timestamp": timestamp, "step": step}))
            .collect();
        let phase = if is_evaluation(row) { "eval" } else { "train" };
        self.write(json!({"type": "metrics", "phase": phase, "step": step, "timestamp": timestamp, "metrics": metrics}))
    }

    fn samples(&mut self, step: usize, samples: &[Sample<'_>]) -> Result<(), CheckpointError> {
        let step = step as u64;
        if samples.is_empty() || self.sampled.is_some_and(|last| step <= last) {
            return Ok(());
        }
        let mut rows = Vec::with_capacity(samples.len());
        for sample in samples {
            let images: Result<Vec<String>, _> =
                sample.images.iter().map(|(media, bytes)| self.picture(media, bytes)).collect();
            rows.push(json!({
                "question": sample.question,
                "expected": sample.expected,
                "generated": sample.generated,
                "images": images?,
            }));
        }
        let timestamp = millis(SystemTime::now());
        self.write(json!({"type": "samples", "step": step, "timestamp": timestamp, "samples": rows}))
    }

    fn table(&mut self, step: usize, name: &str, table: &Table) -> Result<(), CheckpointError> {
        let timestamp = millis(SystemTime::now());
        let Table { columns, rows } = table;
        self.write(
            json!({"type": "table", "step": step, "timestamp": timestamp, "name": name, "columns": columns, "rows": rows}),
        )
    }

    fn sync(&mut self) -> Result<(), CheckpointError> {
        self.file.sync()
    }

    fn end(&mut self, step: usize, status: Status) -> Result<(), CheckpointError> {
        let status = match status {
            Status::Finished => "FINISHED",
            Status::Interrupted => "KILLED",
            Status::Failed => "FAILED",
        };
        let end_time = millis(SystemTime::now());
        self.write(
            json!({"type": "end", "step": step, "status": status, "end_time": end_time, "summary": self.summary}),
        )?;
        self.sync()
    }
}

fn first_line(about: &About<'_>) -> String {
    let tags = [
        ("mlflow.source.name", about.command),
        ("firebrick.command", about.command),
        ("firebrick.device", about.device),
        ("firebrick.version", env!("CARGO_PKG_VERSION")),
    ];
    let tags: Vec<Value> = tags.iter().map(|(key, value)| json!({"key": key, "value": value})).collect();
    let params: Vec<Value> = about.settings.iter().map(|s| json!({"key": s.key, "value": plain(s)})).collect();
    let config: Map<String, Value> = about.settings.iter().map(|s| (s.key.clone(), typed(s))).collect();
    let row = json!({
        "type": "run",
        "version": VERSION,
        "run_name": about.name,
        "start_time": millis(about.started),
        "tags": tags,
        "params": params,
        "config": config,
    });
    format!("{row}\n")
}

fn stays(keep: Option<Keep>, row: &Map<String, Value>) -> bool {
    let written = match row.get("type").and_then(Value::as_str) {
        Some("run") => return keep.is_some(),
        Some("metrics") if !is_evaluation(row) => Written::InTraining,
        Some("metrics" | "samples" | "table") => Written::InEvaluation,
        _ => Written::AtTheEnd,
    };
    written.stays(keep, step_of(row))
}

/// Takes from a line what later lines need.
fn note(row: &Map<String, Value>, summary: &mut Map<String, Value>, sampled: &mut Option<u64>) {
    match row.get("type").and_then(Value::as_str) {
        Some("metrics") => {
            for metric in row.get("metrics").and_then(Value::as_array).into_iter().flatten() {
                if let Some(key) = metric["key"].as_str() {
                    summary.insert(key.to_owned(), metric["value"].clone());
                }
            }
        }
        Some("samples") => *sampled = Some(step_of(row)),
        _ => {}
    }
}

/// JSON has no word for numbers that are not finite; this is protobuf's, which MLflow's API reads, and Python's `float`.
fn number(value: f64) -> Value {
    if value.is_finite() {
        json!(value)
    } else if value.is_nan() {
        json!("NaN")
    } else {
        json!(if value > 0.0 { "Infinity" } else { "-Infinity" })
    }
}

fn millis(at: SystemTime) -> u64 {
    u64::try_from(since_epoch(at).as_millis()).unwrap_or(u64::MAX)
}
