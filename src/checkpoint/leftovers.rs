//! Hidden names beside a target, and the changes of folders that use them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::durable::fsync;
use super::error::CheckpointError;
use super::fault::{Op, around};

/// Removes a temporary file or folder unless it was disarmed.
#[derive(Debug)]
pub(super) struct Cleanup(pub Option<PathBuf>);

impl Drop for Cleanup {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // The error that brought us here is the one to report; what stays is cleared by
            // `recover`.
            let _ = remove(path);
        }
    }
}

/// What a hidden name beside a target says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leftover {
    /// Being written.
    Temp,
    /// The former target while it is replaced.
    Old,
    /// Being deleted.
    Trash,
}

impl Leftover {
    const ALL: [(Self, &'static str); 3] = [(Self::Old, "old"), (Self::Temp, "tmp"), (Self::Trash, "trash")];

    /// A name of this kind that no other writer uses.
    pub fn beside(self, target: &Path) -> Result<PathBuf, CheckpointError> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let Some(name) = target.file_name().and_then(|name| name.to_str()) else {
            let reason = "it must end in a name of Unicode characters";
            return Err(CheckpointError::Name {
                dir: parent(target).to_path_buf(),
                name: target.display().to_string(),
                reason,
            });
        };
        let kind = Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("tmp", |(_, kind)| kind);
        let (pid, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Ok(parent(target).join(format!(".{name}.{kind}-{pid}-{count}")))
    }

    /// The kind and the target's name, where `name` is one that [`beside`](Self::beside) makes.
    fn parse(name: &str) -> Option<(Self, &str)> {
        let (front, count) = name.strip_prefix('.')?.rsplit_once('-')?;
        let (front, pid) = front.rsplit_once('-')?;
        count.parse::<u64>().ok()?;
        pid.parse::<u32>().ok()?;
        let (target, kind) = front.rsplit_once('.')?;
        Self::ALL.iter().find(|(_, known)| *known == kind).map(|(kind, _)| (*kind, target))
    }
}

/// Clears what a writer that died left in a folder: half-written and half-deleted files are
/// removed, and a target that was being replaced is put back. Returns what was cleared. Only for a
/// folder that no other process writes (see [`RunLock`](super::RunLock)).
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn recover(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let mut cleared = Vec::new();
    for entry in fs::read_dir(folder).map_err(CheckpointError::io(folder, "reading the folder"))? {
        let entry = entry.map_err(CheckpointError::io(folder, "reading the folder"))?;
        let name = entry.file_name();
        let Some((kind, target)) = name.to_str().and_then(Leftover::parse) else {
            continue;
        };
        let (path, target) = (entry.path(), folder.join(target));
        if kind == Leftover::Old && target.symlink_metadata().is_err() {
            rename(&path, &target)?;
            sync_dir(folder)?;
        } else {
            remove(&path)?;
        }
        cleared.push(path);
    }
    Ok(cleared)
}

/// Deletes a folder or file: renamed first, so that a half-deleted one is never mistaken for a
/// whole one.
pub(super) fn discard(path: &Path) -> Result<(), CheckpointError> {
    let trash = Leftover::Trash.beside(path)?;
    rename(path, &trash)?;
    sync_parent(path)?;
    remove(&trash)
}

pub(super) fn rename(from: &Path, to: &Path) -> Result<(), CheckpointError> {
    around(Op::Rename, to, || fs::rename(from, to)).map_err(CheckpointError::io(from, "renaming"))
}

pub(super) fn remove(path: &Path) -> Result<(), CheckpointError> {
    let act = || {
        if path.symlink_metadata()?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
    };
    around(Op::Remove, path, act).map_err(CheckpointError::io(path, "removing"))
}

pub(super) fn sync_parent(path: &Path) -> Result<(), CheckpointError> {
    sync_dir(parent(path))
}

/// Forces a folder's names onto the disk. Only Unix can; elsewhere the file system does it in its
/// own time.
pub(super) fn sync_dir(folder: &Path) -> Result<(), CheckpointError> {
    let act = || {
        if cfg!(unix) { fsync(&File::open(folder)?) } else { Ok(()) }
    };
    around(Op::Fsync, folder, act).map_err(CheckpointError::io(folder, "fsync"))
}

/// The folder a path is in; `.` for a bare name.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftover_names_are_told_from_a_users_files() {
        let dir = tempfile::tempdir().unwrap();
        let made = Leftover::Trash.beside(&dir.path().join("checkpoint-12.damaged")).unwrap();
        let name = made.file_name().unwrap().to_str().unwrap();
        assert_eq!(Leftover::parse(name), Some((Leftover::Trash, "checkpoint-12.damaged")));
        for name in [".gitignore", "checkpoint-1.tmp-1-2", ".a.tmp-x-1", ".a.bak-1-2", ".tmp-1-2", ".a.tmp-1"] {
            assert_eq!(Leftover::parse(name), None, "{name}");
        }
    }
}
