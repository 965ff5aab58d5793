//! One repository in the hub's cache, laid out as Python's `huggingface_hub` does:
//!
//! ```text
//! models--owner--name/blobs/<etag>                    contents, once each
//!                    /snapshots/<commit>/<file>       links to them
//!                    /refs/<branch or tag>            its commit
//!                    /listings/<commit>.json          ours: what the repository holds
//! .locks/models--owner--name/<etag>.lock              held while a blob is written
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::error::HubError;
use super::id::HubId;
use super::listing::Listing;
use super::names;
use super::retry::pause;
use super::settings::HubSettings;
use super::watch::Watch;
use crate::checkpoint::leftovers::{parent, rename, sync_parent};
use crate::checkpoint::{CheckpointError, write_file};

/// By this file backup programs know a folder that can be had again.
const TAG: &str = "CACHEDIR.TAG";
const TAG_TEXT: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# Hugging Face hub cache\n";

/// How often a lock that another process holds is tried.
const LOCK_STEP: Duration = Duration::from_millis(200);
/// Waiting longer than this is told.
const LOCK_QUIET: Duration = Duration::from_secs(2);

/// The folders of one repository.
#[derive(Debug)]
pub(super) struct RepoCache {
    cache: PathBuf,
    dir: PathBuf,
    locks: PathBuf,
    symlinks: bool,
}

impl RepoCache {
    pub fn new(settings: &HubSettings, id: &HubId) -> Self {
        let name = format!("models--{}", id.repo().replace('/', "--"));
        let cache = settings.cache.clone();
        Self { dir: cache.join(&name), locks: cache.join(".locks").join(name), cache, symlinks: settings.symlinks }
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir.join("snapshots").join(commit)
    }

    fn pointer(&self, commit: &str, name: &str) -> PathBuf {
        name.split('/').fold(self.snapshot(commit), |path, part| path.join(part))
    }

    pub fn blob(&self, etag: &str) -> PathBuf {
        self.dir.join("blobs").join(etag)
    }

