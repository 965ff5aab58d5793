//! A sample becomes token ids, a supervision mask, image slots and pixels, within a length limit.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::rows::{RowParts, TextRow};
use super::{DataError, Place, Sample, TextOptions};
use crate::example::{Facts, Learns, Shape};
use crate::image::{self, ImageError, ImageProcessor, ImageSource, Rgb8};
use crate::text::{
    ChatTemplate, Conversation, EncodedText, ImageTokens, Message, Rendered, Role, Stepped, TextError, Tokenizer,
    encode_rendered, encode_steps,
};

/// What is done with a record of more tokens than `max_length`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overlong {
    /// As many whole messages as fit are kept; where not even one exchange fits, or a pair's answers do not, the end is cut
    /// off. Where that would cut an image or leave nothing to learn, it is skipped and counted.
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
    /// A part of it is there.
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
    /// What of a record's messages is written and learned.
    pub options: TextOptions,
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
    /// several rows is kept whole, truncated or skipped as one; the longest row decides.
    ///
    /// # Errors
    /// [`DataError::NoVision`], [`DataError::Text`], [`DataError::NoSupervision`], and [`DataError::Overlong`] under
    /// [`Overlong::Error`].
    pub fn encode_text<S: Shape>(&self, sample: &Sample<S>) -> Result<Outcome<Vec<TextRow>>, DataError> {
        self.fit(&self.parts(sample), self.overlong, &sample.place)
    }

    /// The rows of a sample as text, with the spans to learn from; of an answer in steps, its steps. Not truncated: for
    /// people to look at.
    ///
    /// # Errors
    /// [`DataError::Text`].
    pub fn render<S: Shape>(&self, sample: &Sample<S>) -> Result<Vec<Rendered>, DataError> {
        let written = |row: &RowParts| Ok(self.write(row, &row.all(), &sample.place)?.rendered());
        self.parts(sample).iter().map(written).collect()
    }

    fn parts<S: Shape>(&self, sample: &Sample<S>) -> Vec<RowParts> {
        let context = sample.conversation.messages.len();
        let rows = sample.rows().into_iter();
        rows.map(|conversation| RowParts::new(conversation, context, S::LEARNS, self.options)).collect()
    }

    /// The text of some messages of a row.
    fn write(&self, row: &RowParts, kept: &[usize], place: &Place) -> Result<Written, DataError> {
        let conversation = row.select(kept);
        let written = match row.learns {
            Learns::Steps => self.template.render_steps(&conversation).map(Written::Steps),
            Learns::Answers if !self.options.only_answer_loss => {
                self.template.render_all(&conversation).map(Written::Spans)
            }
            Learns::Answers | Learns::Row => self.template.render(&conversation).map(Written::Spans),
        };
        written.map_err(|source| text(place, source))
    }

    /// Encodes some messages of a row, however many tokens they have.
    pub(super) fn encode_row(&self, row: &RowParts, kept: &[usize], place: &Place) -> Result<TextRow, DataError> {
        let images = row.images(kept);
        let written = self.write(row, kept, place)?;
        let mut encoded = self.tokenize(&written, images.len(), place)?;
        if !self.options.single_eos {
            encoded.input_ids.push(self.tokenizer.eos().ok_or_else(|| text(place, TextError::NoEos))?);
            encoded.supervised.push(false);
        }
        Ok(TextRow { text: encoded, images })
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

    fn example<S: Shape>(&self, sample: &Sample<S>, index: usize, texts: Vec<TextRow>) -> Result<Example, DataError> {
        let mut facts = S::facts(&sample.target);
        if let (Learns::Steps, Some(row)) = (S::LEARNS, texts.first()) {
            // Steps end in order, one token each: those behind a cut are not there to be judged.
            facts.steps.truncate(row.text.num_supervised());
        }
        let mut rows: Vec<Encoded> = Vec::with_capacity(texts.len());
        let mut shown: Option<Vec<usize>> = None;
        for text in texts {
            // The rows of an example show the same images: one copy serves them all.
            let shared = shown.as_ref() == Some(&text.images);
            let image_size = rows.last().map_or((0, 0), |row| row.image_size);
            shown = Some(text.images.clone());
            let mut row = self.with_pixels(&Of::sample(sample, index), text, !shared)?;
            if shared {
                row.image_size = image_size;
            }
            rows.push(row);
        }
        Ok(Example { rows, facts })
    }

    /// The context of record `index` with the answer of another record, cut to the length limit; `None` where the shape has
    /// no such rows, or where this one cannot be written or cut.
    ///
    /// # Errors
    /// [`DataError::Image`] of the record's own images.
    pub fn encode_mismatched<S: Shape>(
        &self,
        sample: &Sample<S>,
        index: usize,
        other: &S::Target,
    ) -> Result<Option<Encoded>, DataError> {
        let Some(conversation) = S::mismatched(&sample.conversation, other) else { return Ok(None) };
        let row = RowParts::new(conversation, sample.conversation.messages.len(), S::LEARNS, self.options);
        // A row of no record is no record's mistake: what is too long is cut, and what cannot be had is done without.
        match self.fit(&[row], Overlong::Truncate, &sample.place) {
            Ok(Outcome::Whole(rows) | Outcome::Truncated { kept: rows, .. }) => {
                rows.into_iter().next().map(|row| self.with_pixels(&Of::sample(sample, index), row, true)).transpose()
            }
            Ok(Outcome::Skipped { .. }) | Err(_) => Ok(None),
        }
    }

    /// Encodes record `index` up to where its last answer begins. `max_length` does not apply: what a prompt may
    /// measure depends on how much is to be generated.
    ///
    /// # Errors
    /// [`DataError::NoVision`], [`DataError::NoAnswer`], [`DataError::Text`], [`DataError::Image`].
    pub fn encode_prompt<S: Shape>(&self, sample: &Sample<S>, index: usize) -> Result<Prompt, DataError> {
        let shown = S::shown(&sample.conversation, &sample.target);
        self.question(shown, S::LEARNS, &Of::sample(sample, index))
    }

    /// Everything up to where the last answer begins, and that answer.
    fn question(&self, conversation: Conversation, learns: Learns, of: &Of<'_>) -> Result<Prompt, DataError> {
        let (text, answer) = self.prompt_text(conversation, learns, of)?;
        Ok(Prompt { encoded: self.with_pixels(of, text, true)?, answer })
    }

    /// As [`question`](Self::question), without the images' pixels.
    fn prompt_text(
        &self,
        conversation: Conversation,
        learns: Learns,
        of: &Of<'_>,
    ) -> Result<(TextRow, String), DataError> {
        let row = RowParts::new(conversation, usize::MAX, learns, self.options);
        let messages = &row.conversation.messages;
        let last = messages.iter().rposition(|message| message.role == Role::Assistant);
        let Some(last) = last else {
            return Err(DataError::NoAnswer { place: of.place.clone(), turns: messages.len() });
        };
        // Of several answers in a row the first: a prompt ends with somebody else's words.
        let answers = messages[..=last].iter().rev().take_while(|message| message.role == Role::Assistant).count();
        let last = last + 1 - answers;
        let answer = messages[last].words();
        let question = row.conversation.up_to(last);
        let prompt = self.template.render_prompt(&question).map_err(|source| text(of.place, source))?;
        let images = row.images(&(0..last).collect::<Vec<_>>());
        let encoded = self.tokenize(&Written::Spans(Rendered::prompt(prompt)), images.len(), of.place)?;
        Ok((TextRow { text: encoded, images }, answer))
    }

    /// Encodes a conversation that is not a record, with these images, up to where its answer begins.
    ///
    /// # Errors
    /// As [`encode_prompt`](Self::encode_prompt).
    pub fn encode_question<I: Clone + Into<ImageSource>>(
        &self,
        conversation: &Conversation,
        images: &[I],
    ) -> Result<Encoded, DataError> {
        let images: Vec<ImageSource> = images.iter().cloned().map(Into::into).collect();
        let place = Place { file: Path::new("--prompt").into(), line: 1 };
        let of = Of { id: "", index: 0, place: &place, images: Pictures::Given(&images) };
        Ok(self.question(to_be_answered(conversation), Learns::Answers, &of)?.encoded)
    }

    /// As [`encode_question`](Self::encode_question), with images that are [`pixels`](Self::pixels) already: in a
    /// conversation they come again with each question.
    ///
    /// # Errors
    /// [`DataError::NoVision`], [`DataError::Text`].
    pub fn encode_question_with(&self, conversation: &Conversation, pixels: &[&[f32]]) -> Result<Encoded, DataError> {
        let place = Place { file: Path::new("--prompt").into(), line: 1 };
        let of = Of { id: "", index: 0, place: &place, images: Pictures::Made(pixels.len()) };
        let (text, _) = self.prompt_text(to_be_answered(conversation), Learns::Answers, &of)?;
        let mut encoded = self.with_pixels(&of, text, false)?;
        if let Some(image) = self.image.as_ref().filter(|_| !pixels.is_empty()) {
            encoded.image_size = image.processor.crop_size();
            encoded.pixel_values = pixels.concat();
        }
        Ok(encoded)
    }

    /// Normalized pixels of an image, `[3, height, width]`; nothing for a model without vision.
    ///
    /// # Errors
    /// [`ImageError`] with the file's name.
    pub fn pixels(&self, path: &Path) -> Result<Option<Vec<f32>>, ImageError> {
        let Some(image) = &self.image else { return Ok(None) };
        Ok(Some(image.processor.preprocess(&image::decode(path)?)))
    }

    /// Encodes a conversation that is not a record, with these images, from its first word to its last: what a model that
    /// judges it is shown. `max_length` does not apply.
    ///
    /// # Errors
    /// [`DataError::NoVision`], [`DataError::Text`], [`DataError::Image`].
    pub fn encode_whole(&self, conversation: &Conversation, images: &[ImageSource]) -> Result<Encoded, DataError> {
        let place = Place { file: Path::new("the conversation").into(), line: 1 };
        let of = Of { id: "", index: 0, place: &place, images: Pictures::Given(images) };
        let row = RowParts::new(conversation.clone(), usize::MAX, Learns::Row, self.options);
        self.with_pixels(&of, self.encode_row(&row, &row.all(), &place)?, true)
    }

    fn tokenize(&self, written: &Written, images: usize, place: &Place) -> Result<EncodedText, DataError> {
        let bytes = written.text().len();
        if bytes > MOST_TEXT {
            return Err(DataError::TooMuchText { place: place.clone(), bytes, most: MOST_TEXT });
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
        let encoded = match written {
            Written::Spans(rendered) => encode_rendered(&self.tokenizer, rendered, &tokens),
            Written::Steps(stepped) => encode_steps(&self.tokenizer, stepped, &tokens),
        };
        encoded.map_err(|source| text(place, source))
    }

    /// The row with its images' pixels, or without where the row before it has them.
    fn with_pixels(&self, of: &Of<'_>, row: TextRow, decodes: bool) -> Result<Encoded, DataError> {
        let shown: &[usize] = if decodes { &row.images } else { &[] };
        let mut pixel_values = Vec::new();
        let mut image_size = (0, 0);
        if let Some(image) = self.image.as_ref().filter(|_| !shown.is_empty()) {
            image_size = image.processor.crop_size();
            pixel_values.reserve_exact(shown.len() * 3 * image_size.0 * image_size.1);
            for &i in shown {
                let place = of.place.clone();
                // A place of an image without a file would shift the pixels of all that follow.
                let Some(decoded) = of.images.decode(i) else {
                    return Err(DataError::ImageCount { place, markers: i + 1, images: of.images.len() });
                };
                let decoded =
                    decoded.map_err(|source| DataError::Image { place, number: i + 1, source: Box::new(source) })?;
                pixel_values.extend(image.processor.preprocess(&decoded));
            }
        }
        let EncodedText { input_ids, supervised, image_positions } = row.text;
        Ok(Encoded {
            input_ids,
            supervised,
            image_positions,
            pixel_values,
            image_size,
            id: of.id.to_owned(),
            index: of.index,
            place: of.place.clone(),
        })
    }
}

/// With an answer to come.
fn to_be_answered(conversation: &Conversation) -> Conversation {
    let mut conversation = conversation.clone();
    conversation.messages.push(Message::text(Role::Assistant, ""));
    conversation
}

/// What a row is of.
struct Of<'a> {
    id: &'a str,
    index: usize,
    place: &'a Place,
    images: Pictures<'a>,
}

