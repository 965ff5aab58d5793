//! A run's own checkpoints: `checkpoint-N` folders of a run folder, `N` being the optimizer steps
//! done.
//!
//! Each holds the caller's files, `state.json`, and `manifest.json`, and is written by
//! [`DirWriter`], so that a half-written one has no such name. [`open`] is for resuming; [`latest`]
//! only looks.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::atomic::{DirWriter, Manifest};
use super::config_json::read_json;
use super::error::CheckpointError;
use super::leftovers;
use super::lock::RunLock;
use super::manifest::{check_sizes, verify};
use super::writer::{Pending, write_safetensors};

const PREFIX: &str = "checkpoint-";
const STATE: &str = "state.json";

/// One file of a checkpoint.
pub enum Content<'a> {
    /// Bytes as they are.
    Bytes(Cow<'a, [u8]>),
    /// A JSON value.
    Json(Value),
    /// Tensors, written as one safetensors file.
    Tensors(Vec<Pending<'a>>),
}

/// A checkpoint that is whole.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Optimizer steps done.
    pub step: usize,
    /// Its folder.
    pub path: PathBuf,
    /// What [`save`] was given as the state.
    pub state: Value,
}

/// A checkpoint that is not whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skipped {
    /// Its folder, as it was found.
    pub path: PathBuf,
    /// What is wrong with it, for the user.
    pub reason: String,
    /// Where [`open`] moved it.
    pub moved_to: Option<PathBuf>,
}

/// What a run folder holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Latest {
    /// The newest whole checkpoint, if any.
    pub found: Option<Found>,
    /// Newer ones that are damaged, newest first. They must be reported: the run falls back behind
    /// them.
    pub skipped: Vec<Skipped>,
}

/// Writes `checkpoint-{step}` with `files` (name, content) and `state`, which is `state.json`; one
/// of that name is replaced.
///
/// # Errors
/// [`CheckpointError::Io`], [`CheckpointError::Name`], [`CheckpointError::Tensor`]. The folder is
/// then not there, or is the former one.
pub fn save(
    run_dir: &Path,
    step: usize,
    files: Vec<(String, Content<'_>)>,
    state: &Value,
) -> Result<PathBuf, CheckpointError> {
    let path = run_dir.join(format!("{PREFIX}{step}"));
    let mut folder = DirWriter::create(&path)?;
    for (name, content) in files {
        match content {
            Content::Bytes(bytes) => folder.write(&name, &bytes)?,
            Content::Json(value) => folder.write_json(&name, &value)?,
            Content::Tensors(tensors) => {
                let file = path.join(&name);
                folder.write_with(&name, |sink| write_safetensors(sink, &file, tensors))?;
            }
        }
    }
    folder.write_json(STATE, state)?;
    folder.commit(Manifest::Written)?;
    Ok(path)
}

/// Prepares a run folder for resuming: clears what a killed process left, finds the newest whole
/// checkpoint, and moves damaged newer ones out of the way (`checkpoint-12.damaged`), where they
/// can be examined and cannot be taken for the newest again.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn open(lock: &RunLock) -> Result<Latest, CheckpointError> {
    leftovers::recover(lock.run_dir())?;
    let mut latest = latest(lock.run_dir())?;
    for skipped in &mut latest.skipped {
        let mut name = skipped.path.clone().into_os_string();
        name.push(".damaged");
        let aside = PathBuf::from(name);
        if aside.symlink_metadata().is_ok() {
            leftovers::discard(&aside)?;
        }
        leftovers::rename(&skipped.path, &aside)?;
        leftovers::sync_parent(&aside)?;
        skipped.moved_to = Some(aside);
    }
    Ok(latest)
}

/// Finds the newest whole checkpoint and changes nothing: manifest there, every file there with its
/// size and SHA-256 sum.
///
/// # Errors
/// [`CheckpointError::Io`] where the run folder cannot be read. A damaged checkpoint is no error.
pub fn latest(run_dir: &Path) -> Result<Latest, CheckpointError> {
    let mut latest = Latest::default();
    for (step, path) in list(run_dir)?.into_iter().rev() {
        match verify(&path).and_then(|()| read_json(&path.join(STATE))) {
            Ok(state) => {
                latest.found = Some(Found { step, path, state });
                break;
            }
            Err(error) => {
                let reason = match error {
                    CheckpointError::Damaged { reason, .. } => reason,
                    other => other.to_string(),
                };
                latest.skipped.push(Skipped { path, reason, moved_to: None });
            }
        }
    }
    Ok(latest)
}

/// All `checkpoint-N` of a run folder, whole or not, by rising step.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn list(run_dir: &Path) -> Result<Vec<(usize, PathBuf)>, CheckpointError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(run_dir).map_err(CheckpointError::io(run_dir, "reading the folder"))? {
        let entry = entry.map_err(CheckpointError::io(run_dir, "reading the folder"))?;
        let name = entry.file_name();
        let digits = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        // `checkpoint-+7` and `checkpoint-07` parse as numbers and are not names that `save` makes.
        let step = digits.and_then(|digits| digits.parse::<usize>().ok().filter(|step| step.to_string() == digits));
        if let Some(step) = step {
            found.push((step, entry.path()));
        }
    }
    found.sort();
    Ok(found)
}

/// Deletes checkpoints until `keep` are left, as `save_total_limit` does: those in `protect` (the
/// best by its metric) stay and count, then the newest; the newest whole one always stays. Returns
/// what was deleted.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn prune(run_dir: &Path, keep: usize, protect: &[usize]) -> Result<Vec<PathBuf>, CheckpointError> {
    let all = list(run_dir)?;
    let whole: Vec<usize> = all.iter().filter(|(_, path)| check_sizes(path).is_ok()).map(|(step, _)| *step).collect();
    let Some(&newest) = whole.last() else {
        return Ok(Vec::new());
    };
    let mut kept: BTreeSet<usize> = whole.iter().copied().filter(|step| protect.contains(step)).collect();
    kept.insert(newest);
    for &step in whole.iter().rev() {
        if kept.len() >= keep {
            break;
        }
        kept.insert(step);
    }
    let mut deleted = Vec::new();
    for (step, path) in all {
        // A damaged one that is newer than all whole ones is not ours to judge: `open` moves it
        // aside.
        if step < newest && !kept.contains(&step) {
            leftovers::discard(&path)?;
            deleted.push(path);
        }
    }
    Ok(deleted)
}
