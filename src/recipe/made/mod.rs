//! What a recipe makes when it is given no model or no data: pictures with questions and answers, a tokenizer and a small
//! random LLaVA, all in the formats that real inputs have, so that from here on everything takes the same path.
//!
//! - [`write_data`] draws pictures and writes them with questions and answers as LLaVA JSON.
//! - [`write_model`] trains a tokenizer on the data's texts and writes a random `LlavaForConditionalGeneration` of a
//!   [`MadeModel`]'s geometry in the layout of the Hugging Face hub.
//! - [`MadeTraining`] holds the settings such a model learns well with.

mod model;
pub mod pictures;
mod questions;
mod settings;
mod tokenizer;

use std::path::{Path, PathBuf};

pub use model::write_model;
pub use questions::{MadeData, Question, write_data};
pub use settings::{MadeModel, MadeTraining, PartTraining};

/// What can go wrong while a data set or a model is made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MadeError {
    /// A file or folder could not be written.
    #[error("{}: {source}; choose an --output that can be written to", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A picture could not be encoded.
    #[error("{}: the picture could not be encoded: {source}", path.display())]
    Png {
        /// The picture's file.
        path: PathBuf,
        /// What the encoder said.
        source: image::ImageError,
    },
    /// A size is outside what can be made.
    #[error("made data: `{field}` is {value}; it must be {expected}")]
    Setting {
        /// The setting's name.
        field: &'static str,
        /// Its value.
        value: usize,
        /// What is allowed.
        expected: &'static str,
    },
    /// A data kind that no records can be made up for.
    #[error("{name}: no records of this kind can be made up; give some with --data FILE")]
    Kind {
        /// The kind.
        name: &'static str,
    },
    /// The tokenizer could not be trained or written.
    #[error("made tokenizer: {0}")]
    Tokenizer(tokenizers::Error),
    /// The weights could not be written.
    #[error("{}: the weights could not be written: {source}", path.display())]
    Weights {
        /// The weights' file.
        path: PathBuf,
        /// What the writer said.
        source: safetensors::SafeTensorError,
    },
}

fn write_file(path: &Path, bytes: &[u8]) -> Result<(), MadeError> {
    std::fs::write(path, bytes).map_err(|source| MadeError::Io { path: path.to_owned(), source })
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), MadeError> {
    write_file(path, format!("{value:#}\n").as_bytes())
}
