//! `generations/step-N.jsonl`: what a model said at each evaluation, a prediction file for each.

use super::log::Keep;
use crate::checkpoint::fault::{Op, around};
use crate::checkpoint::{CheckpointError, recover, write_file};
use crate::pipelines::Prediction;
use std::path::{Path, PathBuf};

/// The folder within a run's.
const FOLDER: &str = "generations";

/// Writes what was said at `step`; nothing where nothing was.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn write(run: &Path, step: usize, lines: &[Prediction]) -> Result<(), CheckpointError> {
    if lines.is_empty() {
        return Ok(());
    }
    let dir = run.join(FOLDER);
    std::fs::create_dir_all(&dir).map_err(CheckpointError::io(&dir, "creating the folder"))?;
    let path = dir.join(format!("step-{step}.jsonl"));
    let mut text = String::new();
    for line in lines {
        let json = serde_json::to_string(line).map_err(|error| CheckpointError::Json {
            path: path.clone(),
            line: error.line(),
            column: error.column(),
            message: error.to_string(),
        })?;
        text.push_str(&json);
        text.push('\n');
    }
    write_file(&path, text.as_bytes())
}

/// Removes the files that a resumed run writes again.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn cut(run: &Path, keep: Option<Keep>) -> Result<(), CheckpointError> {
    let dir = run.join(FOLDER);
    if !dir.is_dir() {
        return Ok(());
    }
    recover(&dir)?;
    for (step, path) in steps(run)? {
        if !keep.is_some_and(|keep| keep.keeps_evaluation(step)) {
            around(Op::Remove, &path, || std::fs::remove_file(&path))
                .map_err(CheckpointError::io(&path, "removing"))?;
        }
    }
    Ok(())
}

/// The files of a run, each with its step, by rising step.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn steps(run: &Path) -> Result<Vec<(usize, PathBuf)>, CheckpointError> {
    let dir = run.join(FOLDER);
    let mut found = Vec::new();
    if !dir.is_dir() {
        return Ok(found);
    }
    let io = || CheckpointError::io(&dir, "reading the folder");
    for entry in std::fs::read_dir(&dir).map_err(io())? {
        let path = entry.map_err(io())?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let step = name.and_then(|name| name.strip_prefix("step-")?.strip_suffix(".jsonl")?.parse().ok());
        found.extend(step.map(|step| (step, path)));
    }
    found.sort();
    Ok(found)
}

/// What was said at each step.
///
/// # Errors
/// [`CheckpointError::Io`]; [`CheckpointError::Json`] of a line that somebody changed.
pub fn read(run: &Path) -> Result<Vec<(usize, Vec<Prediction>)>, CheckpointError> {
    let one = |(step, path): (usize, PathBuf)| {
        let text = std::fs::read_to_string(&path).map_err(CheckpointError::io(&path, "reading"))?;
        let line = |(number, line): (usize, &str)| {
            serde_json::from_str(line).map_err(|error| CheckpointError::Json {
                path: path.clone(),
                line: number + 1,
                column: error.column(),
                message: error.to_string(),
            })
        };
        Ok((step, text.lines().enumerate().map(line).collect::<Result<_, _>>()?))
    };
    steps(run)?.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_resumed_run_writes_again_is_removed() {
        let line = |id: &str| Prediction { id: id.to_owned(), ..Prediction::default() };
        for (keep, left) in [
            (None, &[][..]),
            (Some(Keep { step: 10, evaluation: true }), &[0, 9, 10][..]),
            (Some(Keep { step: 10, evaluation: false }), &[0, 9]),
        ] {
            let run = tempfile::tempdir().unwrap();
            cut(run.path(), keep).unwrap();
            for step in [0, 9, 10, 11] {
                write(run.path(), step, &[line("a"), line("b")]).unwrap();
            }
            write(run.path(), 12, &[]).unwrap();
            cut(run.path(), keep).unwrap();
            let found = read(run.path()).unwrap();
            assert_eq!(found.iter().map(|(step, _)| *step).collect::<Vec<_>>(), left);
            assert!(found.iter().all(|(_, lines)| lines[1].id == "b"));
        }
    }
}
