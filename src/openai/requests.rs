//! The bodies of requests.

use serde::Serialize;
use serde_json::Value;

use super::error::{RequestError, shown};
use super::fields::{Fields, token_ids};
use super::messages::ChatMessage;
use super::sampling::SamplingFields;

/// Most alternatives that may be asked for per token, as at OpenAI's.
const MOST_TOP_LOGPROBS: i64 = 20;

/// `POST /v1/chat/completions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ChatRequest {
    /// The model or adapter; empty is the server's first.
    pub model: String,
    /// The turns so far.
    pub messages: Vec<ChatMessage>,
    /// The functions that may be called: `{"type": "function", "function": {…}}`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Value>,
    /// How tokens are chosen.
    #[serde(flatten)]
    pub sampling: SamplingFields,
    /// Whether the log-probability of every token is wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<bool>,
    /// How many alternatives to each token are wanted, at most 20.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<u32>,
    /// Whether the answer comes in pieces.
    pub stream: bool,
    /// What else the stream brings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
}

/// What a stream brings beside the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StreamOptions {
    /// Whether the last chunk counts the tokens.
    pub include_usage: bool,
}

/// `POST /v1/completions`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CompletionRequest {
    /// The model or adapter; empty is the server's first.
    pub model: String,
    /// One prompt or several.
    pub prompt: Input,
    /// Whether the answer begins with the prompt, and its log-probabilities with the prompt's.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub echo: bool,
    /// How many alternatives to each token are wanted; 0 asks for the tokens' own log-probabilities alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<u32>,
    /// How tokens are chosen.
    #[serde(flatten)]
    pub sampling: SamplingFields,
    /// Whether the answer comes in pieces.
    pub stream: bool,
    /// What else the stream brings.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<StreamOptions>,
}

/// Texts, or texts as token ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Input {
    /// One text.
    Text(String),
    /// Several texts.
    Texts(Vec<String>),
    /// One text's tokens.
    Tokens(Vec<u32>),
    /// Several texts' tokens.
    TokenLists(Vec<Vec<u32>>),
}

/// `POST /v1/embeddings`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct EmbeddingRequest {
    /// The model; empty is the server's first.
    pub model: String,
    /// What is embedded.
    pub input: Input,
    /// How the numbers travel.
    pub encoding_format: Encoding,
    /// How many of the values are wanted, the first ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dimensions: Option<u32>,
    /// How a text's hidden states become one; without it as the model was made for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pooling: Option<EmbeddingPooling>,
}

/// How the hidden states of a text's tokens become one; a field of this library's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EmbeddingPooling {
    /// The last token's.
    Last,
    /// The mean of all.
    Mean,
}

/// How an embedding's numbers travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// As JSON numbers.
    #[default]
    Float,
    /// As base64 of little-endian 32-bit floats, which is what OpenAI's Python client asks for.
    Base64,
}

/// `POST /score`: how good a reward model finds conversations or texts.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ScoreRequest {
    /// The model; empty is the server's first.
    pub model: String,
    /// What is scored.
    #[serde(flatten)]
    pub input: ScoreInput,
}

/// What is scored.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ScoreInput {
    /// Conversations, rendered with the model's chat template. One alone need not stand in a list.
    Messages(Vec<Vec<ChatMessage>>),
    /// Texts as they are.
    Input(Input),
}

