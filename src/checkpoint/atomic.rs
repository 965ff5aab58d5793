//! Crash-safe writing: a reader sees the old or the new file or folder, whole, wherever the writer
//! dies.
//!
//! Everything is written beside its target under a leftover name (`.checkpoint-12.tmp-4711-0`),
//! fsynced, and renamed into place; then the parent folder is fsynced, because until then the
//! rename itself can be lost. [`recover`](super::recover) clears what a dead writer left.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Component, Path, PathBuf};

use serde_json::Value;

use super::durable::{DurableFile, fsync};
use super::error::CheckpointError;
use super::fault::{Op, around};
use super::leftovers::{Cleanup, Leftover, parent, remove, rename, sync_dir, sync_parent};
use super::manifest::{self, Listed, MANIFEST};

/// Replaces a file: written beside it, fsynced, renamed over it.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn write_file(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let temp = Leftover::Temp.beside(path)?;
    let mut guard = Cleanup(Some(temp.clone()));
    let mut file = DurableFile::create(&temp)?;
    file.write_all(bytes).map_err(CheckpointError::io(&temp, "writing"))?;
    file.sync()?;
    rename(&temp, path)?;
    guard.0 = None;
    sync_parent(path)
}

/// Gives a file that is whole and synced its name, over whatever has that name.
///
/// # Errors
/// [`CheckpointError::Io`].
pub fn place_file(from: &Path, to: &Path) -> Result<(), CheckpointError> {
    rename(from, to)?;
    sync_parent(to)
}

/// Whether a folder is committed with a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manifest {
    /// `manifest.json` with every file's size and SHA-256 sum is written last;
    /// [`verify`](super::verify) needs it.
    Written,
    /// None: for folders that other programs read.
    Omitted,
}

/// Writes a folder so that it appears whole or not at all.
///
/// Files are added with [`write`](Self::write) and its kin, or put by other code straight into
/// [`path`](Self::path); [`commit`](Self::commit) renames the folder into place. Dropped before
/// that, it removes what it wrote.
#[derive(Debug)]
pub struct DirWriter {
    target: PathBuf,
    temp: PathBuf,
    files: Vec<Listed>,
    cleanup: Cleanup,
}

