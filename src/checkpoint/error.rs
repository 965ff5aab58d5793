//! Everything that can be wrong with a checkpoint.

use std::fmt;
use std::path::{Path, PathBuf};

/// A checkpoint that cannot be read, does not fit, or could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused a file operation.
    #[error("{}: {action} failed: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What was being done, e.g. `reading`.
        action: &'static str,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// A file that should be JSON is not.
    #[error("{}:{line}:{column}: not valid JSON: {message}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
        /// The parser's complaint.
        message: String,
    },
    /// A JSON file lacks a field, or a field has the wrong type or an impossible value.
    #[error("{}: {field} is {found}, expected {expected}", path.display())]
    Field {
        /// The file.
        path: PathBuf,
        /// Path inside the file, e.g. `text_config.hidden_size`.
        field: String,
        /// What the file says there, as JSON, or `missing`.
        found: String,
        /// What could stand there instead.
        expected: String,
    },
    /// The folder holds no weights that can be read.
    #[error("{}: no weights: {reason}", dir.display())]
    NoWeights {
        /// The folder.
        dir: PathBuf,
        /// What was found instead and what to do.
        reason: String,
    },
    /// A PyTorch file that cannot be read without running it, or not at all.
    #[error("{}: {source}", path.display())]
    Pickle {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        source: Box<super::pickle::PickleError>,
    },
    /// A safetensors file that cannot be read as a whole.
    #[error("{}: not a whole safetensors file: {reason}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong, with both values.
        reason: String,
    },
    /// One tensor of a file is wrong.
    #[error("{}: tensor `{tensor}` {reason}", path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// The tensor's name in the file.
        tensor: String,
        /// What is wrong, with both values.
        reason: String,
    },
    /// Two shards hold a tensor of the same name.
    #[error(
        "tensor `{tensor}` is both in {} and in {}; remove one of the two files",
        first.display(), second.display()
    )]
    DuplicateTensor {
        /// The tensor.
        tensor: String,
        /// One shard.
        first: PathBuf,
        /// The other shard.
        second: PathBuf,
    },
    /// The index names a shard that is not there.
    #[error(
        "{}: the shard `{shard}`, which holds {tensors} tensors, is not in the folder; \
         copy or download it again",
        index.display()
    )]
    MissingShard {
        /// The index file.
        index: PathBuf,
        /// The shard.
        shard: String,
        /// How many tensors the index places in it.
        tensors: usize,
    },
    /// The index names a shard outside the folder.
    #[error(
        "{}: tensor `{tensor}` is placed in `{shard}`; \
         a shard must be a plain file name beside the index",
        index.display()
    )]
    UnsafeShard {
        /// The index file.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The entry as the index has it.
        shard: String,
    },
    /// The index places a tensor in a shard that lacks it.
    #[error(
        "{}: tensor `{tensor}` should be in `{shard}`, which does not hold it; \
         index and shards are of different checkpoints",
        index.display()
    )]
    NotInShard {
        /// The index file.
        index: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard.
        shard: String,
    },
    /// Two tensors of the folder map onto one of the model's names.
    #[error(
        "`{first}` in {} and `{second}` in {} are both `{name}` of the model; remove one",
        first_file.display(), second_file.display()
    )]
    Ambiguous {
        /// The model's name.
        name: String,
        /// One tensor.
        first: String,
        /// Its file.
        first_file: PathBuf,
        /// The other tensor.
        second: String,
        /// Its file.
        second_file: PathBuf,
    },
    /// The folder's tensors are not the model's.
    #[error(transparent)]
    Mismatch(Box<Mismatch>),
    /// A file name that may not be used inside a checkpoint folder.
    #[error("`{name}` cannot be a file of the folder {}: {reason}", dir.display())]
    Name {
        /// The folder.
        dir: PathBuf,
        /// The name.
        name: String,
        /// Why not.
        reason: &'static str,
    },
    /// A run checkpoint that is not whole.
    #[error("{}: damaged: {reason}", path.display())]
    Damaged {
        /// The checkpoint's folder.
        path: PathBuf,
        /// What does not agree, with both values.
        reason: String,
    },
    /// A weight file was written while a run had it in use.
    #[error(
        "{}: the file was changed while its weights were in use ({before} bytes then, {now} now), so that what was computed \
         since is of no model that exists; resume from the last checkpoint with the file as it was, and replace checkpoints by \
         renaming",
        path.display()
    )]
    Changed {
        /// The file.
        path: PathBuf,
        /// Its length when it was opened.
        before: u64,
        /// Its length now.
        now: u64,
    },
    /// Another process writes this run.
    #[error(
        "{}: {} is writing this run; wait for it, stop it, or choose another --output",
        run.display(), holder(*pid)
    )]
    Locked {
        /// The run folder.
        run: PathBuf,
        /// The other process, where it could be read.
        pid: Option<u32>,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

impl CheckpointError {
    pub(super) fn pickle(path: &Path) -> impl FnOnce(super::pickle::PickleError) -> Self {
        let path = path.to_path_buf();
        |source| Self::Pickle { path, source: Box::new(source) }
    }

    /// An [`Io`](Self::Io) error; made for `map_err`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_path_buf();
        move |source| Self::Io { path, action, source }
    }

    /// A [`Tensor`](Self::Tensor) error.
    pub fn tensor(path: &Path, tensor: &str, reason: impl Into<String>) -> Self {
        Self::Tensor { path: path.to_path_buf(), tensor: tensor.to_owned(), reason: reason.into() }
    }

    pub(super) fn header(path: &Path, reason: impl Into<String>) -> Self {
        Self::Header { path: path.to_path_buf(), reason: reason.into() }
    }

    pub(super) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_path_buf(), reason: reason.into() }
    }
}

