//! Rows of data files become samples, samples become token ids with a supervision mask, and those become batches.
//!
//! ```text
//! source   file line -> row                 Dataset, over memory maps; tables and .gz files are unpacked to the disk first
//! chat,    row -> Sample                    a formatter: one small type per kind of record ([`DataKind`])
//! pairs, …
//! encode   Sample -> Encoded                token ids, mask, image slots, pixels
//! shorten  a row that is too long           whole messages are kept, or its end is cut off
//! sampler  lengths -> order                 which records form which batch
//! packing  lengths -> lines                 which records share a line of one
//! batch    [Encoded] -> Batch               padding, host memory
//! loader   order -> Batch, Batch, …         worker threads, a bounded number of batches ahead
//! preflight                                 all of the above for every record, before any weight is read
//! ```
//!
//! Nothing is dropped silently: a record that is refused is an error with file and line, or, under
//! [`BadRecord::Skip`] and [`Overlong::Skip`], counted by reason and handed to the caller.

pub mod align;
pub mod alpaca;
pub mod batch;
pub mod chat;
pub mod classification;
pub mod encode;
pub mod error;
pub mod expand;
pub mod llava;
pub mod loader;
pub mod message;
pub mod packing;
pub mod pairs;
pub mod place;
pub mod preference;
pub mod preflight;
pub mod prompts;
mod reading;
pub mod record;
mod responses;
pub mod row;
mod rows;
pub mod safety;
pub mod sampler;
mod scan;
pub mod share_gpt;
mod shorten;
pub mod source;
mod special_tokens;
pub mod steps;
#[cfg(test)]
mod tests;
pub mod text;
mod tools;
pub mod turns;
pub mod unpaired;
pub mod vl_rlhf;

pub use align::{AlignPreferenceData, AlignPromptsData, AlignSupervisedData};
pub use alpaca::AlpacaData;
pub use batch::{Batch, ImageSlot, PadSide, Padding, collate, collate_examples, collate_lines};
pub use chat::ChatData;
pub use classification::ClassificationData;
pub use encode::{Encoded, Encoder, Example, ImageEncoding, Outcome, Overlong, Prompt, SkipReason};
pub use error::DataError;
pub use expand::Expanded;
pub use llava::LlavaData;
pub use loader::{BadRecord, LoadedBatch, Loader, LoaderSettings, Skipped};
pub use packing::{Fill, Lines, pack};
pub use pairs::{PairsData, PairsMarginData};
pub use place::Place;
pub use preference::{PreferenceData, PreferenceMarginData, PreferenceScoresData};
pub use preflight::{Check, Checked, check};
pub use prompts::PromptsData;
pub use reading::{Reading, TextOptions};
pub use record::RecordError;
pub use row::Row;
pub use rows::TextRow;
pub use safety::{HelpfulnessData, SafetyData};
pub use sampler::Sampler;
pub use share_gpt::ShareGptData;
pub use source::{Dataset, SourceReport};
pub use special_tokens::SpecialTokens;
pub use steps::StepsData;
pub use text::{MessagesData, MessagesImagesData};
pub use unpaired::{UnpairedData, UnpairedPreferenceData};
pub use vl_rlhf::{PlainDpoData, RlhfvData, VlFeedbackData};

use std::path::PathBuf;

use crate::example::{Shape, Supervised};
use crate::settings::Component;
use crate::text::{Conversation, Part};

/// What the records of a data kind carry besides text. A marker: it exists in types only.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a kind of media",
    label = "not a kind of media",
    note = "write `type Media = TextOnly;` for records without pictures or `type Media = Images;` for records with them"
)]
pub trait Media: 'static {
    /// Whether a record may name image files.
    const IMAGES: bool;
}

/// Records of text and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextOnly {}

/// Records of text and any number of images, none included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Images {}

impl Media for TextOnly {
    const IMAGES: bool = false;
}

impl Media for Images {
    const IMAGES: bool = true;
}