impl DirWriter {
    /// Starts a folder that will replace `target`; missing parents are made.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn create(target: &Path) -> Result<Self, CheckpointError> {
        let parent = parent(target);
        fs::create_dir_all(parent).map_err(CheckpointError::io(parent, "creating the folder"))?;
        let temp = Leftover::Temp.beside(target)?;
        around(Op::Create, &temp, || fs::create_dir(&temp))
            .map_err(CheckpointError::io(&temp, "creating the folder"))?;
        Ok(Self { target: target.to_path_buf(), cleanup: Cleanup(Some(temp.clone())), temp, files: Vec::new() })
    }

    /// Where the folder will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Where the folder is until then, for code that writes files by path; they are fsynced, and
    /// listed, by [`commit`](Self::commit).
    pub fn path(&self) -> &Path {
        &self.temp
    }

    /// Adds a file; `name` may contain `/`.
    ///
    /// # Errors
    /// [`CheckpointError::Name`] for a name that leaves the folder or is taken,
    /// [`CheckpointError::Io`].
    pub fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
        let path = self.target.join(name);
        self.write_with(name, |file| file.write_all(bytes).map_err(CheckpointError::io(&path, "writing")))
    }

    /// Adds a JSON file, indented, with a line break at its end.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    pub fn write_json(&mut self, name: &str, value: &Value) -> Result<(), CheckpointError> {
        self.write(name, format!("{value:#}\n").as_bytes())
    }

    /// Adds a file that `fill` writes piece by piece.
    ///
    /// # Errors
    /// As [`write`](Self::write), and those of `fill`.
    pub fn write_with<T>(
        &mut self,
        name: &str,
        fill: impl FnOnce(&mut DurableFile) -> Result<T, CheckpointError>,
    ) -> Result<T, CheckpointError> {
        let path = self.place(name)?;
        let mut file = DurableFile::create(&path)?;
        let result = fill(&mut file)?;
        let (size, sha256) = file.finish()?;
        self.files.push(Listed { name: name.to_owned(), size, sha256 });
        Ok(result)
    }

    /// Makes the folder whole and renames it into place; a folder of that name is replaced.
    ///
    /// # Errors
    /// [`CheckpointError::Io`]; the target is then what it was.
    pub fn commit(mut self, manifest: Manifest) -> Result<(), CheckpointError> {
        let folders = self.adopt()?;
        if manifest == Manifest::Written {
            self.files.sort_by(|a, b| a.name.cmp(&b.name));
            let path = self.temp.join(MANIFEST);
            let mut file = DurableFile::create(&path)?;
            let text = format!("{:#}\n", manifest::to_json(&self.files));
            file.write_all(text.as_bytes()).map_err(CheckpointError::io(&path, "writing"))?;
            file.sync()?;
        }
        for folder in folders.iter().rev() {
            sync_dir(folder)?;
        }
        if self.target.symlink_metadata().is_err() {
            rename(&self.temp, &self.target)?;
            self.cleanup.0 = None;
            return sync_parent(&self.target);
        }
        // A folder cannot be renamed over another. Between these two renames the target is missing:
        // `recover` puts the old one back.
        let old = Leftover::Old.beside(&self.target)?;
        rename(&self.target, &old)?;
        if let Err(error) = rename(&self.temp, &self.target) {
            rename(&old, &self.target)?;
            return Err(error);
        }
        self.cleanup.0 = None;
        sync_parent(&self.target)?;
        remove(&old)
    }

    /// Checks a name, and makes the folders in front of it.
    fn place(&self, name: &str) -> Result<PathBuf, CheckpointError> {
        let refuse = |reason| Err(CheckpointError::Name { dir: self.target.clone(), name: name.to_owned(), reason });
        let inside = Path::new(name).components().all(|part| matches!(part, Component::Normal(_)));
        if name.is_empty() || !inside || name.contains('\\') || name.split('/').any(str::is_empty) {
            return refuse("it must be a relative path inside the folder");
        }
        if name == MANIFEST {
            return refuse("the manifest is written by itself");
        }
        if self.files.iter().any(|file| file.name == name) {
            return refuse("it has been written already");
        }
        let path = self.temp.join(name);
        let folder = parent(&path);
        if !folder.is_dir() {
            around(Op::Create, folder, || fs::create_dir_all(folder))
                .map_err(CheckpointError::io(folder, "creating the folder"))?;
        }
        Ok(path)
    }

    /// Lists and fsyncs the files that other code put here; returns all folders, parents first.
    fn adopt(&mut self) -> Result<BTreeSet<PathBuf>, CheckpointError> {
        let known: BTreeSet<PathBuf> = self.files.iter().map(|file| self.temp.join(&file.name)).collect();
        let mut folders = BTreeSet::new();
        let mut todo = vec![self.temp.clone()];
        while let Some(folder) = todo.pop() {
            for entry in fs::read_dir(&folder).map_err(CheckpointError::io(&folder, "reading the folder"))? {
                let path = entry.map_err(CheckpointError::io(&folder, "reading the folder"))?.path();
                if path.is_dir() {
                    todo.push(path);
                } else if !known.contains(&path) {
                    around(Op::Fsync, &path, || fsync(&File::open(&path)?))
                        .map_err(CheckpointError::io(&path, "fsync"))?;
                    let (size, sha256) = manifest::hash(&path).map_err(CheckpointError::io(&path, "reading"))?;
                    let parts = path.strip_prefix(&self.temp).unwrap_or(&path).components();
                    let parts: Vec<_> = parts.map(|part| part.as_os_str().to_string_lossy()).collect();
                    self.files.push(Listed { name: parts.join("/"), size, sha256 });
                }
            }
            folders.insert(folder);
        }
        Ok(folders)
    }
}

#[cfg(test)]
mod tests {
    use super::super::durable::BUFFER;
    use super::super::manifest::verify;
    use super::*;

    #[test]
    fn a_folder_appears_whole_with_all_that_others_wrote_into_it() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a/b/final");
        let mut folder = DirWriter::create(&target).unwrap();
        folder.write("one.bin", &[7; 3]).unwrap();
        folder.write("sub/two.bin", &vec![1; BUFFER + 5]).unwrap();
        fs::write(folder.path().join("sub/tokenizer.json"), "{}").unwrap();
        assert!(!target.exists());
        folder.commit(Manifest::Written).unwrap();
        verify(&target).unwrap();
        let manifest = fs::read_to_string(target.join(MANIFEST)).unwrap();
        assert!(manifest.contains("\"sub/tokenizer.json\"") && manifest.contains("\"sub/two.bin\""), "{manifest}");
        assert_eq!(fs::read(target.join("sub/two.bin")).unwrap().len(), BUFFER + 5);
        assert_eq!(fs::read_dir(dir.path().join("a/b")).unwrap().count(), 1);
    }

    #[test]
    fn a_dropped_folder_leaves_nothing_and_a_committed_one_replaces() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("final");
        for text in ["old", "new"] {
            let mut folder = DirWriter::create(&target).unwrap();
            folder.write("x", text.as_bytes()).unwrap();
            folder.commit(Manifest::Omitted).unwrap();
        }
        let mut folder = DirWriter::create(&target).unwrap();
        folder.write("x", b"dropped").unwrap();
        drop(folder);
        assert_eq!(fs::read(target.join("x")).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn names_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        let mut folder = DirWriter::create(&dir.path().join("f")).unwrap();
        folder.write("a", b"").unwrap();
        for name in ["../x", "/x", "", "a//b", "./x", "a\\b", "a", MANIFEST] {
            assert!(matches!(folder.write(name, b""), Err(CheckpointError::Name { .. })), "{name:?}");
        }
    }

    #[test]
    fn a_file_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.json");
        write_file(&path, b"old").unwrap();
        write_file(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(write_file(&dir.path().join("absent/x"), b"").is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
