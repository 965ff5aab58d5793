//! What can be wrong with what a record says, as far as its form is sound.

use thiserror::Error;

/// Why a record is refused although its fields are there and of the right type.
///
/// Made into a [`DataError`](super::DataError) with [`at`](Self::at).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A chosen and a rejected answer that say the same.
    #[error(
        "`{chosen}` and `{rejected}` say the same, so that nothing is preferred; remove the record, or set `data.bad_record` to `skip`"
    )]
    EqualAnswers {
        /// The field of the better answer.
        chosen: String,
        /// The field of the worse one.
        rejected: String,
    },
    /// An answer without words.
    #[error("`{field}` says nothing, and it is what is learned; fill it in or remove the record")]
    EmptyAnswer {
        /// The answer's path inside the record.
        field: String,
    },
    /// An answer that is not the assistant's, or in which the assistant does not speak first.
    #[error("`{field}` must begin with the assistant's message, but begins with the {found}'s")]
    AnswerRole {
        /// The answer's path inside the record.
        field: String,
        /// Who speaks first.
        found: &'static str,
    },
    /// A record that asks nothing.
    #[error("`{field}` asks nothing: an answer needs words of the user before it")]
    NoQuestion {
        /// The question's path inside the record.
        field: String,
    },
    /// A pair without a prompt of its own whose answers have no beginning in common.
    #[error(
        "there is no `prompt`, and `{chosen}` and `{rejected}` do not begin alike; give the record a `prompt`, or begin both with the same question"
    )]
    NoCommonPrompt {
        /// The field of the better answer.
        chosen: String,
        /// The field of the worse one.
        rejected: String,
    },
    /// A record whose judges preferred neither answer.
    #[error(
        "`{field}` is {found}, which prefers neither answer; remove the record, or set `data.bad_record` to `skip`"
    )]
    NoPreference {
        /// The judgement's path inside the record.
        field: String,
        /// What it says.
        found: String,
    },
    /// Audio, video, and whatever else no model here takes.
    #[error("`{field}` is {media}, which is not read: text and images are; remove the record")]
    Media {
        /// The media's path inside the record.
        field: String,
        /// What it is.
        media: String,
    },
    /// An image in a record of a data kind of text alone.
    #[error("`{field}` is an image, but this data kind is of text alone; take one with images ({instead})")]
    TextOnly {
        /// The image's path inside the record.
        field: String,
        /// A data kind that takes images.
        instead: &'static str,
    },
    /// An image that is no file.
    #[error("`{field}` is {found}, and images are read from files; save it and write the file's path")]
    NoImageFile {
        /// The image's path inside the record.
        field: String,
        /// What it is instead.
        found: String,
    },
    /// An image in an answer, where no model here can write one.
    #[error("`{field}` shows an image; answers are words, and images belong to the messages before them")]
    ImageInAnswer {
        /// The answer's path inside the record.
        field: String,
    },
    /// Other many places for images than images.
    #[error(
        "the messages have {places} place(s) for images (`<image>` or an image part), but the record names {images} image(s); write one place for each, or none to show all of them first"
    )]
    ImagePlaces {
        /// Places in the messages.
        places: usize,
        /// Images that the record names beside its messages.
        images: usize,
    },
    /// Two lists that belong together and are of different lengths.
    #[error("`{first}` has {first_len} element(s), but `{second}` has {second_len}; there must be as many")]
    Lengths {
        /// The first list.
        first: &'static str,
        /// Its length.
        first_len: usize,
        /// The second list.
        second: &'static str,
        /// Its length.
        second_len: usize,
    },
    /// A field that should hold JSON in a string.
    #[error("`{field}` is not the JSON it should be: {detail}")]
    Json {
        /// The field's path inside the record.
        field: String,
        /// What is wrong with it.
        detail: String,
    },
}

impl RecordError {
    /// The error of the record at `place`.
    pub fn at(self, place: &super::Place) -> super::DataError {
        super::DataError::Record { place: place.clone(), source: Box::new(self) }
    }

    /// The kind of mistake in a few words: what refused records are counted by.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::EqualAnswers { .. } => "equal answers",
            Self::EmptyAnswer { .. } => "empty answer",
            Self::AnswerRole { .. } => "answer is not the assistant's",
            Self::NoQuestion { .. } => "no question",
            Self::NoCommonPrompt { .. } => "no common prompt",
            Self::NoPreference { .. } => "no preference",
            Self::Media { .. } => "audio or video",
            Self::TextOnly { .. } => "image in a record of text",
            Self::NoImageFile { .. } => "image is not a file",
            Self::ImageInAnswer { .. } => "image in an answer",
            Self::ImagePlaces { .. } => "mismatched number of images",
            Self::Lengths { .. } => "lists of different lengths",
            Self::Json { .. } => "malformed JSON in a field",
        }
    }
}
