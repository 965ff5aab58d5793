//! A data file, mapped into memory, and where its records begin and end.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use super::parquet;
use super::scratch::{self, Scratch};
use crate::data::scan::{self, Span};
use crate::data::{DataError, Place};

/// The records of a file, or of a list in one.
#[derive(Clone)]
pub struct Opened {
    /// The file as the user named it, which errors name.
    pub name: Arc<Path>,
    /// What the spans refer to.
    pub bytes: Arc<Mmap>,
    /// Where in it the records lie.
    pub region: Range<usize>,
    /// The records.
    pub spans: Vec<Span>,
    /// Where the file was unpacked to.
    pub scratch: Option<Arc<Scratch>>,
}

/// What a file turned out to be.
pub enum Found {
    /// Records.
    Records(Opened),
    /// A list of sources.
    Sources {
        /// The file as the user named it.
        name: Arc<Path>,
        /// Its contents.
        bytes: Arc<Mmap>,
        /// Where they begin, behind a byte order mark.
        begin: usize,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Format {
    Array,
    Lines,
    Table,
}

/// Opens a file by the ending of its name.
///
/// # Errors
/// Those of [`Dataset::open`](super::Dataset::open).
pub fn open(path: &Path) -> Result<Found, DataError> {
    let unreadable = |source| DataError::Open { path: path.to_owned(), source };
    if path.is_dir() {
        return Err(unreadable(io::ErrorKind::IsADirectory.into()));
    }
    let Some((format, compressed)) = format(path) else {
        return Err(DataError::UnknownFormat { path: path.to_owned() });
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    // Before it is opened: a pipe that nobody writes to would be waited for without end.
    if !metadata.is_file() {
        let reason = "it is not a regular file, which can be read more than once";
        return Err(unreadable(io::Error::new(io::ErrorKind::InvalidInput, reason)));
    }
    let mut file = File::open(path).map_err(unreadable)?;
    let mut scratch = None;
    if format == Format::Table || compressed {
        let folder = scratch.insert(Scratch::new(path)?);
        match format {
            Format::Table => parquet::unpack(path, file, folder)?,
            Format::Array | Format::Lines => scratch::gunzip(path, file, folder)?,
        }
        file = File::open(folder.records()).map_err(unreadable)?;
    }
    let bytes = Arc::new(map(&file, path)?);
    let name: Arc<Path> = path.into();
    let begin = scan::byte_order_mark(&bytes, path)?;
    let spans = match format {
        Format::Array if !compressed && scan::has_key(&bytes, begin, &name, b"sources") => {
            return Ok(Found::Sources { name, bytes, begin });
        }
        Format::Array => scan::array(&bytes, begin, &name)?,
        Format::Lines | Format::Table => scan::lines(&bytes, begin, &name)?,
    };
    if spans.is_empty() {
        return Err(DataError::Empty { path: path.to_owned() });
    }
    Ok(Found::Records(Opened { name, region: 0..bytes.len(), bytes, spans, scratch }))
}

/// What is in a file, and whether it is compressed.
fn format(path: &Path) -> Option<(Format, bool)> {
    let ending = |path: &Path| path.extension().and_then(OsStr::to_str).map(str::to_ascii_lowercase);
    let plain = |ending: &str| match ending {
        "json" => Some(Format::Array),
        "jsonl" => Some(Format::Lines),
        _ => None,
    };
    match ending(path)?.as_str() {
        "parquet" => Some((Format::Table, false)),
        "gz" => Some((plain(&ending(Path::new(path.file_stem()?))?)?, true)),
        other => Some((plain(other)?, false)),
    }
}

fn map(file: &File, path: &Path) -> Result<Mmap, DataError> {
    let unreadable = |source| DataError::Open { path: path.to_owned(), source };
    // Some systems refuse to map an empty file.
    if file.metadata().map_err(unreadable)?.len() == 0 {
        return Err(DataError::Empty { path: path.to_owned() });
    }
    // SAFETY: the map is read-only and owned by the data set. Whoever changes a data file while a run reads it breaks
    // the run; the data set's documentation says so.
    unsafe { Mmap::map(file) }.map_err(unreadable)
}

/// A [`DataError::Malformed`] of a JSON text that begins at `place`.
pub fn malformed(mut place: Place, error: &serde_json::Error) -> DataError {
    // serde_json counts lines from the text's first one and appends them to its message.
    place.line += error.line().saturating_sub(1);
    let message = error.to_string();
    let detail = match message.rfind(" at line ") {
        Some(end) => format!("{} (column {})", &message[..end], error.column()),
        None => message,
    };
    DataError::Malformed { place, detail }
}