/// A kind of record: how one row of a file is read as a conversation.
///
/// A formatter is one small type; [`LlavaData`] is an example to copy. [`row`] has getters whose errors name the file,
/// the line and the field, and [`turns`] the rules that every conversation is held to.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a kind of data",
    label = "not a kind of data",
    note = "name one that exists, such as `LlavaData`, `ChatData` or `PairsData`, or implement `firebrick::data::DataKind` for `{Self}`"
)]
pub trait DataKind: Component {
    /// What the records carry besides text: [`TextOnly`] or [`Images`].
    type Media: Media;

    /// What one record consists of: [`Supervised`], [`Pairs`](crate::example::Pairs),
    /// [`Unpaired`](crate::example::Unpaired), [`Labelled`](crate::example::Labelled), [`Steps`](crate::example::Steps)
    /// or [`Prompts`](crate::example::Prompts).
    type Shape: Shape;

    /// The fields that [`parse`](Self::parse) reads: `"id"` of the row, `"conversations[].from"` of the objects in a
    /// row's list. Public data sets carry extras: other fields are ignored, and the preflight lists them once.
    const FIELDS: &'static [&'static str];

    /// Whether a row may hold several records, or none, so that a data set has to [expand](Self::expand) each.
    const EXPANDS: bool = false;

    /// How records of this kind are read; a kind with settings of its own passes them on.
    fn reading(&self) -> Reading {
        Reading::default()
    }

    /// The records of one row, each as a row of its own, which [`parse`](Self::parse) then reads. Asked for where
    /// [`EXPANDS`](Self::EXPANDS) alone (see [`expand`]).
    ///
    /// # Errors
    /// A [`DataError`] that starts with `place`.
    fn expand(&self, row: Row, _place: &Place) -> Result<Expanded, DataError> {
        Ok(Expanded::one(row))
    }

    /// Reads one row. Image paths are returned as the row names them; the data set resolves them.
    ///
    /// # Errors
    /// A [`DataError`] that starts with `place`.
    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Self::Shape>, DataError>;

    /// The row with a made-up answer at its end, where it ends with a question and [`parse`](Self::parse) wants an answer:
    /// what a model is to answer is read that way. `None` where the row has an answer, and for kinds whose rows need none.
    fn awaiting(&self, _row: &Row) -> Option<Row> {
        None
    }

    /// The row that [`parse`](Self::parse) would read this sample from, with which a recipe without data writes the records
    /// that it makes up; `None` for a kind that is never without data.
    fn to_row(&self, _sample: &Sample<Self::Shape>) -> Option<Row> {
        None
    }
}

/// One record, read: a conversation and the images it refers to, nothing of which is decoded yet.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample<S: Shape = Supervised> {
    /// The record's `id`. Left empty by a formatter where the row has none: [`Dataset::sample`] then puts the record's
    /// number, counted from 0.
    pub id: String,
    /// The turns: all of them where they are what is learned, else those before the answers in `target`. Holds as many
    /// image parts as `images` has paths, in the same order.
    pub conversation: Conversation,
    /// What the record holds besides, such as two answers.
    pub target: S::Target,
    /// The image files, in the order of the image parts. As the row names them when they come from a formatter, as
    /// found on disk when they come from [`Dataset::sample`].
    pub images: Vec<PathBuf>,
    /// Turns that stood before the human's first one and were dropped.
    pub dropped_leading: usize,
    /// Where the record begins.
    pub place: Place,
}

impl<S: Shape> Sample<S> {
    /// The conversations that a model is shown of this record.
    pub fn rows(&self) -> Vec<Conversation> {
        S::rows(&self.conversation, &self.target)
    }

    /// Number of words of all turns of all rows, an image marker counting as one; never 0. LLaVA's measure of length for
    /// its samplers, which order records before anything is tokenized.
    pub fn words(&self) -> usize {
        let rows = self.rows();
        let parts = rows.iter().flat_map(|row| &row.messages).flat_map(|message| &message.content);
        let words: usize = parts
            .map(|part| match part {
                Part::Text(text) => text.split_whitespace().count(),
                Part::Image => 1,
            })
            .sum();
        words.max(1)
    }

    /// [`words`](Self::words), negative where the record has no image: what [`Sampler::epoch`] takes.
    pub fn signed_length(&self) -> i64 {
        let words = self.words() as i64;
        if self.images.is_empty() { -words } else { words }
    }
}
