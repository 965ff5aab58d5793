//! The run folder: its name, its lock, what a resumed run must agree with.

use super::memory::Batching;
use super::{Arguments, RecipeError};
use crate::checkpoint::{JsonFile, RunLock, run as checkpoints, write_file};
use crate::settings::{Recorded, Resolved};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const CONFIG: &str = "config.json";
const RUN: &str = "run.json";
/// Where `run.json` says how a run cuts its steps, where it chose that by itself.
pub const AUTO_BATCH: &str = "auto_batch";

/// Settings that say how long, how often and how fast, not what is computed: a resumed run may change them.
const FREE: &[&str] = &[
    "train.logging_steps",
    "train.save_total_limit",
    "train.dataloader_num_workers",
    "train.dataloader_prefetch_factor",
    "train.per_device_eval_batch_size",
];

/// A folder that this process alone writes.
#[derive(Debug)]
pub struct RunFolder {
    lock: RunLock,
    /// The checkpoint to continue from.
    pub resume: Option<checkpoints::Found>,
    /// What to tell the user about the folder.
    pub notes: Vec<String>,
}

/// What a run was started with besides its settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Inputs(pub BTreeMap<String, Value>);

impl RunFolder {
    /// Chooses, creates and locks the folder.
    ///
    /// # Errors
    /// [`RecipeError::OutputNotEmpty`] without `--resume`, [`RecipeError::Usage`] where `--resume` has no folder.
    pub fn open(arguments: &Arguments, name: &str) -> Result<Self, RecipeError> {
        let dir = match (&arguments.output, arguments.resume) {
            (Some(dir), _) => dir.clone(),
            (None, false) => fresh(name),
            (None, true) => {
                return Err(RecipeError::Usage(
                    "--resume needs --output, the folder of the run to continue".to_owned(),
                ));
            }
        };
        if !arguments.resume && holds_something(&dir) {
            return Err(RecipeError::OutputNotEmpty(dir));
        }
        let lock = RunLock::acquire(&dir)?;
        let mut notes = Vec::new();
        let mut resume = None;
        if arguments.resume {
            let latest = checkpoints::open(&lock)?;
            for skipped in &latest.skipped {
                let aside = skipped.moved_to.as_ref().map(|p| format!(" (kept as {})", p.display()));
                notes.push(format!(
                    "{} is damaged: {}{}; using the checkpoint before it",
                    skipped.path.display(),
                    skipped.reason,
                    aside.unwrap_or_default()
                ));
            }
            match &latest.found {
                Some(found) => notes.push(format!("continuing from {}", found.path.display())),
                None => notes.push("there is no whole checkpoint yet: starting anew".to_owned()),
            }
            resume = latest.found;
        }
        Ok(Self { lock, resume, notes })
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.lock.run_dir()
    }

    /// Removes the folder of a run that was refused before it began, where nothing but its lock is in it.
    pub fn abandon(self) {
        let dir = self.dir().to_owned();
        if self.resume.is_none() && !dir.join(CONFIG).exists() {
            // What the recipe made for a run that is none; as below, no second error.
            let _ = std::fs::remove_dir_all(dir.join("made"));
        }
        if !holds_something(&dir) {
            // A folder that cannot be removed is no second error: the first one is being reported.
            let _ = std::fs::remove_file(dir.join(RunLock::FILE));
            let _ = std::fs::remove_dir(&dir);
        }
    }

    /// As [`abandon`](Self::abandon) for a run that was recorded and whose weights were then refused.
    pub fn retract(self) {
        if self.resume.is_none() {
            for file in [CONFIG, RUN] {
                let _ = std::fs::remove_file(self.dir().join(file));
            }
        }
        self.abandon();
    }

    /// Whether `final/` is there, which is written last.
    pub fn is_finished(&self) -> bool {
        self.resume.is_some() && self.dir().join("final").is_dir() && self.dir().join("report.html").is_file()
    }

    /// Refuses to make a model for a run that was started on a real one, before anything is made.
    ///
    /// # Errors
    /// [`RecipeError::Changed`].
    pub fn check_made(&self, has_model: bool) -> Result<(), RecipeError> {
        let run = self.dir().join(RUN);
        if self.resume.is_none() || has_model || !run.is_file() {
            return Ok(());
        }
        let model = JsonFile::read(&run)?.value()["model"].clone();
        if model == "made" {
            return Ok(());
        }
        let changes = format!("  --model was {model} and is missing");
        Err(RecipeError::Changed { run: self.dir().to_owned(), changes })
    }

    /// How the run that is continued chose to cut its steps.
    pub fn batching(&self) -> Option<Batching> {
        self.resume.as_ref()?;
        let run = JsonFile::read(&self.dir().join(RUN)).ok()?;
        serde_json::from_value(run.value()[AUTO_BATCH].clone()).ok()
    }

    /// Compares with what the run was started with, or records it.
    ///
    /// # Errors
    /// [`RecipeError::Changed`] with every difference.
    pub fn agree(&self, settings: &Resolved, inputs: &Inputs) -> Result<(), RecipeError> {
        let (config, run) = (self.dir().join(CONFIG), self.dir().join(RUN));
        if self.resume.is_some() {
            let mut changes: Vec<String> = settings
                .differences(&Recorded::read(&config)?)
                .iter()
                .filter(|d| !FREE.contains(&d.key.as_str()))
                .map(|d| format!("  {d}"))
                .collect();
            let earlier = JsonFile::read(&run)?;
            for (key, now) in &inputs.0 {
                let was = &earlier.value()[key.as_str()];
                if was != now {
                    changes.push(format!("  {key} was {was} and is {now}"));
                }
            }
            if !changes.is_empty() {
                return Err(RecipeError::Changed { run: self.dir().to_owned(), changes: changes.join("\n") });
            }
        }
        write_file(&config, format!("{:#}\n", settings.to_json()).as_bytes())?;
        write_file(&run, format!("{:#}\n", json!(inputs.0)).as_bytes())?;
        Ok(())
    }
}

/// `runs/<name>-<n>` with the first `n` that is free.
fn fresh(name: &str) -> PathBuf {
    let mut n = 1;
    loop {
        let dir = PathBuf::from("runs").join(format!("{name}-{n}"));
        if !dir.exists() {
            return dir;
        }
        n += 1;
    }
}

/// The lock of a process that died leaves a file that does not count.
fn holds_something(dir: &Path) -> bool {
    std::fs::read_dir(dir).map(|entries| entries.flatten().any(|e| e.file_name() != RunLock::FILE)).unwrap_or(false)
}
