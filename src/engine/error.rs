//! Why an engine has no answer.

use std::path::PathBuf;
use std::time::Duration;

/// Why an engine has no answer. Messages name the request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The engine's settings cannot be used.
    #[error("{setting}: {value:?} cannot be used; give {expected}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What was given.
        value: String,
        /// What is allowed, in words.
        expected: String,
    },
    /// The request asks for something that this engine cannot do.
    #[error("{request}: {reason}")]
    Unsupported {
        /// The request's id.
        request: String,
        /// What, and what to do instead.
        reason: String,
    },
    /// An image cannot be read.
    #[error("{request}, image {}: {source}", path.display())]
    Image {
        /// The request's id.
        request: String,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// No connection, or it broke.
    #[error("{request}: {url}: {reason}")]
    Network {
        /// The request's id.
        request: String,
        /// Where it was sent.
        url: String,
        /// What happened.
        reason: String,
    },
    /// Nothing came for too long.
    #[error("{request}: {url}: nothing came for {} s ({what}); raise the timeout or ask for less", waited.as_secs_f32())]
    Timeout {
        /// The request's id.
        request: String,
        /// Where it was sent.
        url: String,
        /// What was waited for.
        what: String,
        /// The limit.
        waited: Duration,
    },
    /// The server refuses, or fails.
    #[error("{request}: {url} answers {status}: {message}")]
    Status {
        /// The request's id.
        request: String,
        /// Where it was sent.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The server's words, shortened.
        message: String,
    },
    /// The answer is not what it should be.
    #[error("{request}: {url}: {reason}; the answer begins: {start}")]
    Malformed {
        /// The request's id.
        request: String,
        /// Where it was sent.
        url: String,
        /// What is wrong.
        reason: String,
        /// The answer's first 200 characters.
        start: String,
    },
    /// The answer ended before its end.
    #[error("{request}: {url}: the answer was cut off after {bytes} bytes ({reason})")]
    CutOff {
        /// The request's id.
        request: String,
        /// Where it was sent.
        url: String,
        /// What had come.
        bytes: u64,
        /// How it was noticed.
        reason: String,
    },
    /// The answer is longer than is accepted.
    #[error("{request}: {url}: the answer is longer than {limit} bytes; ask for less, or raise the limit")]
    TooLong {
        /// The request's id.
        request: String,
        /// Where it was sent.
        url: String,
        /// Bytes accepted.
        limit: u64,
    },
    /// Several attempts failed.
    #[error("{last} (gave up after {attempts} attempts)")]
    GaveUp {
        /// How many.
        attempts: u32,
        /// The last one's error.
        last: Box<EngineError>,
    },
    /// The engine itself failed.
    #[error("{request}: {reason}")]
    Failed {
        /// The request's id.
        request: String,
        /// What happened.
        reason: String,
    },
}