/// All the ways in which a folder's tensors differ from the model's.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The folder.
    pub dir: PathBuf,
    /// Expected and not there: name and expected shape.
    pub missing: Vec<(String, Vec<usize>)>,
    /// There and not expected: name in the file, shape, file.
    pub unexpected: Vec<(String, Vec<usize>, PathBuf)>,
    /// Of another shape.
    pub misshapen: Vec<Misshapen>,
}

/// A tensor of another shape than the model's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misshapen {
    /// The tensor's name in the file.
    pub name: String,
    /// Its shape in the file.
    pub found: Vec<usize>,
    /// The model's shape.
    pub expected: Vec<usize>,
    /// The file.
    pub path: PathBuf,
}

/// More of one kind than this are counted, not listed: a whole missing tower would hide everything
/// else.
const LISTED: usize = 10;

impl Mismatch {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.misshapen.is_empty()
    }
}

impl std::error::Error for Mismatch {}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: the tensors are not those that its config.json describes", self.dir.display())?;
        list(f, "missing", &self.missing, |f, (name, shape)| write!(f, "`{name}`, expected {shape:?}"))?;
        list(f, "unexpected", &self.unexpected, |f, (name, shape, path)| {
            write!(f, "`{name}` {shape:?} in {}", file_name(path))
        })?;
        list(f, "misshapen", &self.misshapen, |f, t| {
            write!(f, "`{}` is {:?} in {}, expected {:?}", t.name, t.found, file_name(&t.path), t.expected)
        })
    }
}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    kind: &str,
    items: &[T],
    item: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    if items.is_empty() {
        return Ok(());
    }
    write!(f, "\n  {} {kind}:", items.len())?;
    for one in items.iter().take(LISTED) {
        f.write_str("\n    ")?;
        item(f, one)?;
    }
    if items.len() > LISTED {
        write!(f, "\n    and {} more", items.len() - LISTED)?;
    }
    Ok(())
}

/// The last component of a path, for messages that already name the folder.
pub(super) fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
