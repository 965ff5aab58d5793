//! Text-only chat records: `{"id"?, "messages": [{"role": "user", "content": "…", "disable_loss"?}, …]}`.

use super::row::{self, Row};
use super::turns::arrange;
use super::{DataError, DataKind, Place, Reading, Sample, TextOnly};
use crate::example::Supervised;
use crate::text::{Message, Role};

const TURNS: &str = "messages";
const ROLES: &str = "\"user\", \"assistant\" and \"system\"";

crate::data_component! {
    /// Hugging Face's chat rows without media; an `<image>` in the text is plain text.
    ///
    /// `"disable_loss": true` on an assistant message keeps it as context and learns nothing from it.
    pub struct MessagesData, MessagesDataBuilder {}
}

impl DataKind for MessagesData {
    type Media = TextOnly;
    type Shape = Supervised;

    const FIELDS: &'static [&'static str] =
        &["id", TURNS, "messages[].role", "messages[].content", "messages[].disable_loss"];

    fn reading(&self) -> Reading {
        self.common()
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample, DataError> {
        let id = row::id(row, place)?;
        let turns = row::objects(row, TURNS, place)?
            .into_iter()
            .enumerate()
            .map(|(i, turn)| message(turn, i, place))
            .collect::<Result<Vec<_>, _>>()?;
        let arranged = arrange(turns, TURNS, place)?;
        Ok(Sample {
            id,
            conversation: arranged.conversation,
            images: Vec::new(),
            target: (),
            dropped_leading: arranged.dropped_leading,
            place: place.clone(),
        })
    }
}

fn message(turn: &Row, i: usize, place: &Place) -> Result<Message, DataError> {
    let path = |key: &'static str| move || format!("{TURNS}[{i}].{key}");
    let role = match row::string(turn, "role", path("role"), place)? {
        "user" => Role::User,
        "assistant" => Role::Assistant,
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
    let content = row::string(turn, "content", path("content"), place)?;
    let train = !row::flag(turn, "disable_loss", path("disable_loss"), place)?;
    Ok(Message { train, ..Message::text(role, content) })
}