impl<'a> Of<'a> {
    fn sample<S: Shape>(sample: &'a Sample<S>, index: usize) -> Self {
        Self { id: &sample.id, index, place: &sample.place, images: Pictures::Files(&sample.images) }
    }
}

/// The pictures of a record, or those that somebody gave.
enum Pictures<'a> {
    Files(&'a [PathBuf]),
    Given(&'a [ImageSource]),
    /// As many as were made into pixels elsewhere.
    Made(usize),
}

impl Pictures<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Files(paths) => paths.len(),
            Self::Given(sources) => sources.len(),
            Self::Made(count) => *count,
        }
    }

    /// One of them, decoded.
    fn decode(&self, i: usize) -> Option<Result<Rgb8, ImageError>> {
        match self {
            Self::Files(paths) => paths.get(i).map(|path| image::decode(path)),
            Self::Given(sources) => sources.get(i).map(ImageSource::decode),
            Self::Made(_) => None,
        }
    }
}

/// A row as text.
enum Written {
    /// What is learned are spans of it.
    Spans(Rendered),
    /// What is judged are the ends of its steps.
    Steps(Stepped),
}

impl Written {
    fn text(&self) -> &str {
        match self {
            Self::Spans(rendered) => &rendered.text,
            Self::Steps(stepped) => &stepped.text,
        }
    }

    fn rendered(self) -> Rendered {
        match self {
            Self::Spans(rendered) => rendered,
            Self::Steps(Stepped { text, start, ends }) => {
                let starts = std::iter::once(start).chain(ends.iter().copied());
                let spans = starts.zip(&ends).map(|(start, &end)| start..end).collect();
                Rendered { text, spans }
            }
        }
    }
}

fn text(place: &Place, source: TextError) -> DataError {
    DataError::Text { place: place.clone(), source: Box::new(source) }
}