impl ChatRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// [`RequestError`] with the name of the field that cannot be obeyed.
    pub fn read(body: Value) -> Result<Self, RequestError> {
        let mut fields = Fields::new(body, "")?;
        let messages = fields.need("messages", "a list of messages")?;
        let messages = conversation(messages, "messages")?;
        let tools = tools(&mut fields)?;
        let request = Self {
            model: fields.text("model")?.unwrap_or_default(),
            messages,
            tools,
            sampling: SamplingFields::take(&mut fields)?,
            logprobs: fields.flag("logprobs")?,
            top_logprobs: top(&mut fields, "top_logprobs")?,
            stream: fields.flag("stream")?.unwrap_or_default(),
            stream_options: StreamOptions::take(&mut fields)?,
        };
        if fields.flag("echo")? == Some(true) {
            let advice = "the prompt is echoed by /v1/completions only".to_owned();
            return Err(RequestError::Unsupported { field: "echo".into(), found: "true".into(), advice });
        }
        if request.top_logprobs.is_some_and(|top| top > 0) && request.logprobs != Some(true) {
            let (field, expected) = ("top_logprobs".to_owned(), "nothing where `logprobs` is not true".to_owned());
            let found = request.top_logprobs.unwrap_or_default().to_string();
            return Err(RequestError::Field { field, expected, found });
        }
        fields.finish()?;
        Ok(request)
    }
}

impl CompletionRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// [`RequestError`] with the name of the field that cannot be obeyed.
    pub fn read(body: Value) -> Result<Self, RequestError> {
        let mut fields = Fields::new(body, "")?;
        let prompt = fields.need("prompt", Input::EXPECTED)?;
        let request = Self {
            model: fields.text("model")?.unwrap_or_default(),
            prompt: Input::read(prompt, "prompt")?,
            echo: fields.flag("echo")?.unwrap_or_default(),
            logprobs: top(&mut fields, "logprobs")?,
            sampling: SamplingFields::take(&mut fields)?,
            stream: fields.flag("stream")?.unwrap_or_default(),
            stream_options: StreamOptions::take(&mut fields)?,
        };
        fields.finish()?;
        Ok(request)
    }
}

impl EmbeddingRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// [`RequestError`] with the name of the field that cannot be obeyed.
    pub fn read(body: Value) -> Result<Self, RequestError> {
        let mut fields = Fields::new(body, "")?;
        let input = fields.need("input", Input::EXPECTED)?;
        let model = fields.text("model")?.unwrap_or_default();
        let encoding_format = match fields.text("encoding_format")?.as_deref() {
            None | Some("float") => Encoding::Float,
            Some("base64") => Encoding::Base64,
            Some(other) => {
                return Err(RequestError::wrong("encoding_format", "\"float\" or \"base64\"", &other.into()));
            }
        };
        let dimensions = fields.integer("dimensions", 1, i64::from(u32::MAX))?;
        let dimensions = dimensions.and_then(|count| u32::try_from(count).ok());
        let pooling = match fields.text("pooling")?.as_deref() {
            None => None,
            Some("last") => Some(EmbeddingPooling::Last),
            Some("mean") => Some(EmbeddingPooling::Mean),
            Some(other) => return Err(RequestError::wrong("pooling", "\"last\" or \"mean\"", &other.into())),
        };
        fields.finish()?;
        Ok(Self { model, input: Input::read(input, "input")?, encoding_format, dimensions, pooling })
    }
}

impl ScoreRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// [`RequestError`] with the name of the field that cannot be obeyed.
    pub fn read(body: Value) -> Result<Self, RequestError> {
        let mut fields = Fields::new(body, "")?;
        let model = fields.text("model")?.unwrap_or_default();
        let input = match (fields.take("messages"), fields.take("input")) {
            (Some(messages), None) => ScoreInput::Messages(conversations(messages)?),
            (None, Some(input)) => ScoreInput::Input(Input::read(input, "input")?),
            (Some(_), Some(input)) => {
                return Err(RequestError::wrong("input", "nothing where `messages` is given", &input));
            }
            (None, None) => {
                let expected = "one conversation or a list of them; `input` takes texts".to_owned();
                return Err(RequestError::Missing { field: "messages".into(), expected });
            }
        };
        fields.finish()?;
        Ok(Self { model, input })
    }
}

impl Input {
    const EXPECTED: &str = "a string, a list of strings, a list of token ids, or a list of such lists";

