//! The temporary folder of a file that has to be unpacked before its records can be found.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::data::DataError;

/// What a file may unpack to, however small it is.
const ALWAYS: u64 = 1 << 30;
/// What a file may unpack to per byte of its own. Text that repeats itself reaches a hundred.
const PER_BYTE: u64 = 1000;
/// What a line counts for at least: a few bytes may stand for any number of empty rows.
const LINE: usize = 256;
/// Bytes that are unpacked at a time.
const PIECE: usize = 1 << 16;

/// A folder that is removed with the data set that reads from it: the records, and pictures named by their contents.
#[derive(Debug)]
pub struct Scratch(TempDir);

impl Scratch {
    /// An empty folder among the system's temporary ones.
    pub fn new(path: &Path) -> Result<Arc<Self>, DataError> {
        let folder = tempfile::Builder::new().prefix("firebrick-data-").tempdir();
        let failed = |source| DataError::Unpack { path: path.to_owned(), folder: std::env::temp_dir(), source };
        Ok(Arc::new(Self(folder.map_err(failed)?)))
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The file that the records are unpacked to.
    pub fn records(&self) -> PathBuf {
        self.0.path().join("records")
    }
}

/// Writes what a file unpacks to, and stops where that is out of proportion.
pub struct Unpacked {
    path: PathBuf,
    scratch: Arc<Scratch>,
    records: BufWriter<File>,
    written: u64,
    most: u64,
}

impl Unpacked {
    /// For what is in the file at `path`.
    ///
    /// # Errors
    /// [`DataError::Unpack`]; the methods also give [`DataError::TooMuchUnpacked`].
    pub fn create(path: &Path, scratch: &Arc<Scratch>) -> Result<Self, DataError> {
        let size = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let most = size.saturating_mul(PER_BYTE).max(ALWAYS);
        let failed = |source| DataError::Unpack { path: path.to_owned(), folder: scratch.path().to_owned(), source };
        let records = File::create(scratch.records()).map_err(failed)?;
        let records = BufWriter::with_capacity(PIECE, records);
        Ok(Self { path: path.to_owned(), scratch: scratch.clone(), records, written: 0, most })
    }

    /// Adds one line.
    pub fn line(&mut self, value: &serde_json::Value) -> Result<(), DataError> {
        let mut line = value.to_string();
        line.push('\n');
        self.count(line.len().max(LINE))?;
        self.write(line.as_bytes())
    }

    /// Adds bytes as they are.
    pub fn text(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.count(bytes.len())?;
        self.write(bytes)
    }

    /// Puts bytes into a file of their own, unless it is there already, and returns its name within the folder.
    pub fn blob(&mut self, bytes: &[u8], extension: &str) -> Result<String, DataError> {
        let name = format!("{}.{extension}", hexadecimal(&Sha256::digest(bytes)));
        let file = self.scratch.path().join(&name);
        if !file.exists() {
            self.count(bytes.len())?;
            std::fs::write(file, bytes).map_err(|source| self.failed(source))?;
        }
        Ok(name)
    }

    /// Puts everything onto the disk.
    pub fn finish(mut self) -> Result<(), DataError> {
        self.records.flush().map_err(|source| self.failed(source))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), DataError> {
        self.records.write_all(bytes).map_err(|source| self.failed(source))
    }

    fn count(&mut self, bytes: usize) -> Result<(), DataError> {
        self.written += bytes as u64;
        if self.written > self.most {
            return Err(DataError::TooMuchUnpacked { path: self.path.clone(), most: self.most });
        }
        Ok(())
    }

    fn failed(&self, source: io::Error) -> DataError {
        DataError::Unpack { path: self.path.clone(), folder: self.scratch.path().to_owned(), source }
    }
}

/// Unpacks a .gz file, of one member or several.
///
/// # Errors
/// [`DataError::Compressed`] and those of [`Unpacked`].
pub fn gunzip(path: &Path, file: File, scratch: &Arc<Scratch>) -> Result<(), DataError> {
    let mut unpacked = Unpacked::create(path, scratch)?;
    let mut reader = flate2::read::MultiGzDecoder::new(file);
    let mut piece = vec![0; PIECE];
    loop {
        match reader.read(&mut piece) {
            Ok(0) => return unpacked.finish(),
            Ok(read) => unpacked.text(&piece[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(DataError::Compressed { path: path.to_owned(), source }),
        }
    }
}

/// Bytes in hexadecimal.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
