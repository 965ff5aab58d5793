//! A sample becomes token ids, a supervision mask, image slots and pixels, within a length limit.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{DataError, Place, Sample};
use crate::example::{Facts, Learns, Shape, Supervised};
use crate::image::{self, ImageProcessor};
use crate::text::{
    ChatTemplate, Conversation, EncodedText, ImageTokens, Message, Rendered, Role, Tokenizer, encode_rendered,
};

/// What is done with a record of more tokens than `max_length`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlong {
    /// Its end is cut off. Where that would cut an image or leave nothing to learn, it is skipped and counted.
    #[default]
    Truncate,
    /// It is skipped and counted.
    Skip,
    /// It is refused.
    Error,
}

/// Bytes of text that a record may have. A tokenizer takes more than a hundred bytes of memory for each of them, on every
/// thread; this many are half a million tokens and more.
const MOST_TEXT: usize = 2 << 20;

/// Why a record was skipped on account of its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum SkipReason {
    /// Longer than allowed, under [`Overlong::Skip`].
    TooLong,
    /// The limit falls inside an image's tokens.
    CutImage,
    /// The limit falls before the first supervised token.
    NothingToLearn,
}

impl SkipReason {
    /// The reason in a few words, to count by.
    pub fn label(self) -> &'static str {
        match self {
            Self::TooLong => "too long",
            Self::CutImage => "too long: truncation would cut an image",
            Self::NothingToLearn => "too long: truncation would leave nothing to learn",
        }
    }
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What became of a record.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome<T> {
    /// All of it is there.
    Whole(T),
    /// Its beginning is there.
    Truncated {
        /// The part that was kept.
        kept: T,
        /// Number of tokens before the cut.
        tokens: usize,
    },
    /// It is left out.
    Skipped {
        /// Why.
        reason: SkipReason,
        /// Number of tokens it has.
        tokens: usize,
    },
}

/// How images enter the token sequence and become pixels.
#[derive(Clone, Debug)]
pub struct ImageEncoding {
    /// The vision encoder's preprocessing.
    pub processor: ImageProcessor,
    /// Tokens that one image occupies, that is, features per image that the projector yields.
    pub tokens_per_image: usize,
    /// The tokenizer's image token, usually `<image>`.
    pub token: String,
    /// The id of `token`.
    pub token_id: u32,
    /// Whether the text between two images is tokenized by itself ([`ImageTokens::apart`]).
    pub apart: bool,
}

/// Turns samples into token ids, masks and pixels. Shared by all loader threads.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// The tokenizer.
    pub tokenizer: Tokenizer,
    /// How a conversation is written as text.
    pub template: ChatTemplate,
    /// How images are encoded; `None` for a model without vision, for which a record with images is an error.
    pub image: Option<ImageEncoding>,
    /// The most tokens a record may have, image tokens included.
    pub max_length: usize,
    /// What is done with longer records.
    pub overlong: Overlong,
}

/// One record, ready to be put into a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// Its rows.
    pub rows: Vec<Encoded>,
    /// What the record says besides.
    pub facts: Facts,
}

/// One row of a record.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// Token ids, BOS and expanded image tokens included.
    pub input_ids: Vec<u32>,
    /// Per token, whether it is to be learned (unshifted: a property of the token, not of its predecessor).
    pub supervised: Vec<bool>,
    /// Token ranges of the images, in order.
    pub image_positions: Vec<Range<usize>>,
    /// Normalized pixels of the images, `[images, 3, height, width]`; empty where the row shows the images of the row
    /// before it.
    pub pixel_values: Vec<f32>,
    /// Height and width of each image; `(0, 0)` without images.
    pub image_size: (usize, usize),
    /// The record's id.
    pub id: String,
    /// The record's number in its data set.
    pub index: usize,
    /// Where the record begins.
    pub place: Place,
}

/// A record as a question: what a model is shown in an evaluation that generates.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Everything up to the header of the last assistant turn; nothing is supervised.
    pub encoded: Encoded,
    /// The text of that turn.
    pub answer: String,
}