    /// Where a blob grows. Python's older versions use the same name, and its newer ones others.
    pub fn partial(&self, etag: &str) -> PathBuf {
        self.dir.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// The commit of a revision, as it was when the cache last asked.
    pub fn commit(&self, id: &HubId) -> Option<String> {
        if id.is_commit() {
            return Some(id.revision().to_owned());
        }
        let commit = fs::read_to_string(self.reference(id)).ok()?;
        let commit = commit.trim();
        names::is_commit(commit).then(|| commit.to_owned())
    }

    fn reference(&self, id: &HubId) -> PathBuf {
        id.revision().split('/').fold(self.dir.join("refs"), |path, part| path.join(part))
    }

    /// Notes the commit of a revision.
    pub fn write_commit(&self, id: &HubId, commit: &str) -> Result<(), CheckpointError> {
        if id.is_commit() || self.commit(id).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.reference(id);
        create_dir(parent(&path))?;
        write_file(&path, commit.as_bytes())
    }

    /// The listing of a commit: ours, or the one that Python's library keeps.
    pub fn listing(&self, commit: &str) -> Option<Listing> {
        let file = format!("{commit}.json");
        ["listings", "trees"].iter().find_map(|dir| Listing::read(&self.dir.join(dir).join(&file), commit))
    }

    /// Keeps the listing of a commit.
    pub fn write_listing(&self, listing: &Listing) -> Result<(), CheckpointError> {
        let dir = self.dir.join("listings");
        let path = dir.join(format!("{}.json", listing.commit));
        if Listing::read(&path, &listing.commit).as_ref() == Some(listing) {
            return Ok(());
        }
        create_dir(&dir)?;
        let tag = self.cache.join(TAG);
        if !tag.exists() {
            write_file(&tag, TAG_TEXT.as_bytes())?;
        }
        listing.write(&path)
    }

    /// The files of a snapshot, in any depth.
    pub fn names(&self, commit: &str) -> Vec<String> {
        let root = self.snapshot(commit);
        let mut found = Vec::new();
        let mut todo = vec![(root, String::new())];
        while let Some((dir, prefix)) = todo.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let Ok(name) = entry.file_name().into_string() else { continue };
                let path = entry.path();
                // Not through links: a link to a folder could lead in circles.
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => todo.push((path, format!("{prefix}{name}/"))),
                    Ok(_) if path.is_file() => found.push(format!("{prefix}{name}")),
                    _ => {}
                }
            }
        }
        found.sort();
        found
    }

    /// Whether a snapshot has a file, with that many bytes where they are known.
    pub fn holds(&self, commit: &str, name: &str, size: Option<u64>) -> bool {
        has(&self.pointer(commit, name), size)
    }

    /// Makes the folders for a blob.
    pub fn prepare(&self) -> Result<(), CheckpointError> {
        create_dir(&self.dir.join("blobs"))
    }

    /// Lets a snapshot's file point to its blob. `fresh` says that nothing else uses the blob yet.
    pub fn link(&self, commit: &str, name: &str, etag: &str, fresh: bool) -> Result<(), CheckpointError> {
        let pointer = self.pointer(commit, name);
        create_dir(parent(&pointer))?;
        let temp = parent(&pointer).join(format!(".{etag}.{}.tmp", std::process::id()));
        // A leftover of a process that died and had our number.
        let _ = fs::remove_file(&temp);
        let up = "../".repeat(2 + name.matches('/').count());
        let target = PathBuf::from(format!("{up}blobs/{etag}"));
        if self.symlinks && symlink(&target, &temp).is_ok() {
            return rename(&temp, &pointer);
        }
        // Without links the snapshot holds the file itself; Python's library expects it so.
        let blob = self.blob(etag);
        if !fresh {
            fs::copy(&blob, &temp).map_err(CheckpointError::io(&temp, "copying"))?;
            rename(&temp, &pointer)?;
        } else {
            rename(&blob, &pointer)?;
        }
        sync_parent(&pointer)
    }

    /// Takes the lock of a blob; another process that fetches it is waited for.
    ///
    /// # Errors
    /// [`HubError::Interrupted`], [`HubError::File`].
    pub fn lock(&self, id: &HubId, etag: &str, watch: &mut dyn Watch) -> Result<BlobLock, HubError> {
        create_dir(&self.locks)?;
        let path = self.locks.join(format!("{etag}.lock"));
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(CheckpointError::io(&path, "opening"))?;
        let begun = Instant::now();
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(BlobLock(file)),
                Err(TryLockError::WouldBlock) => {}
                // Some network file systems have no locks. The sums then find what two writers made
                // of one file.
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => {
                    return Ok(BlobLock(file));
                }
                Err(TryLockError::Error(error)) => return Err(CheckpointError::io(&path, "locking")(error).into()),
            }
            if !told && begun.elapsed() >= LOCK_QUIET {
                watch.message(&format!("{}: another process fetches the same file, waiting for it", path.display()));
                told = true;
            }
            pause(LOCK_STEP, id, watch)?;
        }
    }

    /// Bytes that may still be written to the cache's disk, where the system says.
    pub fn free(&self) -> Option<u64> {
        free(&self.dir)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

/// The right to write a blob, until it is dropped or the process dies.
#[derive(Debug)]
pub(super) struct BlobLock(File);

impl Drop for BlobLock {
    /// Unlocks, instead of only closing: a process that is just being started has copies of all open
    /// files.
    fn drop(&mut self) {
        // Where this fails, closing the file unlocks it.
        let _ = self.0.unlock();
    }
}

/// Whether `path` is a file, with that many bytes where they are known.
pub(super) fn has(path: &Path, size: Option<u64>) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && size.is_none_or(|size| size == found.len()))
}

fn create_dir(dir: &Path) -> Result<(), CheckpointError> {
    fs::create_dir_all(dir).map_err(CheckpointError::io(dir, "creating the folder"))
}

#[cfg(unix)]
fn symlink(target: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, at)
}

#[cfg(windows)]
fn symlink(target: &Path, at: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, at)
}

#[cfg(unix)]
fn free(dir: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(dir).ok()?;
    disk.f_bavail.checked_mul(disk.f_frsize)
}

#[cfg(not(unix))]
fn free(_dir: &Path) -> Option<u64> {
    None
}
