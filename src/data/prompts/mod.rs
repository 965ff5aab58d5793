//! Questions that await an answer: `{"prompt": "…" | [messages], "images"?, "tools"?}`.

use serde_json::Value;

use super::message::{self, Messages};
use super::row::Row;
use super::turns::{self, sample};
use super::{DataError, DataKind, Images, Place, Reading, Sample};
use crate::example::Prompts;

const PROMPT: &str = "prompt";

crate::data_component! {
    /// Prompts in plain text or in messages ([`MessagesImagesData`](super::MessagesImagesData)'s, `images` included), which
    /// may also be called `messages`.
    ///
    /// # Source
    /// TRL 1.16, the dataset type "prompt-only".
    pub struct PromptsData, PromptsDataBuilder {}
}

impl DataKind for PromptsData {
    type Media = Images;
    type Shape = Prompts;

    const FIELDS: &'static [&'static str] = &[
        "id",
        PROMPT,
        "prompt[].role",
        "prompt[].content",
        "prompt[].tool_calls",
        "prompt[].tool_call_id",
        "prompt[].name",
        "messages",
        "messages[].role",
        "messages[].content",
        "messages[].tool_calls",
        "messages[].tool_call_id",
        "messages[].name",
        "tools",
        "images",
        "image",
    ];

    fn reading(&self) -> Reading {
        self.common()
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Prompts>, DataError> {
        let mut reader = Messages::hugging_face(row, place)?;
        let key = if row.contains_key(PROMPT) || !row.contains_key("messages") { PROMPT } else { "messages" };
        let messages = match row.get(key) {
            Some(Value::Array(_)) => reader.list(row, key)?,
            _ => vec![reader.question(row, key)?],
        };
        let mut conversation = turns::context(messages, key, place)?;
        conversation.tools = message::tools(row, place)?;
        let images = reader.images(&mut conversation.messages)?;
        sample(row, place, conversation, images, ())
    }
}
