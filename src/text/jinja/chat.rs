//! A conversation as a template's variables.

use super::super::conversation::python_strip;
use super::super::jinja_env::to_value;
use super::super::{Conversation, Message, Part, Role};
use super::TakesParts;
use super::marks::Markers;
use minijinja::Value;
use serde_json::{Map, Value as Json, json};

/// A word no template writes of itself.
pub(super) const PROBE: &str = "qzprobezq";

/// A conversation, ready to be rendered in several ways.
pub(super) struct Chat {
    /// The messages as they are.
    pub(super) plain: Vec<Value>,
    /// The messages with marks around what they say.
    pub(super) marked: Vec<Value>,
    /// A marked question to follow them.
    pub(super) probe: Value,
    pub(super) tools: Value,
    pub(super) documents: Value,
    pub(super) markers: Markers,
}

impl Chat {
    /// `written`: what the template itself could write. `None` where no characters are left for marks.
    pub(super) fn new(
        conversation: &Conversation,
        parts: TakesParts,
        image_token: &str,
        written: &[&str],
    ) -> Option<Self> {
        let messages = &conversation.messages;
        let plain: Vec<Json> = messages.iter().map(|message| message_json(message, parts, image_token)).collect();
        let said = serde_json::to_string(&(&plain, &conversation.tools, &conversation.documents)).ok()?;
        let written: Vec<&str> = written.iter().copied().chain([said.as_str(), image_token]).collect();
        let pieces: Vec<_> = answers(messages).iter().map(|&i| (i, 2 + messages[i].tool_calls.len())).collect();
        let markers = Markers::new(&written, &pieces)?;
        let mut marked = plain.clone();
        marked.iter_mut().enumerate().for_each(|(i, message)| markers.mark(i, messages[i].role, message));
        let mut probe = message_json(&Message::text(Role::User, PROBE), parts, image_token);
        markers.mark(messages.len(), Role::User, &mut probe);
        let values = |messages: &[Json]| messages.iter().map(to_value).collect::<Vec<_>>();
        let list = |items: &[Json]| if items.is_empty() { Value::from(()) } else { Value::from(values(items)) };
        Some(Self {
            plain: values(&plain),
            marked: values(&marked),
            probe: to_value(&probe),
            tools: list(&conversation.tools),
            documents: list(&conversation.documents),
            markers,
        })
    }
}

/// The indices of the assistant's messages.
pub(super) fn answers(messages: &[Message]) -> Vec<usize> {
    (0..messages.len()).filter(|&i| messages[i].role == Role::Assistant).collect()
}

/// A message as transformers hands it to a template.
fn message_json(message: &Message, parts: TakesParts, image_token: &str) -> Json {
    let mut out = Map::new();
    out.insert("role".into(), message.role.as_str().into());
    // A call without words has no content at all: transformers drops what is null.
    if !message.content.is_empty() || message.tool_calls.is_empty() {
        let typed = parts.for_role(message.role);
        let content = if typed { typed_parts(message) } else { words_with_markers(message, image_token) };
        out.insert("content".into(), content);
    }
    if let Some(reasoning) = &message.reasoning {
        // Templates read either; transformers fills in both.
        out.insert("reasoning_content".into(), reasoning.as_str().into());
        out.insert("thinking".into(), reasoning.as_str().into());
    }
    // Templates ask whether the key is there, so that it must not be where nothing is called.
    if !message.tool_calls.is_empty() {
        out.insert("tool_calls".into(), message.tool_calls.iter().map(|call| call.to_json()).collect());
    }
    for (key, value) in [("tool_call_id", &message.tool_call_id), ("name", &message.name)] {
        out.extend(value.as_ref().map(|value| (key.to_owned(), Json::from(value.as_str()))));
    }
    Json::Object(out)
}

fn words_with_markers(message: &Message, image_token: &str) -> Json {
    let images = message.image_count();
    let words = message.words();
    if images == 0 {
        return Json::from(words);
    }
    let markers = format!("{image_token}\n").repeat(images);
    Json::from(python_strip(&format!("{markers}{}", python_strip(&words))))
}

/// A message's content as transformers' processors take it.
fn typed_parts(message: &Message) -> Json {
    let is_image = |i: usize| matches!(message.content.get(i), Some(Part::Image));
    let mut parts = Vec::new();
    for (i, part) in message.content.iter().enumerate() {
        match part {
            Part::Image => parts.push(json!({"type": "image"})),
            Part::Text(text) => {
                let mut text = text.as_str();
                if i > 0 && is_image(i - 1) {
                    text = text.strip_prefix('\n').unwrap_or(text);
                }
                if is_image(i + 1) {
                    text = text.strip_suffix('\n').unwrap_or(text);
                }
                if !text.is_empty() || message.content.len() == 1 {
                    parts.push(json!({"type": "text", "text": text}));
                }
            }
        }
    }
    Json::from(parts)
}