impl Encoder {
    /// Renders and tokenizes the rows of a sample; images enter by their number of tokens and are not opened. A sample of
    /// several rows is kept whole, truncated or skipped as its rows are, the worst of them deciding.
    ///
    /// # Errors
    /// [`DataError::NoVision`], [`DataError::Text`], [`DataError::NoSupervision`], and [`DataError::Overlong`] under
    /// [`Overlong::Error`].
    pub fn encode_text<S: Shape>(&self, sample: &Sample<S>) -> Result<Outcome<Vec<EncodedText>>, DataError> {
        let mut rows = Vec::with_capacity(S::ROWS);
        let mut longest = None;
        for conversation in sample.rows() {
            let images = conversation.image_count();
            match self.encode_row(&conversation, images, S::LEARNS, &sample.place)? {
                Outcome::Whole(row) => rows.push(row),
                Outcome::Truncated { kept, tokens } => {
                    rows.push(kept);
                    longest = longest.max(Some(tokens));
                }
                Outcome::Skipped { reason, tokens } => return Ok(Outcome::Skipped { reason, tokens }),
            }
        }
        Ok(match longest {
            None => Outcome::Whole(rows),
            Some(tokens) => Outcome::Truncated { kept: rows, tokens },
        })
    }

    fn encode_row(
        &self,
        conversation: &Conversation,
        images: usize,
        learns: Learns,
        place: &Place,
    ) -> Result<Outcome<EncodedText>, DataError> {
        let rendered = self.template.render(conversation).map_err(|source| text(place, source))?;
        let encoded = self.tokenize(&rendered, images, place)?;
        let tokens = encoded.input_ids.len();
        if learns != Learns::Row && !teaches(&encoded.supervised) {
            return Err(DataError::NoSupervision { place: place.clone(), tokens });
        }
        if tokens <= self.max_length {
            return Ok(Outcome::Whole(encoded));
        }
        match self.overlong {
            Overlong::Truncate => Ok(truncate(encoded, self.max_length)),
            Overlong::Skip => Ok(Outcome::Skipped { reason: SkipReason::TooLong, tokens }),
            Overlong::Error => {
                Err(DataError::Overlong { place: place.clone(), tokens, max_length: self.max_length })
            }
        }
    }

    /// Encodes record `index` with its pixels. Images are decoded only where they are kept.
    ///
    /// # Errors
    /// As [`encode_text`](Self::encode_text), and [`DataError::Image`].
    pub fn encode<S: Shape>(&self, sample: &Sample<S>, index: usize) -> Result<Outcome<Example>, DataError> {
        Ok(match self.encode_text(sample)? {
            Outcome::Whole(kept) => Outcome::Whole(self.example(sample, index, kept)?),
            Outcome::Truncated { kept, tokens } => {
                Outcome::Truncated { kept: self.example(sample, index, kept)?, tokens }
            }
            Outcome::Skipped { reason, tokens } => Outcome::Skipped { reason, tokens },
        })
    }

    fn example<S: Shape>(
        &self,
        sample: &Sample<S>,
        index: usize,
        texts: Vec<EncodedText>,
    ) -> Result<Example, DataError> {
        let mut rows: Vec<Encoded> = Vec::with_capacity(texts.len());
        for encoded in texts {
            // The rows of an example show the same images: one copy serves them all.
            let shared = rows.last().is_some_and(|row| row.image_positions.len() == encoded.image_positions.len());
            let image_size = rows.last().map_or((0, 0), |row| row.image_size);
            let mut row = self.with_pixels(sample, index, encoded, !shared)?;
            if shared {
                row.image_size = image_size;
            }
            rows.push(row);
        }
        Ok(Example { rows, facts: S::facts(&sample.target) })
    }

    /// The context of record `index` with the answer of another record; `None` where the shape has no such rows or the row
    /// would not fit.
    ///
    /// # Errors
    /// As [`encode_text`](Self::encode_text), and [`DataError::Image`].
    pub fn encode_mismatched<S: Shape>(
        &self,
        sample: &Sample<S>,
        index: usize,
        other: &S::Target,
    ) -> Result<Option<Encoded>, DataError> {
        let Some(conversation) = S::mismatched(&sample.conversation, other) else { return Ok(None) };
        let images = conversation.image_count();
        match self.encode_row(&conversation, images, S::LEARNS, &sample.place)? {
            Outcome::Whole(row) | Outcome::Truncated { kept: row, .. } => {
                Ok(Some(self.with_pixels(sample, index, row, true)?))
            }
            Outcome::Skipped { .. } => Ok(None),
        }
    }

