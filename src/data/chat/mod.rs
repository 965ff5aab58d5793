//! turbo-alignment's chats: `{"id", "messages": [{"role": "user", "content": "…"}, {"role": "bot", …}], "meta"?}`.

use super::message::{self, Messages};
use super::row::Row;
use super::turns::{self, gather, sample};
use super::{DataError, DataKind, Images, Place, Reading, Sample};
use crate::example::Supervised;
use serde_json::json;

const TURNS: &str = "messages";

crate::data_component! {
    /// turbo-alignment's chats, with images or without: the roles are `user`, `bot` (or `assistant`), `system` and `tool`.
    ///
    /// A message with `"type": "image"` has a file's path as its `content`, and is one turn with the message of the same
    /// role beside it; audio is refused. `"disable_loss": true` on a bot message keeps it as context and learns nothing from
    /// it. Messages may follow each other in any order. `label` and `meta` are ignored.
    ///
    /// # Source
    /// turbo-alignment, `dataset/chat` and `dataset/multimodal`.
    pub struct ChatData, ChatDataBuilder {}
}

impl DataKind for ChatData {
    type Media = Images;
    type Shape = Supervised;

    const FIELDS: &'static [&'static str] = &[
        "id",
        "label",
        "meta",
        TURNS,
        "messages[].role",
        "messages[].content",
        "messages[].type",
        "messages[].disable_loss",
        "messages[].tool_call_id",
        "messages[].name",
    ];

    fn reading(&self) -> Reading {
        self.common()
    }

    fn awaiting(&self, row: &Row) -> Option<Row> {
        turns::awaiting(row, TURNS, "role", &["bot", "assistant"], json!({"role": "bot", "content": "-"}))
    }

    fn to_row(&self, sample: &Sample) -> Option<Row> {
        let mut row = Row::new();
        row.insert("id".into(), sample.id.clone().into());
        row.insert(TURNS.into(), message::chat_row(&sample.conversation.messages, &sample.images));
        Some(row)
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample, DataError> {
        let mut reader = Messages::chat(place);
        let turns = reader.list(row, TURNS)?;
        let mut conversation = gather(turns, TURNS, false, place)?.conversation;
        let images = reader.images(&mut conversation.messages)?;
        sample(row, place, conversation, images, ())
    }
}
