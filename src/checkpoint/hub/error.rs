//! Everything that can be wrong with a hub id or a download.

use std::path::PathBuf;

use super::id::HubId;
use crate::checkpoint::CheckpointError;

/// A model or adapter that could not be had from the hub or its cache.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Neither a folder nor a hub id.
    #[error(
        "{path:?}: there is no such folder, and it cannot be a hub id ({reason}); \
         an id has the form owner/name or owner/name@revision"
    )]
    NoFolder {
        /// What was given.
        path: PathBuf,
        /// Why it is no id.
        reason: &'static str,
    },
    /// An id with an impossible part.
    #[error("{text:?} cannot be a hub id: {reason}")]
    Id {
        /// What was given.
        text: String,
        /// Why not.
        reason: &'static str,
    },
    /// An environment variable that cannot be obeyed.
    #[error("the environment variable {variable} is {value:?}, expected {expected}")]
    Variable {
        /// Its name.
        variable: &'static str,
        /// What it says.
        value: String,
        /// What it could say.
        expected: &'static str,
    },
    /// A token that no server can have given out. The token itself is never shown.
    #[error("the token from {origin} contains spaces or characters that tokens do not have; copy it again")]
    Token {
        /// Where it comes from.
        origin: String,
    },
    /// The hub shows no repository of that name.
    #[error(
        "{id}: there is no folder of that name here, and {endpoint} shows no model of that name \
         ({answer}); check the spelling; {advice}"
    )]
    NoModel {
        /// The id.
        id: HubId,
        /// The hub.
        endpoint: String,
        /// What it answered.
        answer: String,
        /// What to do about a private one.
        advice: String,
    },
    /// The repository has no such revision.
    #[error(
        "{}: the hub has this model, but no branch, tag or commit {:?} of it ({answer})",
        id.repo(), id.revision()
    )]
    NoRevision {
        /// The id.
        id: HubId,
        /// What the hub answered.
        answer: String,
    },
    /// The hub lists a file and does not have it.
    #[error("{id}: the hub lists {file} but does not have it ({answer}); try again later, or another revision")]
    NoFile {
        /// The id.
        id: HubId,
        /// The file.
        file: String,
        /// What the hub answered.
        answer: String,
    },
    /// The hub does not let us in.
    #[error("{id}: access refused ({answer}); {advice}")]
    Refused {
        /// The id.
        id: HubId,
        /// What the hub answered.
        answer: String,
        /// What to do.
        advice: String,
    },
    /// A status that is not foreseen, or a server's own error.
    #[error("{url}: the server answered {answer}")]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The status in words.
        answer: String,
    },
    /// No answer, or one that broke off.
    #[error("{url}: {reason}")]
    Network {
        /// The address.
        url: String,
        /// What happened.
        reason: String,
    },
    /// An answer that cannot be a hub's.
    #[error("{url}: {reason}; is this a Hugging Face hub? (HF_ENDPOINT, or a proxy between)")]
    Answer {
        /// The address.
        url: String,
        /// What is wrong, with both values.
        reason: String,
    },
    /// A file name from the server that must not become a path.
    #[error("{id}: the server lists the file {name:?}, which is refused: {reason}")]
    UnsafeName {
        /// The id.
        id: HubId,
        /// The name.
        name: String,
        /// Why.
        reason: &'static str,
    },
    /// A file of another length than announced.
    #[error("{id}: {file} should have {expected} bytes, but {found}")]
    Length {
        /// The id.
        id: HubId,
        /// The file.
        file: String,
        /// The announced bytes.
        expected: u64,
        /// What came instead, in words.
        found: String,
    },
    /// A file with other contents than announced.
    #[error(
        "{id}: {file} arrived damaged: its {kind} sum is {found}, expected {expected}; \
         a proxy may change it, or the disk may be failing"
    )]
    Corrupt {
        /// The id.
        id: HubId,
        /// The file.
        file: String,
        /// Which sum.
        kind: &'static str,
        /// The announced sum.
        expected: String,
        /// The sum of what came.
        found: String,
    },
    /// The cache's disk is full.
    #[error(
        "{}: {needed} more bytes are needed, {} are free; make room, or set HF_HUB_CACHE to a folder on another disk",
        path.display(), free.map_or_else(|| "too few".to_owned(), |free| free.to_string())
    )]
    NoSpace {
        /// The folder or file.
        path: PathBuf,
        /// Bytes still to be written.
        needed: u64,
        /// Free bytes, where the system says.
        free: Option<u64>,
    },
    /// The hub is not to be asked, and the cache does not hold everything.
    #[error(
        "{id}: there is no folder of that name here, and the cache {} lacks {missing}; \
         fetch it once with the network: unset HF_HUB_OFFLINE",
        cache.display()
    )]
    NotCached {
        /// The id.
        id: HubId,
        /// The cache.
        cache: PathBuf,
        /// What is missing, in words.
        missing: String,
    },
    /// The hub cannot be asked, and the cache does not hold everything.
    #[error("{id}: there is no folder of that name here, and the hub cannot be asked: {last}")]
    Unreachable {
        /// The id.
        id: HubId,
        /// Why not.
        last: Box<HubError>,
    },
    /// A repository that holds something else.
    #[error("{id}: {reason}")]
    NotSuitable {
        /// The id.
        id: HubId,
        /// What is missing and what is there instead.
        reason: String,
    },
    /// Stopped on request.
    #[error("{id}: stopped; what was fetched stays in the cache, the next time goes on from there")]
    Interrupted {
        /// The id.
        id: HubId,
    },
    /// The same error on every attempt.
    #[error("{last}; given up after {attempts} attempt(s)")]
    GaveUp {
        /// How often it was tried without getting further.
        attempts: u32,
        /// The last error.
        last: Box<HubError>,
    },
    /// A file of the cache could not be read or written.
    #[error(transparent)]
    File(#[from] CheckpointError),
}

impl HubError {
    /// Whether the hub cannot be reached at the moment, so that the cache may stand in for it.
    pub(super) fn is_absence(&self) -> bool {
        match self {
            Self::Network { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500..),
            Self::GaveUp { last, .. } => last.is_absence(),
            _ => false,
        }
    }
}
