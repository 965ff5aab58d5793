//! ShareGPT's rows: `{"id"?, "conversations": [{"from": "human", "value": "…"}, …], "system"?, "tools"?}`.

use super::message;
use super::row::{self, Row};
use super::turns::{self, gather, sample};
use super::{DataError, DataKind, Place, Reading, Sample, TextOnly};
use crate::example::Supervised;
use crate::text::{Message, Role};
use serde_json::json;

const TURNS: &str = "conversations";
const ASSISTANTS: [&str; 6] = ["gpt", "chatgpt", "bing", "bard", "assistant", "model"];
const ROLES: &str = "\"human\" or \"user\", \"gpt\", \"chatgpt\", \"bing\", \"bard\", \"assistant\" or \"model\", \"system\", \
    \"function_call\", and \"tool\", \"observation\" or \"function_response\"";

crate::data_component! {
    /// ShareGPT's conversations, of text alone; for rows with images take [`LlavaData`](super::LlavaData).
    ///
    /// `from` is `human` (or `user`), `gpt` (`chatgpt`, `bing`, `bard`, `assistant`, `model`), `system`, `function_call`
    /// (the value is a call's JSON, or a list of them: `{"name", "arguments"}`), or `tool` (`observation`,
    /// `function_response`). The row may have a `system` message and `tools` of its own. The assistant's turns before the
    /// human's first one are dropped and counted.
    ///
    /// # Source
    /// The ShareGPT dumps of FastChat; tools as LLaMA-Factory reads them.
    pub struct ShareGptData, ShareGptDataBuilder {}
}

impl DataKind for ShareGptData {
    type Media = TextOnly;
    type Shape = Supervised;

    const FIELDS: &'static [&'static str] =
        &["id", TURNS, "conversations[].from", "conversations[].value", "system", "tools"];

    fn reading(&self) -> Reading {
        self.common()
    }

    fn awaiting(&self, row: &Row) -> Option<Row> {
        let assistants = [&ASSISTANTS[..], &["function_call"]].concat();
        turns::awaiting(row, TURNS, "from", &assistants, json!({"from": "gpt", "value": "-"}))
    }

    fn parse(&self, row: &Row, place: &Place) -> Result<Sample, DataError> {
        let turns = row::objects(row, TURNS, place)?
            .into_iter()
            .enumerate()
            .map(|(i, turn)| turn_of(turn, i, place))
            .collect::<Result<Vec<_>, _>>()?;
        let mut arranged = gather(turns, TURNS, true, place)?;
        let system = row::optional_text(row, "system", || "system".to_owned(), place)?;
        if let Some(system) = system.filter(|system| !system.is_empty()) {
            arranged.conversation.messages.insert(0, Message::text(Role::System, system));
        }
        arranged.conversation.tools = message::tools(row, place)?;
        let read = sample(row, place, arranged.conversation, Vec::new(), ())?;
        Ok(Sample { dropped_leading: arranged.dropped_leading, ..read })
    }
}

fn turn_of(turn: &Row, i: usize, place: &Place) -> Result<Message, DataError> {
    let from = row::string(turn, "from", || format!("{TURNS}[{i}].from"), place)?;
    let path = format!("{TURNS}[{i}].value");
    let value = row::string(turn, "value", || path.clone(), place)?;
    let role = match from {
        "human" | "user" => Role::User,
        from if ASSISTANTS.contains(&from) => Role::Assistant,
        "system" => Role::System,
        "tool" | "observation" | "function_response" => Role::Tool,
        "function_call" => return Ok(Message::calls(message::written_calls(value, &path, place)?)),
        other => {
            let (place, role) = (place.clone(), other.to_owned());
            return Err(DataError::UnknownRole { place, turn: i + 1, role, allowed: ROLES });
        }
    };
    Ok(Message::text(role, value))
}
