//! Judged answers: turbo-alignment's `{"id", "context", "answer", "is_desirable"}` and TRL's `{"prompt", "completion",
//! "label"}`.

use serde_json::Value;

use super::message::{self, Messages};
use super::row::{self, Row};
use super::turns::{self, sample};
use super::{DataError, DataKind, Images, Place, Reading, Sample};
use crate::example::{Judged, Unpaired};

crate::data_component! {
    /// turbo-alignment's judged answers: a `context` of messages, an `answer`, and whether it `is_desirable`. Messages
    /// are those of [`ChatData`](super::ChatData).
    ///
    /// # Source
    /// turbo-alignment, `dataset/kto`.
    pub struct UnpairedData, UnpairedDataBuilder {}
}

crate::data_component! {
    /// TRL's judged answers: a `prompt`, a `completion` and its `label`, in plain text or in messages
    /// ([`MessagesImagesData`](super::MessagesImagesData)'s, `images` included).
    ///
    /// Plain text is the user's turn and the assistant's, to the letter.
    ///
    /// # Source
    /// TRL 1.16, the dataset type "unpaired preference".
    pub struct UnpairedPreferenceData, UnpairedPreferenceDataBuilder {}
}

impl DataKind for UnpairedData {
    type Media = Images;
    type Shape = Unpaired;

    const FIELDS: &'static [&'static str] = &[
        "id",
        "context",
        "context[].role",
        "context[].content",
        "context[].type",
        "context[].disable_loss",
        "context[].tool_call_id",
        "context[].name",
        "answer",
        "is_desirable",
    ];

    fn reading(&self) -> Reading {
        self.common()
    }

    fn to_row(&self, sample: &Sample<Unpaired>) -> Option<Row> {
        let mut row = Row::new();
        row.insert("id".into(), sample.id.clone().into());
        row.insert("context".into(), message::chat_row(&sample.conversation.messages, &sample.images));
        row.insert("answer".into(), message::answer_row(&sample.target.answer));
        row.insert("is_desirable".into(), sample.target.desirable.into());
        Some(row)
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Unpaired>, DataError> {
        let mut reader = Messages::chat(place);
        let context = reader.list(row, "context")?;
        let answer = turns::answer(vec![reader.one(row, "answer")?], "answer", place)?;
        let desirable = row::truth(row, "is_desirable", place)?;
        let mut conversation = turns::context(context, "context", place)?;
        let images = reader.images(&mut conversation.messages)?;
        sample(row, place, conversation, images, Judged { answer, desirable })
    }
}

impl DataKind for UnpairedPreferenceData {
    type Media = Images;
    type Shape = Unpaired;

    const FIELDS: &'static [&'static str] = &[
        "id",
        "prompt",
        "prompt[].role",
        "prompt[].content",
        "prompt[].reasoning_content",
        "prompt[].thinking",
        "prompt[].tool_calls",
        "prompt[].tool_call_id",
        "prompt[].name",
        "completion",
        "completion[].role",
        "completion[].content",
        "completion[].reasoning_content",
        "completion[].thinking",
        "completion[].tool_calls",
        "completion[].tool_call_id",
        "completion[].name",
        "label",
        "tools",
        "images",
        "image",
    ];

    fn reading(&self) -> Reading {
        self.common()
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample<Unpaired>, DataError> {
        let mut reader = Messages::hugging_face(row, place)?;
        let prompt = match row.get("prompt") {
            Some(Value::Array(_)) => reader.list(row, "prompt")?,
            _ => vec![reader.question(row, "prompt")?],
        };
        let answer = match row.get("completion") {
            Some(Value::Array(_)) => reader.list(row, "completion")?,
            _ => turns::said(row::text(row, "completion", place)?),
        };
        let answer = turns::answer(answer, "completion", place)?;
        let desirable = row::truth(row, "label", place)?;
        let mut conversation = turns::context(prompt, "prompt", place)?;
        conversation.tools = message::tools(row, place)?;
        let images = reader.images(&mut conversation.messages)?;
        sample(row, place, conversation, images, Judged { answer, desirable })
    }
}
