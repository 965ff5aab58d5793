//! TRL's preferences: `{"prompt"?, "chosen", "rejected"}`, plain text or messages, with a margin or scores.

mod implicit;

use serde_json::Value;

use super::message::{self, Messages};
use super::row::{self, Row};
use super::turns::{self, sample};
use super::{DataError, DataKind, Images, Place, Reading, Sample};
use crate::example::{Margin, PairExtra, Pairs, Plain, Scores};
use crate::text::Message;

const PROMPT: &str = "prompt";
const CHOSEN: &str = "chosen";
const REJECTED: &str = "rejected";
const FIELDS: &[&str] = &[
    "id",
    PROMPT,
    "prompt[].role",
    "prompt[].content",
    "prompt[].reasoning_content",
    "prompt[].thinking",
    "prompt[].tool_calls",
    "prompt[].tool_call_id",
    "prompt[].name",
    CHOSEN,
    "chosen[].role",
    "chosen[].content",
    "chosen[].reasoning_content",
    "chosen[].thinking",
    "chosen[].tool_calls",
    "chosen[].tool_call_id",
    "chosen[].name",
    REJECTED,
    "rejected[].role",
    "rejected[].content",
    "rejected[].reasoning_content",
    "rejected[].thinking",
    "rejected[].tool_calls",
    "rejected[].tool_call_id",
    "rejected[].name",
    "tools",
    "images",
    "image",
    "margin",
    "score_chosen",
    "score_rejected",
];

crate::data_component! {
    /// TRL's preferences, in plain text or in messages ([`MessagesImagesData`](super::MessagesImagesData)'s).
    ///
    /// - Plain text: `prompt` is the user's turn and the answers are the assistant's, to the letter.
    /// - Messages: `chosen` and `rejected` are the messages that follow those of `prompt`. Of an answer of several messages
    ///   the assistant's are learned; TRL learns the user's among them, too.
    /// - Without a `prompt`, or with a `prompt` in plain text beside answers in messages, it is what both answers begin
    ///   with. Of messages: the longest common beginning after which the assistant speaks in both. Of plain text:
    ///   the longest common beginning that ends where a word ends in both, and the white space after it belongs to the
    ///   answers. TRL counts characters: "… is 11." and "… is 12." share "… is 1" there, and "… is" here. The answers
    ///   are never left empty.
    /// - `images` (or `image`) are shown where the messages have places for them, else before the user's first words.
    ///
    /// `margin` and scores are ignored: [`PreferenceMarginData`] and [`PreferenceScoresData`] read them.
    ///
    /// # Source
    /// TRL 1.16, dataset formats and `extract_prompt`.
    pub struct PreferenceData, PreferenceDataBuilder {}
}

crate::data_component! {
    /// As [`PreferenceData`], each with a `margin`: by how much the chosen answer is better.
    ///
    /// # Source
    /// TRL 1.16's reward trainer.
    pub struct PreferenceMarginData, PreferenceMarginDataBuilder {}
}

crate::data_component! {
    /// As [`PreferenceData`], each with the scores that a reward model gave: `score_chosen` and `score_rejected`.
    ///
    /// # Source
    /// The columns of UltraFeedback's binarized pairs.
    pub struct PreferenceScoresData, PreferenceScoresDataBuilder {}
}

impl DataKind for PreferenceData {
    type Media = Images;
    type Shape = Pairs;

    const FIELDS: &'static [&'static str] = FIELDS;

    fn reading(&self) -> Reading {
        self.common()
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Pairs>, DataError> {
        parse(row, Plain, place)
    }
}

impl DataKind for PreferenceMarginData {
    type Media = Images;
    type Shape = Pairs<Margin>;

    const FIELDS: &'static [&'static str] = FIELDS;

    fn reading(&self) -> Reading {
        self.common()
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Pairs<Margin>>, DataError> {
        parse(row, Margin(row::number(row, "margin", place)?), place)
    }
}

impl DataKind for PreferenceScoresData {
    type Media = Images;
    type Shape = Pairs<Scores>;

    const FIELDS: &'static [&'static str] = FIELDS;

    fn reading(&self) -> Reading {
        self.common()
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Pairs<Scores>>, DataError> {
        let score = |key| row::number(row, key, place);
        parse(row, Scores([score("score_chosen")?, score("score_rejected")?]), place)
    }
}

fn parse<X: PairExtra>(row: &Row, extra: X, place: &Place) -> Result<Sample<Pairs<X>>, DataError> {
    let mut reader = Messages::hugging_face(row, place)?;
    let answers_are_messages = matches!(row.get(CHOSEN), Some(Value::Array(_)));
    let (messages, chosen, rejected) = match row::given(row, PROMPT) {
        Some(Value::String(_)) if !answers_are_messages => {
            let question = reader.question(row, PROMPT)?;
            (vec![question], text_answer(row, CHOSEN, place)?, text_answer(row, REJECTED, place)?)
        }
        Some(Value::Array(_)) => {
            let prompt = reader.list(row, PROMPT)?;
            (prompt, answer(&mut reader, row, CHOSEN, place)?, answer(&mut reader, row, REJECTED, place)?)
        }
        None | Some(Value::String(_)) if answers_are_messages => {
            // Both repeat the prompt, whose images must be counted once.
            let rejected = reader.clone().list(row, REJECTED)?;
            implicit::messages(reader.list(row, CHOSEN)?, rejected, place)?
        }
        None => {
            let texts = [row::text(row, CHOSEN, place)?, row::text(row, REJECTED, place)?];
            let [prompt, chosen, rejected] = implicit::texts(texts, place)?;
            (vec![reader.asked(prompt, PROMPT)?], turns::said(chosen), turns::said(rejected))
        }
        Some(other) => return Err(row::wrong_type(place, PROMPT, "a string or a list of messages", other)),
    };
    let pair = turns::pair((chosen, CHOSEN), (rejected, REJECTED), extra, place)?;
    let mut conversation = turns::context(messages, PROMPT, place)?;
    conversation.tools = message::tools(row, place)?;
    let images = reader.images(&mut conversation.messages)?;
    sample(row, place, conversation, images, pair)
}

/// An answer in words, or in messages.
fn answer(reader: &mut Messages<'_>, row: &Row, key: &str, place: &Place) -> Result<Vec<Message>, DataError> {
    match row.get(key) {
        Some(Value::Array(_)) => reader.list(row, key),
        _ => text_answer(row, key, place),
    }
}

fn text_answer(row: &Row, key: &str, place: &Place) -> Result<Vec<Message>, DataError> {
    Ok(turns::said(row::text(row, key, place)?))
}
