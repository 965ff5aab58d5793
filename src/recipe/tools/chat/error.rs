//! What can be wrong with a line of a conversation. The conversation goes on.

use crate::data::DataError;
use crate::generation::decoding::DecodeError;
use crate::image::ImageError;
use crate::settings::SettingError;
use std::path::PathBuf;

/// A line that has no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum ChatError {
    /// A command that is none.
    #[error("there is no command /{0}; /help lists them, and a line that begins with a space is a question")]
    Unknown(String),
    /// A command that needs something behind it.
    #[error("write {0}")]
    Incomplete(&'static str),
    /// A command that takes nothing.
    #[error("/{command} takes nothing, and {more:?} stands behind it")]
    TooMuch {
        /// The command.
        command: &'static str,
        /// What stands behind it.
        more: String,
    },
    /// A command that has nothing to work on.
    #[error("{0}")]
    Nothing(&'static str),
    /// A line that is not text.
    #[error("the line is not UTF-8")]
    NotText,
    /// A setting that cannot be obeyed.
    #[error(transparent)]
    Setting(#[from] SettingError),
    /// An image's file after `@` that is not there.
    #[error("{}: there is no such file; what stands behind @ is an image's file", .0.display())]
    NoFile(PathBuf),
    /// An image that cannot be read.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// An image for a model without vision.
    #[error("{}: the model sees no images", .0.display())]
    NoVision(PathBuf),
    /// Markers and images do not agree.
    #[error("the question has {places} <image>, and {images} images wait; name as many, or leave the markers out")]
    Markers {
        /// Markers in the text.
        places: usize,
        /// Images that wait.
        images: usize,
    },
    /// A conversation that the template or the tokenizer refuses.
    #[error("{0}")]
    Conversation(String),
    /// No room for an answer.
    #[error(
        "the context is full: the conversation has {tokens} tokens with this question, and the model takes {context}; \
         /undo takes the last exchange back, /reset begins anew"
    )]
    Full {
        /// Tokens of the prompt.
        tokens: usize,
        /// Tokens that the model takes.
        context: usize,
    },
    /// The model's scores are of no use.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// Ctrl-C before the first word.
    #[error("stopped before the first word; the question is taken back")]
    Stopped,
    /// A file that could not be saved.
    #[error("{}: {source}", path.display())]
    Save {
        /// The file.
        path: PathBuf,
        /// The operating system's answer.
        source: std::io::Error,
    },
    /// Nobody takes the answer.
    #[error("the answer could not be written: {0}")]
    Out(#[from] std::io::Error),
}

impl From<DataError> for ChatError {
    fn from(error: DataError) -> Self {
        match error {
            // The place in a file means nothing here.
            DataError::Text { source, .. } => Self::Conversation(source.to_string()),
            error => Self::Conversation(error.to_string()),
        }
    }
}
