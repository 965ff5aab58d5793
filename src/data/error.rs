//! Everything that can be wrong with a data set. Each message says where, what was found, and what to write instead.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Place, RecordError};
use crate::image::ImageError;
use crate::text::TextError;

/// An error in a data file, a record, or one of the images it names.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DataError {
    /// A record that the objective cannot learn from.
    #[error("{place}: {reason}")]
    Refused {
        /// Where the record begins.
        place: Place,
        /// Why.
        reason: String,
    },
    /// No file was given.
    #[error("no data file was given; name one with `--data FILE` (.json, .jsonl or .parquet)")]
    NoFiles,
    /// A file cannot be opened or mapped.
    #[error("{}: cannot be read: {source}; check the path", path.display())]
    Open {
        /// The file as it was named.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file's name ends in something that is not read.
    #[error(
        "{}: data files end in .json (one array of records, or a list of sources), .jsonl (one record a line), .json.gz, .jsonl.gz or .parquet; rename or convert it",
        path.display()
    )]
    UnknownFormat {
        /// The file as it was named.
        path: PathBuf,
    },
    /// An image folder that is not there.
    #[error("{}: is not a folder; check the path given to `--images`", path.display())]
    ImageFolder {
        /// The folder as it was named.
        path: PathBuf,
    },
    /// A file without a single record.
    #[error("{}: holds no record; a .json file is an array `[{{…}}, …]`, a .jsonl file has one `{{…}}` a line", path.display())]
    Empty {
        /// The file as it was named.
        path: PathBuf,
    },
    /// A Parquet file without a single row.
    #[error("{}: the table has no row", path.display())]
    EmptyTable {
        /// The file as it was named.
        path: PathBuf,
    },
    /// A file that is not the Parquet that its name says, or is damaged.
    #[error("{}: cannot be read as Parquet: {detail}; fetch or write it again", path.display())]
    Parquet {
        /// The file as it was named.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// Rows of a Parquet file that cannot be read.
    #[error("{place}: cannot be read as Parquet: {detail}; fetch or write the file again")]
    ParquetRow {
        /// The first row that could not be read.
        place: Place,
        /// What is wrong with it.
        detail: String,
    },
    /// A .gz file that is none, or is damaged.
    #[error("{}: cannot be unpacked: {source}; fetch or write it again", path.display())]
    Compressed {
        /// The file as it was named.
        path: PathBuf,
        /// What the decoder said.
        source: io::Error,
    },
    /// A Parquet or compressed file cannot be unpacked to the disk.
    #[error(
        "{}: cannot be unpacked into {}: {source}; make room there, or name another folder in the environment variable TMPDIR",
        path.display(),
        folder.display()
    )]
    Unpack {
        /// The file as it was named.
        path: PathBuf,
        /// The folder for what is unpacked.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file that unpacks to many times its size.
    #[error(
        "{}: unpacks to more than {most} bytes, far more than data of its size does: it seems to be damaged, or made to fill the disk",
        path.display()
    )]
    TooMuchUnpacked {
        /// The file as it was named.
        path: PathBuf,
        /// The most that is unpacked.
        most: u64,
    },
    /// A mistake in a list of sources.
    #[error("{place}: {detail}")]
    SourceList {
        /// The line of the list.
        place: Place,
        /// What is wrong, both values, and what to write instead.
        detail: String,
    },
    /// Files all of whose rows were left out.
    #[error("{}: none of the {rows} rows gives a record: {reasons}", path.display())]
    NothingLeft {
        /// The first file.
        path: PathBuf,
        /// Rows of all files.
        rows: usize,
        /// Why rows were left out, and how many.
        reasons: String,
    },
    /// The file is text, but not in UTF-8.
    #[error("{}: is encoded in {encoding}, and JSON is UTF-8; convert it, for instance with `iconv -f {encoding} -t UTF-8`", path.display())]
    Encoding {
        /// The file as it was named.
        path: PathBuf,
        /// The encoding that its first bytes announce.
        encoding: &'static str,
    },
    /// A .json file whose value is not an array.
    #[error(
        "{place}: a .json data file is one array of records `[{{…}}, …]`, but this one begins with {found}; {advice}"
    )]
    NotAnArray {
        /// Where the value begins.
        place: Place,
        /// What stands there.
        found: String,
        /// What to do about it.
        advice: &'static str,
    },
    /// A record that is not an object.
    #[error("{place}: a record is an object `{{…}}`, but here stands {found}")]
    NotAnObject {
        /// Where the record should begin.
        place: Place,
        /// What stands there.
        found: String,
    },
    /// The file ends before its JSON does.
    #[error("{place}: the file ends inside {inside}; it seems to be cut off: fetch or write it again")]
    Truncated {
        /// The file's last line.
        place: Place,
        /// What was still open, and since which line.
        inside: String,
    },
    /// Not JSON.
    #[error("{place}: malformed JSON: {detail}")]
    Malformed {
        /// The line of the mistake.
        place: Place,
        /// What is wrong with it.
        detail: String,
    },
    /// A field that the data kind needs is absent.
    #[error("{place}: the record has no `{field}`; it needs {expected}")]
    MissingField {
        /// Where the record begins.
        place: Place,
        /// The field's path inside the record.
        field: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// A field holds another type of value.
    #[error("{place}: `{field}` must be {expected}, not {found}")]
    WrongType {
        /// Where the record begins.
        place: Place,
        /// The field's path inside the record.
        field: String,
        /// What it should hold.
        expected: &'static str,
        /// What it holds.
        found: String,
    },
    /// A turn by someone who is not known.
    #[error("{place}, turn {turn}: unknown role \"{}\"; the roles of this data kind are {allowed}", short(role))]
    UnknownRole {
        /// Where the record begins.
        place: Place,
        /// The turn, counted from 1.
        turn: usize,
        /// The role as it was written.
        role: String,
        /// The roles there are.
        allowed: &'static str,
    },
    /// A conversation without turns.
    #[error("{place}: `{field}` is empty; a record needs a question and an answer")]
    EmptyConversation {
        /// Where the record begins.
        place: Place,
        /// The list of turns.
        field: &'static str,
    },
    /// A conversation in which the assistant says nothing.
    #[error(
        "{place}: no answer to learn from: none of the {turns} turns is the assistant's after the user's; add one or remove the record"
    )]
    NoAnswer {
        /// Where the record begins.
        place: Place,
        /// Number of turns in the record.
        turns: usize,
    },
    /// Two turns in a row by the same side, or a system message after the first turn.
    #[error(
        "{place}, turn {turn}: expected the {expected}'s turn and found the {found}'s; turns must alternate user, assistant, user, …: merge or remove one"
    )]
    NotAlternating {
        /// Where the record begins.
        place: Place,
        /// The turn, counted from 1.
        turn: usize,
        /// Whose turn it is.
        expected: &'static str,
        /// Who speaks.
        found: &'static str,
    },
    /// More or fewer image markers than images.
    #[error(
        "{place}: {markers} `<image>` marker(s) in the turns, but {images} image file(s) in `image`; write `<image>` once per image where the picture belongs, usually as `<image>\\n` before the first question"
    )]
    ImageCount {
        /// Where the record begins.
        place: Place,
        /// Markers in the turns that were kept.
        markers: usize,
        /// Image files that the record names.
        images: usize,
    },
    /// An image file that is nowhere to be found.
    #[error(
        "{place}, image {number}: \"{}\" does not exist; sought as {}; name its folder with `--images DIR`",
        short(image),
        list(sought)
    )]
    ImageMissing {
        /// Where the record begins.
        place: Place,
        /// The image within the record, counted from 1.
        number: usize,
        /// The path as the record has it.
        image: String,
        /// Every path that was tried.
        sought: Vec<PathBuf>,
    },
    /// An image file that cannot be read.
    #[error("{place}, image {number}: {source}")]
    Image {
        /// Where the record begins.
        place: Place,
        /// The image within the record, counted from 1.
        number: usize,
        /// What is wrong with the file.
        source: Box<ImageError>,
    },
    /// A record with images for a model without vision.
    #[error(
        "{place}: the record has {images} image(s), but the model has no vision encoder; take a model that sees (in a recipe: the slots `vision` and `projector`), or leave the images out"
    )]
    NoVision {
        /// Where the record begins.
        place: Place,
        /// Image files that the record names.
        images: usize,
    },
    /// A record that is well formed and yet of no use.
    #[error("{place}: {source}")]
    Record {
        /// Where the record begins.
        place: Place,
        /// What is wrong with it.
        source: Box<RecordError>,
    },
    /// The chat template or the tokenizer refused the conversation.
    #[error("{place}: {source}")]
    Text {
        /// Where the record begins.
        place: Place,
        /// What is wrong with it.
        source: Box<TextError>,
    },
    /// A record that teaches nothing.
    #[error(
        "{place}: none of the record's {tokens} tokens is supervised; give it an answer with `disable_loss` off or remove it"
    )]
    NoSupervision {
        /// Where the record begins.
        place: Place,
        /// Tokens of the record.
        tokens: usize,
    },
    /// A record that is too long, under [`Overlong::Error`](super::Overlong::Error).
    #[error(
        "{place}: {tokens} tokens, images included, but `data.max_tokens_count` is {max_length}; raise it, shorten the record, or set `data.overlong` to `truncate` or `skip`"
    )]
    Overlong {
        /// Where the record begins.
        place: Place,
        /// Tokens of the record.
        tokens: usize,
        /// The most that are allowed.
        max_length: usize,
    },
    /// A record whose text is too long to be tokenized at all.
    #[error("{place}: {bytes} bytes of text, of which at most {most} are read; split the record")]
    TooMuchText {
        /// Where the record begins.
        place: Place,
        /// Bytes of the rendered text.
        bytes: usize,
        /// The most that are read.
        most: usize,
    },
    /// A worker thread could not be started.
    #[error("a data worker could not be started: {source}; set fewer of them with `data.workers`")]
    Workers {
        /// What the system said.
        source: io::Error,
    },
    /// A worker thread failed in a way that is our fault, or that of a data kind of the user's own.
    #[error("a data worker panicked at batch {position} (first record at {place}): {detail}")]
    WorkerPanicked {
        /// The batch, counted from 0.
        position: usize,
        /// Where the batch's first record begins.
        place: Place,
        /// The panic's message.
        detail: String,
    },
    /// All worker threads ended without having been told to.
    #[error("the data workers ended before batch {position} was delivered")]
    WorkersGone {
        /// The batch, counted from 0.
        position: usize,
    },
}

