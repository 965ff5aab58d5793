//! Why a file of predictions is not written.

use std::path::PathBuf;

use crate::checkpoint::CheckpointError;
use crate::data::DataError;
use crate::engine::EngineError;
use crate::settings::SettingError;

/// Why a file of predictions is not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InferError {
    /// A record that cannot be read.
    #[error("{0}\ntake the record out, or write such records with an error by --bad-record skip")]
    Data(#[source] DataError),
    /// A record that the engine refuses.
    #[error("{0}\n`--resume --bad-record skip` goes on from here and writes it with an error")]
    Refused(#[source] EngineError),
    /// An engine that fails, whatever the record.
    #[error("{0}\nwhat was done is kept: --resume goes on from here")]
    Engine(#[source] EngineError),
    /// A setting that cannot be used.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// A journal that is not of this run, or cannot be read.
    #[error("{}: {reason}", path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A file of nothing but errors, which is not written.
    #[error(
        "{}: every record failed, so it was not written; the first: {first}\nonce that is put right, --resume asks all of \
         them again",
        path.display()
    )]
    AllFailed {
        /// The file.
        path: PathBuf,
        /// The first record's error.
        first: String,
    },
    /// Something on the disk.
    #[error(transparent)]
    Disk(#[from] CheckpointError),
    /// A file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}

impl InferError {
    pub(super) fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// The engine's error of one record: the record's fault, or that of the engine?
    pub(super) fn of_record(error: EngineError) -> Self {
        if is_the_records(&error) { Self::Refused(error) } else { Self::Engine(error) }
    }
}

/// Whether another record could fare better. Where the engine is gone none does, and a file of errors would be of no use.
fn is_the_records(error: &EngineError) -> bool {
    match error {
        EngineError::Unsupported { .. }
        | EngineError::Image { .. }
        | EngineError::Malformed { .. }
        | EngineError::TooLong { .. } => true,
        EngineError::Status { status, .. } => matches!(status, 400 | 413 | 422),
        EngineError::GaveUp { last, .. } => matches!(**last, EngineError::Malformed { .. }),
        _ => false,
    }
}