    /// Encodes record `index` up to where its last answer begins. `max_length` does not apply: what a prompt may
    /// measure depends on how much is to be generated.
    ///
    /// # Errors
    /// [`DataError::NoVision`], [`DataError::NoAnswer`], [`DataError::Text`], [`DataError::Image`].
    pub fn encode_prompt<S: Shape>(&self, sample: &Sample<S>, index: usize) -> Result<Prompt, DataError> {
        let shown = S::shown(&sample.conversation, &sample.target);
        let messages = &shown.messages;
        let last = messages.iter().rposition(|message| message.role == Role::Assistant);
        let Some(last) = last else {
            return Err(DataError::NoAnswer { place: sample.place.clone(), turns: messages.len() });
        };
        let answer = messages[last].words();
        let conversation = shown.up_to(last);
        let prompt = self.template.render_prompt(&conversation).map_err(|source| text(&sample.place, source))?;
        let images = conversation.image_count();
        let encoded = self.tokenize(&Rendered::prompt(prompt), images, &sample.place)?;
        Ok(Prompt { encoded: self.with_pixels(sample, index, encoded, true)?, answer })
    }

    /// Encodes a conversation that is not a record, with images from these files, up to where its answer begins.
    ///
    /// # Errors
    /// As [`encode_prompt`](Self::encode_prompt).
    pub fn encode_question(&self, conversation: &Conversation, images: &[PathBuf]) -> Result<Encoded, DataError> {
        let mut conversation = conversation.clone();
        conversation.messages.push(Message::text(Role::Assistant, ""));
        let sample = Sample::<Supervised> {
            id: String::new(),
            conversation,
            target: (),
            images: images.to_vec(),
            dropped_leading: 0,
            place: Place { file: Path::new("--prompt").into(), line: 1 },
        };
        Ok(self.encode_prompt(&sample, 0)?.encoded)
    }

    fn tokenize(&self, rendered: &Rendered, images: usize, place: &Place) -> Result<EncodedText, DataError> {
        if rendered.text.len() > MOST_TEXT {
            let (place, bytes) = (place.clone(), rendered.text.len());
            return Err(DataError::TooMuchText { place, bytes, most: MOST_TEXT });
        }
        let tokens = match &self.image {
            Some(image) => ImageTokens {
                token: image.token.clone(),
                id: image.token_id,
                per_image: vec![image.tokens_per_image; images],
                apart: image.apart,
            },
            None if images > 0 => {
                return Err(DataError::NoVision { place: place.clone(), images });
            }
            None => ImageTokens::default(),
        };
        encode_rendered(&self.tokenizer, rendered, &tokens).map_err(|source| text(place, source))
    }

    /// The row with its images' pixels, or without where the row before it has them.
    fn with_pixels<S: Shape>(
        &self,
        sample: &Sample<S>,
        index: usize,
        encoded: EncodedText,
        decodes: bool,
    ) -> Result<Encoded, DataError> {
        let images = if decodes { encoded.image_positions.len() } else { 0 };
        let mut pixel_values = Vec::new();
        let mut image_size = (0, 0);
        if let Some(image) = self.image.as_ref().filter(|_| images > 0) {
            image_size = image.processor.crop_size();
            pixel_values.reserve_exact(images * 3 * image_size.0 * image_size.1);
            for (i, path) in sample.images.iter().take(images).enumerate() {
                let decoded = image::decode(path).map_err(|source| DataError::Image {
                    place: sample.place.clone(),
                    number: i + 1,
                    source: Box::new(source),
                })?;
                pixel_values.extend(image.processor.preprocess(&decoded));
            }
        }
        Ok(Encoded {
            input_ids: encoded.input_ids,
            supervised: encoded.supervised,
            image_positions: encoded.image_positions,
            pixel_values,
            image_size,
            id: sample.id.clone(),
            index,
            place: sample.place.clone(),
        })
    }
}

/// Cuts `encoded` to its first `max_length` tokens. Images that lie wholly behind the cut go with the text around them.
pub fn truncate(mut encoded: EncodedText, max_length: usize) -> Outcome<EncodedText> {
    let tokens = encoded.input_ids.len();
    if tokens <= max_length {
        return Outcome::Whole(encoded);
    }
    if encoded.image_positions.iter().any(|at| at.start < max_length && max_length < at.end) {
        return Outcome::Skipped { reason: SkipReason::CutImage, tokens };
    }
    if !teaches(&encoded.supervised[..max_length]) {
        return Outcome::Skipped { reason: SkipReason::NothingToLearn, tokens };
    }
    encoded.input_ids.truncate(max_length);
    encoded.supervised.truncate(max_length);
    encoded.image_positions.retain(|at| at.end <= max_length);
    Outcome::Truncated { kept: encoded, tokens }
}

/// Whether any token is a target. The first one never is: nothing precedes it.
fn teaches(supervised: &[bool]) -> bool {
    supervised.iter().skip(1).any(|&s| s)
}

fn text(place: &Place, source: crate::text::TextError) -> DataError {
    DataError::Text { place: place.clone(), source: Box::new(source) }
}
