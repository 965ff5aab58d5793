//! Data files, read lazily: an index of records over memory maps.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::row::Row;
use super::scan::{self, Span};
use super::{DataError, DataKind, Place, Sample};

/// Piece of a file that is hashed by one thread.
const HASH_PIECE: usize = 16 << 20;

/// The records of one or more files, in the files' order.
///
/// The files are mapped into memory and must not be changed while the data set lives.
pub struct Dataset<K> {
    kind: K,
    files: Vec<Source>,
    records: Vec<Record>,
    image_folders: Vec<PathBuf>,
}

struct Source {
    name: Arc<Path>,
    bytes: Mmap,
}

#[derive(Clone, Copy)]
struct Record {
    file: usize,
    span: Span,
}

impl<K: DataKind> Dataset<K> {
    /// Opens `files`, .json (one array of records) and .jsonl (one record a line), and finds their records.
    ///
    /// A relative image path is sought in each of `image_folders`, then beside the file that names it.
    ///
    /// # Errors
    /// Files that cannot be read, hold no record, or are so broken that it is uncertain where their records begin and
    /// end. A mistake inside a record is an error of [`sample`](Self::sample).
    pub fn open(kind: K, files: &[PathBuf], image_folders: &[PathBuf]) -> Result<Self, DataError> {
        if files.is_empty() {
            return Err(DataError::NoFiles);
        }
        if let Some(folder) = image_folders.iter().find(|folder| !folder.is_dir()) {
            return Err(DataError::ImageFolder { path: folder.clone() });
        }
        let opened: Vec<(Source, Vec<Span>)> =
            files.par_iter().map(|path| open_file(path)).collect::<Result<_, _>>()?;
        let mut sources = Vec::with_capacity(opened.len());
        let mut records = Vec::with_capacity(opened.iter().map(|(_, spans)| spans.len()).sum());
        for (file, (source, spans)) in opened.into_iter().enumerate() {
            records.extend(spans.into_iter().map(|span| Record { file, span }));
            sources.push(source);
        }
        Ok(Self { kind, files: sources, records, image_folders: image_folders.to_vec() })
    }

    /// Reads record `index` and finds its images. Images are not opened.
    ///
    /// # Errors
    /// JSON that does not parse, what the data kind refuses, and [`DataError::ImageMissing`].
    ///
    /// # Panics
    /// Where `index` is not below [`len`](Self::len).
    pub fn sample(&self, index: usize) -> Result<Sample<K::Shape>, DataError> {
        self.read(index, &self.row(index)?)
    }

    /// As [`sample`](Self::sample), with the row parsed already.
    ///
    /// # Errors
    /// As [`sample`](Self::sample).
    pub fn read(&self, index: usize, row: &Row) -> Result<Sample<K::Shape>, DataError> {
        let mut sample = self.kind.parse(row, &self.place(index))?;
        if sample.id.is_empty() {
            sample.id = index.to_string();
        }
        let beside = self.source(index).name.parent();
        for (i, image) in sample.images.iter_mut().enumerate() {
            *image = self.find_image(image, beside).map_err(|sought| DataError::ImageMissing {
                place: sample.place.clone(),
                number: i + 1,
                image: image.display().to_string(),
                sought,
            })?;
        }
        Ok(sample)
    }
}

impl<K> Dataset<K> {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Never true: a file without records is refused by [`open`](Self::open).
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The formatter.
    pub fn kind(&self) -> &K {
        &self.kind
    }

