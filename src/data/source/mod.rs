//! Data files, read lazily: an index of records over memory maps.
//!
//! ```text
//! list      a file that names several sources
//! open      a file, mapped, and its rows; tables and .gz files are unpacked first (scratch, parquet)
//! select    which rows of a source are taken
//! ```

mod list;
mod open;
mod parquet;
mod report;
mod scratch;
mod select;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use memmap2::Mmap;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use self::list::{Label, Records};
use self::open::{Found, Opened};
pub use self::report::SourceReport;
use self::scratch::{Scratch, hexadecimal};
use self::select::Selection;
use super::row::Row;
use super::scan::{self, Span};
use super::{DataError, DataKind, Place, Sample, expand};
use crate::text::{Message, Role};

/// Piece of a file that is hashed by one thread.
const HASH_PIECE: usize = 16 << 20;

/// The records of one or more files, in the files' order.
///
/// A .json file may be a list of sources, each a data file, or records, of which all or some are taken:
///
/// ```json
/// {"sources": [
///     {"name": "chat", "records_path": "chat.jsonl", "num_samples": 5000},
///     {"records_path": "pairs.parquet", "offset": 100, "n_rows": 900, "sample_rate": 0.5},
///     {"name": "greetings", "records": [{"messages": []}], "system_prompt": "Be brief."}
/// ]}
/// ```
///
/// Paths are relative to the list. `offset` rows are passed over and `n_rows` taken from there on; of these
/// `num_samples`, or a share of `sample_rate`, are drawn without replacement and stay in the file's order.
/// `system_prompt` is put in front of records that have no system message.
///
/// The files are mapped into memory and must not be changed while the data set lives. Tables (.parquet) and .gz files
/// are unpacked into the system's folder for temporary files (`TMPDIR`) first, pictures that a table holds into files;
/// what was unpacked is removed with the data set.
pub struct Dataset<K> {
    kind: K,
    sources: Vec<Source>,
    records: Vec<Record>,
    image_folders: Vec<PathBuf>,
}

/// A data file, or records in a list of sources.
struct Source {
    /// The file that errors name.
    name: Arc<Path>,
    bytes: Arc<Mmap>,
    /// Where in the bytes the records lie.
    region: Range<usize>,
    scratch: Option<Arc<Scratch>>,
    system_prompt: Option<String>,
    /// Whether all records are taken.
    whole: bool,
    report: SourceReport,
}

#[derive(Clone, Copy)]
struct Record {
    source: u32,
    /// Which of the row's records.
    part: u32,
    span: Span,
}

/// A source whose file is open.
struct Wanted {
    name: String,
    opened: Opened,
    selection: Selection,
    system_prompt: Option<String>,
    /// Of sources that stand in a list.
    label: Option<Label>,
}

impl<K: DataKind> Dataset<K> {
    /// Opens `files` and finds their records; see [`open_with`](Self::open_with).
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub fn open(kind: K, files: &[PathBuf], image_folders: &[PathBuf]) -> Result<Self, DataError> {
        Self::open_with(kind, files, image_folders, 0)
    }

    /// Opens `files` and finds their records: .json (one array of records, or a list of sources), .jsonl (one record a
    /// line), both also as .gz, and .parquet (one record a row). `seed` decides what sources with `num_samples` or
    /// `sample_rate` draw.
    ///
    /// A relative image path is sought in each of `image_folders`, then beside the file that names it.
    ///
    /// # Errors
    /// Files that cannot be read, hold no record, or are so broken that it is uncertain where their records begin and
    /// end; lists of sources that cannot be satisfied. A mistake inside a record is an error of
    /// [`sample`](Self::sample).
    pub fn open_with(kind: K, files: &[PathBuf], image_folders: &[PathBuf], seed: u64) -> Result<Self, DataError> {
        if files.is_empty() {
            return Err(DataError::NoFiles);
        }
        if let Some(folder) = image_folders.iter().find(|folder| !folder.is_dir()) {
            return Err(DataError::ImageFolder { path: folder.clone() });
        }
        let wanted: Vec<Vec<Wanted>> = files.par_iter().map(|path| sources_of(path)).collect::<Result<_, _>>()?;
        let mut data = Self { kind, sources: Vec::new(), records: Vec::new(), image_folders: image_folders.to_vec() };
        for wanted in wanted.into_iter().flatten() {
            data.add(wanted, seed)?;
        }
        if data.records.is_empty() {
            let rows = data.sources.iter().map(|source| source.report.rows).sum();
            let reasons: Vec<String> =
                data.left_out().iter().map(|(reason, count)| format!("{count} {reason}")).collect();
            return Err(DataError::NothingLeft { path: files[0].clone(), rows, reasons: reasons.join(", ") });
        }
        Ok(data)
    }