impl DataError {
    /// The place the error is about, where there is one.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Self::NoFiles
            | Self::Open { .. }
            | Self::UnknownFormat { .. }
            | Self::ImageFolder { .. }
            | Self::Empty { .. }
            | Self::EmptyTable { .. }
            | Self::Parquet { .. }
            | Self::Compressed { .. }
            | Self::Unpack { .. }
            | Self::TooMuchUnpacked { .. }
            | Self::NothingLeft { .. }
            | Self::Encoding { .. }
            | Self::Workers { .. }
            | Self::WorkersGone { .. } => None,
            Self::ParquetRow { place, .. }
            | Self::SourceList { place, .. }
            | Self::NotAnArray { place, .. }
            | Self::NotAnObject { place, .. }
            | Self::Truncated { place, .. }
            | Self::Malformed { place, .. }
            | Self::MissingField { place, .. }
            | Self::WrongType { place, .. }
            | Self::UnknownRole { place, .. }
            | Self::EmptyConversation { place, .. }
            | Self::NoAnswer { place, .. }
            | Self::NotAlternating { place, .. }
            | Self::ImageCount { place, .. }
            | Self::ImageMissing { place, .. }
            | Self::Refused { place, .. }
            | Self::Image { place, .. }
            | Self::NoVision { place, .. }
            | Self::Record { place, .. }
            | Self::Text { place, .. }
            | Self::NoSupervision { place, .. }
            | Self::Overlong { place, .. }
            | Self::TooMuchText { place, .. }
            | Self::WorkerPanicked { place, .. } => Some(place),
        }
    }

    /// The kind of mistake in a few words: what refused records are counted by.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoFiles => "no data file",
            Self::Open { .. } => "unreadable file",
            Self::UnknownFormat { .. } => "unknown file format",
            Self::ImageFolder { .. } => "missing image folder",
            Self::Empty { .. } | Self::EmptyTable { .. } => "empty file",
            Self::Parquet { .. } | Self::ParquetRow { .. } => "unreadable Parquet",
            Self::Compressed { .. } | Self::Unpack { .. } | Self::TooMuchUnpacked { .. } => "file cannot be unpacked",
            Self::SourceList { .. } => "list of sources",
            Self::NothingLeft { .. } => "nothing left",
            Self::Encoding { .. } => "not UTF-8",
            Self::NotAnArray { .. } => "not an array",
            Self::NotAnObject { .. } => "record is not an object",
            Self::Truncated { .. } => "file is cut off",
            Self::Malformed { .. } => "malformed JSON",
            Self::MissingField { .. } => "missing field",
            Self::WrongType { .. } => "wrong type",
            Self::UnknownRole { .. } => "unknown role",
            Self::EmptyConversation { .. } => "empty conversation",
            Self::NoAnswer { .. } => "no answer",
            Self::NotAlternating { .. } => "turns do not alternate",
            Self::ImageCount { .. } => "mismatched <image> count",
            Self::ImageMissing { .. } => "missing image",
            Self::Image { .. } => "unreadable image",
            Self::NoVision { .. } => "image without a vision encoder",
            Self::Record { source, .. } => source.reason(),
            Self::Text { .. } => "template or tokenizer",
            Self::NoSupervision { .. } => "no supervised token",
            Self::Refused { .. } => "refused by the objective",
            Self::Overlong { .. } | Self::TooMuchText { .. } => "too long",
            Self::Workers { .. } | Self::WorkerPanicked { .. } | Self::WorkersGone { .. } => "data worker",
        }
    }
}

fn list(paths: &[PathBuf]) -> String {
    paths.iter().map(|path| show(path)).collect::<Vec<_>>().join(", ")
}

fn show(path: &Path) -> String {
    short(&path.display().to_string())
}

/// A text of a record or a name as a message quotes it: a megabyte of it would hide the message.
fn short(text: &str) -> String {
    /// As long as Linux lets a path be, about.
    const SHOWN: usize = 400;
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text.to_owned(),
    }
}
