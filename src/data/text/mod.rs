//! Hugging Face's chat rows: `{"id"?, "messages": [{"role": "user", "content": "…"}, …], "tools"?, "images"?}`.

use super::message::{self, Messages};
use super::row::Row;
use super::turns::{self, gather, sample};
use super::{DataError, DataKind, Images, Place, Reading, Sample, TextOnly};
use crate::example::Supervised;
use crate::text::Message;
use serde_json::json;

const TURNS: &str = "messages";

/// What both kinds read.
const FIELDS: &[&str] = &[
    "id",
    TURNS,
    "messages[].role",
    "messages[].content",
    "messages[].disable_loss",
    "messages[].reasoning_content",
    "messages[].thinking",
    "messages[].tool_calls",
    "messages[].tool_call_id",
    "messages[].name",
    "tools",
    "images",
    "image",
];

crate::data_component! {
    /// Hugging Face's chat rows without media; an `<image>` in the text is plain text.
    ///
    /// `content` is a string or a list of parts (`{"type": "text", "text": "…"}`). `tools` (a list, or a string of JSON) are
    /// the functions that may be called, `tool_calls` of an assistant's message the calls, messages of the role `tool` their
    /// results; `reasoning_content` is what was thought before an answer. `"disable_loss": true` on an assistant message
    /// keeps it as context and learns nothing from it. The assistant's messages before the user's first one are dropped and
    /// counted; from there on roles may come in any order that the template can express.
    ///
    /// # Source
    /// Hugging Face's chat templates; TRL's conversational language modelling rows.
    pub struct MessagesData, MessagesDataBuilder {}
}

crate::data_component! {
    /// As [`MessagesData`], with any number of images.
    ///
    /// A part `{"type": "image"}` stands for the next image of the row's `images` (or `image`: a path or a list of them), or
    /// names its own file: `path`, `image`, `url` or `image_url`. So does an `<image>` in a user's words where the row has
    /// images. Where the messages have no place for the row's images, they are shown before the user's first words. Addresses
    /// and data URLs are refused: a record must mean the same tomorrow.
    ///
    /// # Source
    /// Hugging Face's processors; TRL's rows with `images`.
    pub struct MessagesImagesData, MessagesImagesDataBuilder {}
}

impl DataKind for MessagesData {
    type Media = TextOnly;
    type Shape = Supervised;

    const FIELDS: &'static [&'static str] = FIELDS;

    fn reading(&self) -> Reading {
        self.common()
    }

    fn awaiting(&self, row: &Row) -> Option<Row> {
        awaiting(row)
    }

    fn to_row(&self, sample: &Sample) -> Option<Row> {
        let message = |m: &Message| json!({"role": m.role.as_str(), "content": m.words()});
        let mut row = Row::new();
        row.insert("id".into(), sample.id.clone().into());
        row.insert(TURNS.into(), sample.conversation.messages.iter().map(message).collect());
        Some(row)
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample, DataError> {
        parse(Messages::text(row, place)?, row, place)
    }
}

impl DataKind for MessagesImagesData {
    type Media = Images;
    type Shape = Supervised;

    const FIELDS: &'static [&'static str] = FIELDS;

    fn reading(&self) -> Reading {
        self.common()
    }

    fn awaiting(&self, row: &Row) -> Option<Row> {
        awaiting(row)
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample, DataError> {
        parse(Messages::hugging_face(row, place)?, row, place)
    }
}

fn awaiting(row: &Row) -> Option<Row> {
    turns::awaiting(row, TURNS, "role", &["assistant"], json!({"role": "assistant", "content": "-"}))
}

fn parse(mut reader: Messages<'_>, row: &Row, place: &Place) -> Result<Sample, DataError> {
    let turns = reader.list(row, TURNS)?;
    let mut arranged = gather(turns, TURNS, true, place)?;
    arranged.conversation.tools = message::tools(row, place)?;
    let images = reader.images(&mut arranged.conversation.messages)?;
    let read = sample(row, place, arranged.conversation, images, ())?;
    Ok(Sample { dropped_leading: arranged.dropped_leading, ..read })
}