    /// Takes what is wanted of a source.
    fn add(&mut self, wanted: Wanted, seed: u64) -> Result<(), DataError> {
        let Wanted { name, opened, selection, system_prompt, label } = wanted;
        let number = self.sources.len();
        let rows = opened.spans.len();
        let selected = selection.apply(opened.spans, seed, number as u64).map_err(|detail| match &label {
            Some(label) => label.error(detail),
            // Without a list all rows are wanted, which is always possible.
            None => DataError::SourceList { place: Place::new(opened.name.clone(), 1), detail },
        })?;
        let mut report = SourceReport::new(name, &opened.name, rows);
        selected.left_out.into_iter().for_each(|(reason, count)| report.leave_out(reason, count));
        let whole = report.left_out.is_empty();
        let source = number as u32;
        let first = self.records.len();
        if K::EXPANDS {
            let expanded: Vec<(usize, BTreeMap<_, _>)> = selected
                .spans
                .par_iter()
                .map(|span| {
                    let place = Place::new(opened.name.clone(), span.line);
                    let row = parse_row(&opened.bytes[span.start..span.end], place.clone());
                    expand::count(&self.kind, row, &place)
                })
                .collect();
            for (span, (parts, dropped)) in selected.spans.into_iter().zip(expanded) {
                dropped.into_iter().for_each(|(reason, count)| report.leave_out(reason, count));
                self.records.extend((0..parts as u32).map(|part| Record { source, part, span }));
            }
        } else {
            self.records.extend(selected.spans.into_iter().map(|span| Record { source, part: 0, span }));
        }
        report.records = self.records.len() - first;
        let Opened { name, bytes, region, scratch, .. } = opened;
        self.sources.push(Source { name, bytes, region, scratch, system_prompt, whole, report });
        Ok(())
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
        let place = self.place(index);
        let mut sample = match K::EXPANDS {
            true => self.kind.parse(&expand::nth(&self.kind, row.clone(), self.part(index), &place)?, &place)?,
            false => self.kind.parse(row, &place)?,
        };
        if sample.id.is_empty() {
            sample.id = index.to_string();
        }
        let source = self.source(index);
        for (i, image) in sample.images.iter_mut().enumerate() {
            *image = self.find_image(image, source).map_err(|sought| DataError::ImageMissing {
                place: sample.place.clone(),
                number: i + 1,
                image: image.display().to_string(),
                sought,
            })?;
        }
        if let Some(prompt) = &source.system_prompt {
            let messages = &mut sample.conversation.messages;
            if !messages.iter().any(|message| message.role == Role::System) {
                messages.insert(0, Message::text(Role::System, prompt.as_str()));
            }
        }
        Ok(sample)
    }
}

impl<K> Dataset<K> {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Never true: files without records are refused by [`open`](Self::open).
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The formatter.
    pub fn kind(&self) -> &K {
        &self.kind
    }