    fn read(value: Value, path: &str) -> Result<Self, RequestError> {
        let items = match value {
            Value::String(text) => return Ok(Self::Text(text)),
            Value::Array(items) => items,
            other => return Err(RequestError::wrong(path, Self::EXPECTED, &other)),
        };
        match items.first() {
            None => Err(RequestError::Field {
                field: path.into(),
                expected: Self::EXPECTED.into(),
                found: "an empty list".into(),
            }),
            Some(Value::String(_)) => {
                let text = |(i, item)| match item {
                    Value::String(text) => Ok(text),
                    other => Err(RequestError::wrong(format!("{path}[{i}]"), "a string, as the first", &other)),
                };
                items.into_iter().enumerate().map(text).collect::<Result<_, _>>().map(Self::Texts)
            }
            Some(Value::Array(_)) => {
                let list = |(i, item)| match item {
                    Value::Array(ids) => token_ids(ids, &format!("{path}[{i}]")),
                    other => Err(RequestError::wrong(format!("{path}[{i}]"), "a list, as the first", &other)),
                };
                items.into_iter().enumerate().map(list).collect::<Result<_, _>>().map(Self::TokenLists)
            }
            Some(_) => token_ids(items, path).map(Self::Tokens),
        }
    }

    /// How many texts it is.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(_) | Self::Tokens(_) => 1,
            Self::Texts(texts) => texts.len(),
            Self::TokenLists(lists) => lists.len(),
        }
    }

    /// Whether it is no text at all, which [`read`](CompletionRequest::read) refuses.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl StreamOptions {
    fn take(fields: &mut Fields) -> Result<Option<Self>, RequestError> {
        let Some(value) = fields.take("stream_options") else { return Ok(None) };
        let mut inner = Fields::new(value, "stream_options")?;
        let include_usage = inner.flag("include_usage")?.unwrap_or_default();
        // It pads the chunks against eavesdroppers who count bytes; the answer stays the same.
        inner.flag("include_obfuscation")?;
        inner.finish_inner()?;
        Ok(Some(Self { include_usage }))
    }
}

/// A number of alternatives.
fn top(fields: &mut Fields, name: &'static str) -> Result<Option<u32>, RequestError> {
    let found = fields.integer(name, 0, MOST_TOP_LOGPROBS)?;
    Ok(found.and_then(|top| u32::try_from(top).ok()))
}

/// The functions that may be called, none where `tool_choice` says so.
fn tools(fields: &mut Fields) -> Result<Vec<Value>, RequestError> {
    let tools = fields.list("tools")?;
    for (i, tool) in tools.iter().enumerate() {
        if !tool["function"]["name"].is_string() {
            let expected = "{\"type\": \"function\", \"function\": {\"name\", …}}";
            return Err(RequestError::wrong(format!("tools[{i}]"), expected, tool));
        }
    }
    match fields.take("tool_choice") {
        None => Ok(tools),
        Some(Value::String(choice)) if choice == "auto" => Ok(tools),
        Some(Value::String(choice)) if choice == "none" => Ok(Vec::new()),
        Some(other) => Err(RequestError::Unsupported {
            field: "tool_choice".into(),
            found: shown(&other),
            advice: "the model itself chooses: give \"auto\" or \"none\"".into(),
        }),
    }
}

fn conversation(value: Value, path: &str) -> Result<Vec<ChatMessage>, RequestError> {
    match value {
        Value::Array(items) if !items.is_empty() => {
            let items = items.into_iter().enumerate();
            items.map(|(i, item)| ChatMessage::read(item, &format!("{path}[{i}]"))).collect()
        }
        other => Err(RequestError::wrong(path, "a list of at least one message", &other)),
    }
}

fn conversations(value: Value) -> Result<Vec<Vec<ChatMessage>>, RequestError> {
    match value {
        Value::Array(items) if items.first().is_some_and(Value::is_array) => {
            let items = items.into_iter().enumerate();
            items.map(|(i, item)| conversation(item, &format!("messages[{i}]"))).collect()
        }
        one => Ok(vec![conversation(one, "messages")?]),
    }
}
