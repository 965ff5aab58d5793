//! One file, written so that it can be relied on.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::error::CheckpointError;
use super::fault::{Op, around};
use super::manifest;

/// Bytes collected before the operating system is called.
pub(super) const BUFFER: usize = 1 << 20;

/// A file whose writes and fsyncs are fault points, and which counts and hashes what is written.
///
/// Dropping it without [`sync`](Self::sync) may lose what is buffered: a file that was not synced
/// was not finished.
#[derive(Debug)]
pub struct DurableFile {
    path: PathBuf,
    file: File,
    buffer: Vec<u8>,
    size: u64,
    sum: Sha256,
}

impl DurableFile {
    /// Makes a new file; one that is there is an error.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn create(path: &Path) -> Result<Self, CheckpointError> {
        let file =
            around(Op::Create, path, || File::create_new(path)).map_err(CheckpointError::io(path, "creating"))?;
        Ok(Self { path: path.to_path_buf(), file, buffer: Vec::new(), size: 0, sum: Sha256::new() })
    }

    /// Opens a log to go on after its first `length` bytes; what follows them, written after the
    /// checkpoint that recorded the length, is cut off. The file is made where there is none and
    /// `length` is 0.
    ///
    /// # Errors
    /// [`CheckpointError::Damaged`] for a file shorter than `length`, else [`CheckpointError::Io`].
    pub fn open_at(path: &Path, length: u64) -> Result<Self, CheckpointError> {
        let io = |action| CheckpointError::io(path, action);
        let open = || OpenOptions::new().write(true).create(length == 0).truncate(false).open(path);
        let mut file = around(Op::Create, path, open).map_err(io("opening"))?;
        let found = file.metadata().map_err(io("reading the length"))?.len();
        if found < length {
            return Err(CheckpointError::damaged(
                path,
                format!("it has {found} bytes, {length} when the checkpoint was written"),
            ));
        }
        if found > length {
            around(Op::Write, path, || file.set_len(length)).map_err(io("cutting"))?;
        }
        file.seek(SeekFrom::Start(length)).map_err(io("seeking"))?;
        Ok(Self { path: path.to_path_buf(), file, buffer: Vec::new(), size: length, sum: Sha256::new() })
    }

    /// The length so far, what is buffered included.
    pub fn len(&self) -> u64 {
        self.size
    }

    /// Whether nothing has been written.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Forces everything written onto the disk.
    ///
    /// # Errors
    /// [`CheckpointError::Io`].
    pub fn sync(&mut self) -> Result<(), CheckpointError> {
        self.flush().map_err(CheckpointError::io(&self.path, "writing"))?;
        around(Op::Fsync, &self.path, || fsync(&self.file)).map_err(CheckpointError::io(&self.path, "fsync"))
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        around(Op::Write, &self.path, || self.file.write_all(bytes))
    }

    /// Syncs and returns size and SHA-256 sum, which is right for files from
    /// [`create`](Self::create) only.
    pub(super) fn finish(mut self) -> Result<(u64, String), CheckpointError> {
        self.sync()?;
        Ok((self.size, manifest::hex(&self.sum.finalize())))
    }
}

impl Write for DurableFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len() + bytes.len() > BUFFER {
            self.flush()?;
        }
        if bytes.len() > BUFFER {
            self.put(bytes)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        self.sum.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let buffer = std::mem::take(&mut self.buffer);
        let result = self.put(&buffer);
        self.buffer = buffer;
        self.buffer.clear();
        result
    }
}

/// Forces one open file or folder onto the disk.
pub(super) fn fsync(file: &File) -> io::Result<()> {
    // Thousands of simulated crashes need not wait for the disk: the simulation keeps its own
    // account of what was forced.
    #[cfg(test)]
    if super::fault::injected::active() {
        return Ok(());
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_log_goes_on_where_its_checkpoint_left_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        let mut log = DurableFile::open_at(&path, 0).unwrap();
        log.write_all(b"{\"step\":1}\n").unwrap();
        let length = log.len();
        log.write_all(b"{\"step\":2}\n{\"st").unwrap();
        log.sync().unwrap();
        drop(log);
        let mut log = DurableFile::open_at(&path, length).unwrap();
        log.write_all(b"{\"step\":3}\n").unwrap();
        log.sync().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "{\"step\":1}\n{\"step\":3}\n");
        let error = DurableFile::open_at(&path, 99).unwrap_err().to_string();
        assert!(error.contains("it has 22 bytes, 99 when"), "{error}");
        assert!(DurableFile::open_at(&dir.path().join("absent"), 5).is_err());
    }
}