    /// The files, in order; those that a list names instead of the list.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.sources.iter().map(|source| &*source.name)
    }

    /// What each source gave, in order: a source is a data file, or an entry of a list of them.
    pub fn sources(&self) -> impl ExactSizeIterator<Item = &SourceReport> {
        self.sources.iter().map(|source| &source.report)
    }

    /// Which of the [`sources`](Self::sources) record `index` comes from.
    ///
    /// # Panics
    /// Where `index` is not below [`len`](Self::len).
    pub fn source_of(&self, index: usize) -> usize {
        self.records[index].source as usize
    }

    /// Which of its row's records record `index` is, counted from 0.
    ///
    /// # Panics
    /// Where `index` is not below [`len`](Self::len).
    pub fn part(&self, index: usize) -> usize {
        self.records[index].part as usize
    }

    /// The bytes of record `index` as they stand in the file; of a table the JSON that it was unpacked to.
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

    /// The fields of record `index`; all of its row where a row holds several.
    ///
    /// # Errors
    /// [`DataError::Malformed`] with the line of the mistake, [`DataError::NotAnObject`].
    ///
    /// # Panics
    /// Where `index` is not below [`len`](Self::len).
    pub fn row(&self, index: usize) -> Result<Row, DataError> {
        parse_row(self.raw(index), self.place(index))
    }

    /// SHA-256 over the contents of all sources, which of their rows were taken, and their system prompts, in
    /// hexadecimal: whether a resumed run reads the data it began with.
    ///
    /// Contents are hashed in pieces of 16 MiB on all threads, so this is not what `sha256sum` prints; those of a table
    /// or .gz file after unpacking, pictures included. Names of files and contents of other images do not enter.
    pub fn fingerprint(&self) -> String {
        let mut whole = Sha256::new();
        for (number, source) in self.sources.iter().enumerate() {
            let bytes = &source.bytes[source.region.clone()];
            whole.update((bytes.len() as u64).to_le_bytes());
            let pieces: Vec<_> = bytes.par_chunks(HASH_PIECE).map(Sha256::digest).collect();
            pieces.iter().for_each(|piece| whole.update(piece));
            if !source.whole {
                whole.update(b"rows");
                let own = self.records.iter().filter(|record| record.source as usize == number);
                own.for_each(|record| whole.update(((record.span.start - source.region.start) as u64).to_le_bytes()));
            }
            if let Some(prompt) = &source.system_prompt {
                whole.update(b"system");
                whole.update((prompt.len() as u64).to_le_bytes());
                whole.update(prompt);
            }
        }
        hexadecimal(&whole.finalize())
    }

    fn source(&self, index: usize) -> &Source {
        &self.sources[self.source_of(index)]
    }

    /// The image's path on disk, or every path that was tried.
    fn find_image(&self, image: &Path, source: &Source) -> Result<PathBuf, Vec<PathBuf>> {
        if let (Some(scratch), Some(Component::Normal(name))) = (&source.scratch, image.components().next()) {
            // Pictures of a table are named by their contents: no other picture has such a name.
            let unpacked = scratch.path().join(name);
            if image == Path::new(name) && unpacked.is_file() {
                return Ok(unpacked);
            }
        }
        let mut sought = Vec::new();
        // Joining an absolute path gives that path: it is tried once, as it is.
        let folders = self.image_folders.iter().map(PathBuf::as_path).chain(source.name.parent());
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

/// The sources that a file is or names.
fn sources_of(path: &Path) -> Result<Vec<Wanted>, DataError> {
    let (list, bytes, begin) = match open::open(path)? {
        Found::Records(opened) => {
            let name = path.display().to_string();
            let selection = Selection::default();
            return Ok(vec![Wanted { name, opened, selection, system_prompt: None, label: None }]);
        }
        Found::Sources { name, bytes, begin } => (name, bytes, begin),
    };
    let entries = list::entries(&bytes, begin, &list)?;
    entries
        .into_par_iter()
        .map(|entry| {
            let opened = match entry.records {
                Records::File(path) => match open::open(&path) {
                    Ok(Found::Records(opened)) => opened,
                    Ok(Found::Sources { .. }) => {
                        let itself =
                            if path.canonicalize().ok() == list.canonicalize().ok() { "this very" } else { "a" };
                        let detail = format!("{} is {itself} list of sources; name data files", path.display());
                        return Err(entry.label.error(detail));
                    }
                    Err(error) if error.place().is_none() => return Err(entry.label.error(error.to_string())),
                    Err(error) => return Err(error),
                },
                Records::Inline { region, spans } => {
                    Opened { name: list.clone(), bytes: bytes.clone(), region, spans, scratch: None }
                }
            };
            let (name, selection, system_prompt) = (entry.name, entry.selection, entry.system_prompt);
            Ok(Wanted { name, opened, selection, system_prompt, label: Some(entry.label) })
        })
        .collect()
}

fn parse_row(raw: &[u8], place: Place) -> Result<Row, DataError> {
    if raw.first() != Some(&b'{') {
        return Err(DataError::NotAnObject { place, found: scan::describe(raw) });
    }
    serde_json::from_slice(raw).map_err(|error| open::malformed(place, &error))
}
