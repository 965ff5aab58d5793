//! LLaVA's records: `{"id", "image"?, "conversations": [{"from": "human", "value": "<image>\n…"}, {"from": "gpt", …}]}`.

use std::path::PathBuf;

use super::row::{self, Row};
use super::turns::{self, arrange};
use super::{DataError, DataKind, Images, Place, Reading, Sample};
use crate::example::Supervised;
use crate::text::{Message, Role};
use serde_json::json;

const TURNS: &str = "conversations";
const ROLES: &str = "\"human\" or \"user\", \"gpt\" or \"assistant\", and \"system\"";

crate::data_component! {
    /// Records of LLaVA's instruction tuning: a conversation, with one image, several (`"image": ["a.png", "b.png"]`) or none.
    ///
    /// Every `<image>` in a turn stands for the next image of the record, and there must be as many as images.
    ///
    /// # Source
    /// Liu et al. 2023, `llava/train/train.py` and the published `llava_v1_5_mix665k.json`.
    pub struct LlavaData, LlavaDataBuilder {}
}

impl DataKind for LlavaData {
    type Media = Images;
    type Shape = Supervised;

    const FIELDS: &'static [&'static str] = &["id", "image", TURNS, "conversations[].from", "conversations[].value"];

    fn reading(&self) -> Reading {
        self.common()
    }

    fn awaiting(&self, row: &Row) -> Option<Row> {
        turns::awaiting(row, TURNS, "from", &["gpt", "assistant"], json!({"from": "gpt", "value": "-"}))
    }

    fn to_row(&self, sample: &Sample) -> Option<Row> {
        let turn = |message: &Message| {
            let from = match message.role {
                Role::Assistant => "gpt",
                Role::System => "system",
                _ => "human",
            };
            json!({"from": from, "value": turns::join_images(&message.content)})
        };
        let mut row = Row::new();
        row.insert("id".into(), sample.id.clone().into());
        match sample.images.as_slice() {
            [] => {}
            [one] => drop(row.insert("image".into(), json!(one))),
            several => drop(row.insert("image".into(), json!(several))),
        }
        row.insert(TURNS.into(), sample.conversation.messages.iter().map(turn).collect());
        Some(row)
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample, DataError> {
        let id = row::id(row, place)?;
        let images: Vec<PathBuf> = row::strings(row, "image", place)?.into_iter().map(PathBuf::from).collect();
        let turns = row::objects(row, TURNS, place)?
            .into_iter()
            .enumerate()
            .map(|(i, turn)| message(turn, i, place))
            .collect::<Result<Vec<_>, _>>()?;
        let arranged = arrange(turns, TURNS, place)?;
        let markers = arranged.conversation.image_count();
        if markers != images.len() {
            return Err(DataError::ImageCount { place: place.clone(), markers, images: images.len() });
        }
        Ok(Sample {
            id,
            conversation: arranged.conversation,
            images,
            target: (),
            dropped_leading: arranged.dropped_leading,
            place: place.clone(),
        })
    }
}

fn message(turn: &Row, i: usize, place: &Place) -> Result<Message, DataError> {
    let from = row::string(turn, "from", || format!("{TURNS}[{i}].from"), place)?;
    let role = match from {
        "human" | "user" => Role::User,
        "gpt" | "assistant" => Role::Assistant,
        "system" => Role::System,
        other => {
            return Err(DataError::UnknownRole {
                place: place.clone(),
                turn: i + 1,
                role: other.to_owned(),
                allowed: ROLES,
            });
        }
    };
    let value = row::string(turn, "value", || format!("{TURNS}[{i}].value"), place)?;
    Ok(Message::new(role, turns::split_images(value)))
}
