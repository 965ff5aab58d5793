//! A checkpoint's file in memory: a read-only map that knows whether the file has changed since.
//!
//! Frozen weights stay in the map for as long as a run lasts. Writers known to us replace a checkpoint by rename, which
//! leaves a mapped file as it is. A file that is overwritten in place is another matter: its new bytes are at once the
//! model's weights, and where it becomes shorter, the process ends with a bus error at the next look. The first is
//! found by [`unchanged`], which every checkpoint of a run asks before it is written; the second loses no checkpoint.

use super::error::CheckpointError;
use memmap2::{Advice, Mmap, UncheckedAdvice};
use std::fs::File;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

/// Files that are mapped somewhere in this process.
static LIVE: Mutex<Vec<Weak<MappedFile>>> = Mutex::new(Vec::new());

/// A file under a read-only memory map.
#[derive(Debug)]
pub(super) struct MappedFile {
    path: PathBuf,
    /// Kept open: a name may come to stand for another file, this one stays the one that is mapped.
    file: File,
    map: Mmap,
    stamp: Stamp,
}

/// What changes when a file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    length: u64,
    modified: Option<SystemTime>,
}

impl Stamp {
    fn of(file: &File) -> std::io::Result<Self> {
        let data = file.metadata()?;
        Ok(Self { length: data.len(), modified: data.modified().ok() })
    }
}

impl MappedFile {
    /// Opens and maps a file.
    pub fn open(path: &Path) -> Result<Arc<Self>, CheckpointError> {
        let file = File::open(path).map_err(CheckpointError::io(path, "opening"))?;
        let stamp = Stamp::of(&file).map_err(CheckpointError::io(path, "reading the size"))?;
        // SAFETY: the map is read only. As with every memory map, another process that truncates the file ends us with a
        // bus error and one that writes into it changes the slices that are handed out; the module's documentation says
        // what is done about it.
        let map = unsafe { Mmap::map(&file) }.map_err(CheckpointError::io(path, "mapping"))?;
        let mapped = Arc::new(Self { path: path.to_path_buf(), file, map, stamp });
        let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|file| file.strong_count() > 0);
        live.push(Arc::downgrade(&mapped));
        Ok(mapped)
    }

    /// Has the whole file fetched from the disk, in the background.
    pub fn prefetch(&self) {
        // A hint: without it the bytes come when they are asked for.
        let _ = self.map.advise(Advice::WillNeed);
    }

    /// Lets go of the pages of a range that has been copied, so that they do not count as this process's memory; whoever
    /// reads them again gets them back from the file.
    pub fn release(&self, range: Range<usize>) {
        // The system's pages are no smaller; a longer one is left out at both ends by rounding inwards.
        const PAGE: usize = 1 << 16;
        let (start, end) = (range.start.next_multiple_of(PAGE), range.end / PAGE * PAGE);
        if start < end && end <= self.map.len() {
            // SAFETY: the map is shared and read only: its pages come back from the file with the same bytes.
            let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        }
    }

    fn check(&self) -> Result<(), CheckpointError> {
        let now = Stamp::of(&self.file).map_err(CheckpointError::io(&self.path, "reading the size"))?;
        if now == self.stamp {
            return Ok(());
        }
        Err(CheckpointError::Changed { path: self.path.clone(), before: self.stamp.length, now: now.length })
    }
}

impl Deref for MappedFile {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.map
    }
}

/// A window of a file that keeps it open.
#[derive(Debug, Clone)]
pub(super) struct Window {
    /// The file.
    pub file: Arc<MappedFile>,
    /// Which of its bytes.
    pub range: Range<usize>,
}

impl AsRef<[u8]> for Window {
    fn as_ref(&self) -> &[u8] {
        &self.file[self.range.clone()]
    }
}

/// Whether every weight file of which this process holds windows is as it was when it was opened.
///
/// # Errors
/// [`CheckpointError::Changed`]: the weights in use are not those that the run began with.
pub fn unchanged() -> Result<(), CheckpointError> {
    let live: Vec<_> = LIVE.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade).collect();
    live.iter().try_for_each(|file| file.check())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_that_is_written_while_it_is_mapped_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.bin");
        std::fs::write(&path, vec![1u8; 1 << 18]).unwrap();
        let mapped = MappedFile::open(&path).unwrap();
        // Another file under the same name is none of ours.
        let beside = dir.path().join("x.bin");
        std::fs::write(&beside, [2u8; 9]).unwrap();
        std::fs::rename(&beside, &path).unwrap();
        mapped.check().unwrap();
        assert_eq!(mapped[0], 1);

        let again = MappedFile::open(&path).unwrap();
        again.check().unwrap();
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(&[3]).unwrap();
        let error = again.check().unwrap_err().to_string();
        assert!(error.contains("9 bytes then, 10 now"), "{error}");
    }

    #[test]
    fn released_pages_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("w.bin");
        let bytes: Vec<u8> = (0..(1 << 19)).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        let mapped = MappedFile::open(&path).unwrap();
        assert_eq!(&mapped[..], &bytes[..]);
        for range in [0..bytes.len(), 5..70_000, 70_000..70_001, 0..0] {
            mapped.release(range);
        }
        mapped.prefetch();
        assert_eq!(&mapped[..], &bytes[..]);
    }
}