    /// The files, in order.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|source| &*source.name)
    }

    /// The bytes of record `index` as they stand in the file.
    ///
    /// # Panics
    /// Where `index` is not below [`len`](Self::len).
    pub fn raw(&self, index: usize) -> &[u8] {
        let span = self.records[index].span;
        &self.source(index).bytes[span.start..span.end]
    }

    /// Where record `index` begins.
    ///
    /// # Panics
    /// Where `index` is not below [`len`](Self::len).
    pub fn place(&self, index: usize) -> Place {
        Place { file: self.source(index).name.clone(), line: self.records[index].span.line }
    }

    /// The fields of record `index`.
    ///
    /// # Errors
    /// [`DataError::Malformed`] with the line of the mistake, [`DataError::NotAnObject`].
    ///
    /// # Panics
    /// Where `index` is not below [`len`](Self::len).
    pub fn row(&self, index: usize) -> Result<Row, DataError> {
        let raw = self.raw(index);
        let mut place = self.place(index);
        if raw.first() != Some(&b'{') {
            return Err(DataError::NotAnObject { place, found: scan::describe(raw) });
        }
        serde_json::from_slice(raw).map_err(|error| {
            // serde_json counts lines from the record's first one and appends them to its message.
            place.line += error.line().saturating_sub(1);
            let message = error.to_string();
            let detail = match message.rfind(" at line ") {
                Some(end) => format!("{} (column {})", &message[..end], error.column()),
                None => message,
            };
            DataError::Malformed { place, detail }
        })
    }

    /// SHA-256 over the contents of all files, in hexadecimal: whether a resumed run reads the data it began with.
    ///
    /// Files are hashed in pieces of 16 MiB on all threads, so this is not what `sha256sum` prints. Names of files and
    /// contents of images do not enter.
    pub fn fingerprint(&self) -> String {
        let mut whole = Sha256::new();
        for source in &self.files {
            whole.update((source.bytes.len() as u64).to_le_bytes());
            let pieces: Vec<_> = source.bytes.par_chunks(HASH_PIECE).map(Sha256::digest).collect();
            pieces.iter().for_each(|piece| whole.update(piece));
        }
        whole.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn source(&self, index: usize) -> &Source {
        &self.files[self.records[index].file]
    }

    /// The image's path on disk, or every path that was tried.
    fn find_image(&self, image: &Path, beside: Option<&Path>) -> Result<PathBuf, Vec<PathBuf>> {
        let mut sought = Vec::new();
        // Joining an absolute path gives that path: it is tried once, as it is.
        let folders = self.image_folders.iter().map(PathBuf::as_path).chain(beside);
        for folder in folders {
            let candidate = folder.join(image);
            if candidate.is_file() {
                return Ok(candidate);
            }
            if !sought.contains(&candidate) {
                sought.push(candidate);
            }
        }
        Err(sought)
    }
}

impl<K> fmt::Debug for Dataset<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let files: Vec<&Path> = self.files().collect();
        f.debug_struct("Dataset")
            .field("files", &files)
            .field("records", &self.records.len())
            .field("image_folders", &self.image_folders)
            .finish_non_exhaustive()
    }
}

fn open_file(path: &Path) -> Result<(Source, Vec<Span>), DataError> {
    let unreadable = |source| DataError::Open { path: path.to_owned(), source };
    if path.is_dir() {
        return Err(unreadable(std::io::ErrorKind::IsADirectory.into()));
    }
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    let split = match extension.as_deref() {
        Some("json") => scan::array,
        Some("jsonl") => scan::lines,
        _ => {
            return Err(DataError::UnknownFormat { path: path.to_owned() });
        }
    };
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    // Before it is opened: a pipe that nobody writes to would be waited for without end.
    if !metadata.is_file() {
        let reason = "it is not a regular file, which can be read more than once";
        return Err(unreadable(std::io::Error::new(std::io::ErrorKind::InvalidInput, reason)));
    }
    let file = File::open(path).map_err(unreadable)?;
    // Some systems refuse to map an empty file.
    if metadata.len() == 0 {
        return Err(DataError::Empty { path: path.to_owned() });
    }
    // SAFETY: the map is read-only and owned by `Source`. Whoever changes a data file while a run reads it breaks the
    // run; the type's documentation says so.
    let bytes = unsafe { Mmap::map(&file) }.map_err(unreadable)?;
    let name: Arc<Path> = path.into();
    let begin = scan::byte_order_mark(&bytes, path)?;
    let spans = split(&bytes, begin, &name)?;
    if spans.is_empty() {
        return Err(DataError::Empty { path: path.to_owned() });
    }
    Ok((Source { name, bytes }, spans))
}
