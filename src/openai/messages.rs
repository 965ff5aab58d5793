//! The messages of a chat, as they travel.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::{RequestError, shown};
use super::fields::Fields;

/// One turn.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChatMessage {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// Words and pictures; an assistant that calls tools may have none.
    pub content: Option<Content>,
    /// The speaker's or the tool's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The functions that the assistant calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<WireToolCall>,
    /// The call that a tool answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// What the assistant thought; not OpenAI's, but vLLM's and SGLang's name for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Content {
    /// Words.
    Text(String),
    /// Words and pictures, in order.
    Parts(Vec<ContentPart>),
}

/// A piece of a message.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ContentPart {
    /// Words.
    Text {
        /// The words.
        text: String,
    },
    /// A picture.
    ImageUrl {
        /// Where it is.
        image_url: ImageUrl,
    },
}

/// Where a picture is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ImageUrl {
    /// `data:image/png;base64,…`, or another address.
    pub url: String,
}

/// The assistant's call of a function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WireToolCall {
    /// Its place among the calls of a streamed answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// The call's own name.
    #[serde(default)]
    pub id: String,
    /// `function`.
    #[serde(rename = "type", default = "function")]
    pub kind: String,
    /// Which function, with what.
    pub function: FunctionCall,
}

/// A function's name and its arguments.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionCall {
    /// The function.
    #[serde(default)]
    pub name: String,
    /// A string that holds JSON.
    #[serde(default)]
    pub arguments: String,
}

fn function() -> String {
    "function".to_owned()
}

impl ChatMessage {
    pub(super) fn read(value: Value, path: &str) -> Result<Self, RequestError> {
        let mut fields = Fields::new(value, path)?;
        let role = fields.need("role", "a role")?;
        let Value::String(role) = role else { return Err(RequestError::wrong(fields.path("role"), "a string", &role)) };
        let calls = fields.list("tool_calls")?.into_iter().enumerate();
        let calls = calls.map(|(i, call)| WireToolCall::read(call, &format!("{path}.tool_calls[{i}]")));
        let message = Self {
            role,
            tool_calls: calls.collect::<Result<_, _>>()?,
            content: Content::read(&mut fields, path)?,
            name: fields.text("name")?,
            tool_call_id: fields.text("tool_call_id")?,
            reasoning_content: fields.text("reasoning_content")?,
        };
        // lm-evaluation-harness puts the type of its content beside it.
        if let Some(kind) = fields.text("type")?.filter(|kind| kind != "text") {
            return Err(RequestError::wrong(fields.path("type"), "\"text\", or nothing", &kind.into()));
        }
        if message.content.is_none() && message.tool_calls.is_empty() {
            let expected = "a string or a list of parts".to_owned();
            return Err(RequestError::Missing { field: fields.path("content"), expected });
        }
        fields.finish_inner()?;
        Ok(message)
    }
}

impl Content {
    fn read(fields: &mut Fields, path: &str) -> Result<Option<Self>, RequestError> {
        match fields.take("content") {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(Self::Text(text))),
            Some(Value::Array(parts)) => {
                let parts = parts.into_iter().enumerate();
                let parts = parts.map(|(i, part)| ContentPart::read(part, &format!("{path}.content[{i}]")));
                parts.collect::<Result<_, _>>().map(|parts| Some(Self::Parts(parts)))
            }
            Some(other) => Err(RequestError::wrong(format!("{path}.content"), "a string or a list of parts", &other)),
        }
    }
}

impl ContentPart {
    fn read(value: Value, path: &str) -> Result<Self, RequestError> {
        let mut fields = Fields::new(value, path)?;
        let kind = fields.need("type", "\"text\" or \"image_url\"")?;
        let part = match kind.as_str() {
            Some("text") => match fields.need("text", "a string")? {
                Value::String(text) => Self::Text { text },
                other => return Err(RequestError::wrong(fields.path("text"), "a string", &other)),
            },
            Some("image_url") => {
                let at = fields.path("image_url");
                let image_url = ImageUrl::read(fields.need("image_url", "an object with `url`")?, &at)?;
                Self::ImageUrl { image_url }
            }
            _ => return Err(RequestError::wrong(fields.path("type"), "\"text\" or \"image_url\"", &kind)),
        };
        fields.finish_inner()?;
        Ok(part)
    }
}

impl ImageUrl {
    fn read(value: Value, path: &str) -> Result<Self, RequestError> {
        // Some clients leave the object out.
        if let Value::String(url) = value {
            return Ok(Self { url });
        }
        let mut fields = Fields::new(value, path)?;
        let url = fields.need("url", "a string")?;
        let Value::String(url) = url else { return Err(RequestError::wrong(fields.path("url"), "a string", &url)) };
        if let Some(detail) = fields.take("detail").filter(|detail| detail != "auto") {
            let (field, advice) = (fields.path("detail"), "leave it out: the model has one resolution".to_owned());
            return Err(RequestError::Unsupported { field, found: shown(&detail), advice });
        }
        fields.finish_inner()?;
        Ok(Self { url })
    }
}

impl WireToolCall {
    fn read(value: Value, path: &str) -> Result<Self, RequestError> {
        let mut fields = Fields::new(value, path)?;
        let id = fields.text("id")?.unwrap_or_default();
        if let Some(kind) = fields.text("type")?.filter(|kind| kind != "function") {
            return Err(RequestError::wrong(fields.path("type"), "\"function\"", &kind.into()));
        }
        let index = fields.count("index", 0)?;
        let mut inner = Fields::new(fields.need("function", "an object")?, &fields.path("function"))?;
        fields.finish_inner()?;
        let name = inner.need("name", "a function's name")?;
        let Value::String(name) = name else { return Err(RequestError::wrong(inner.path("name"), "a string", &name)) };
        let arguments = match inner.take("arguments") {
            None => String::new(),
            Some(Value::String(text)) => text,
            Some(other) => other.to_string(),
        };
        inner.finish_inner()?;
        Ok(Self { index, id, kind: function(), function: FunctionCall { name, arguments } })
    }
}
