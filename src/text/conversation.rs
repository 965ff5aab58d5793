//! A conversation: who said what, with images where they were shown and tools where they were called.

use serde_json::{Map, Value as Json, json};

/// Who speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Instructions that hold for the whole conversation.
    System,
    /// The person.
    User,
    /// The model: what is learned.
    Assistant,
    /// The result of a tool call.
    Tool,
}

impl Role {
    /// The name chat templates know the role by.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A piece of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Words.
    Text(String),
    /// The place of the next image.
    Image,
}

/// The assistant's call of a function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolCall {
    /// The call's own name, which a result refers to. Some templates ask for nine letters or digits.
    pub id: Option<String>,
    /// The function.
    pub name: String,
    /// Its arguments: an object, or a string of JSON, whichever the template is written for.
    pub arguments: Json,
}

impl ToolCall {
    /// A call without an id.
    pub fn new(name: impl Into<String>, arguments: Json) -> Self {
        Self { id: None, name: name.into(), arguments }
    }

    /// The call as templates read it: `{"id"?, "type": "function", "function": {"name", "arguments"}}`.
    pub fn to_json(&self) -> Json {
        let mut call = Map::new();
        call.extend(self.id.as_ref().map(|id| ("id".to_owned(), Json::from(id.as_str()))));
        call.insert("type".into(), "function".into());
        call.insert("function".into(), json!({"name": self.name, "arguments": self.arguments}));
        Json::Object(call)
    }
}

/// One turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// Words and images, in order.
    pub content: Vec<Part>,
    /// Whether the turn is learned; has a meaning for the assistant only (`disable_loss` of a record sets it to false).
    pub train: bool,
    /// What the assistant thought before it answered (`reasoning_content`).
    pub reasoning: Option<String>,
    /// The functions that the assistant calls.
    pub tool_calls: Vec<ToolCall>,
    /// The call that a tool's message answers.
    pub tool_call_id: Option<String>,
    /// The name of the function that a tool's message answers for, or of a speaker.
    pub name: Option<String>,
}

impl Message {
    /// A message of several parts that is learned where it is the assistant's.
    pub fn new(role: Role, content: Vec<Part>) -> Self {
        Self { role, content, train: true, reasoning: None, tool_calls: Vec::new(), tool_call_id: None, name: None }
    }

    /// A message of words only.
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self::new(role, vec![Part::Text(text.into())])
    }

    /// An assistant's message that calls functions, without content. Give [`Self::content`] an empty text for a template
    /// that cannot do without (DeepSeek's).
    pub fn calls(tool_calls: Vec<ToolCall>) -> Self {
        Self { tool_calls, ..Self::new(Role::Assistant, Vec::new()) }
    }

    /// The result of a function.
    pub fn tool_result(name: impl Into<String>, text: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..Self::text(Role::Tool, text) }
    }

    /// The same message with what was thought before it.
    pub fn with_reasoning(mut self, reasoning: impl Into<String>) -> Self {
        self.reasoning = Some(reasoning.into());
        self
    }

    /// The same message, not learned.
    pub fn without_loss(mut self) -> Self {
        self.train = false;
        self
    }

    /// How many images the message shows.
    pub fn image_count(&self) -> usize {
        self.content.iter().filter(|part| matches!(part, Part::Image)).count()
    }

    /// The words, joined with nothing where an image stood.
    pub fn words(&self) -> String {
        self.content
            .iter()
            .filter_map(|part| match part {
                Part::Text(text) => Some(text.as_str()),
                Part::Image => None,
            })
            .collect()
    }

    /// Whether this is an assistant's turn to learn from.
    pub fn is_learned(&self) -> bool {
        self.role == Role::Assistant && self.train
    }
}

/// Turns in order, an optional system message first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Conversation {
    /// The turns.
    pub messages: Vec<Message>,
    /// The functions that the assistant may call, as JSON schemas: `{"type": "function", "function": {…}}`.
    pub tools: Vec<Json>,
    /// Documents for templates that answer from them: `{"title", "text"}`.
    pub documents: Vec<Json>,
}

impl Conversation {
    /// A conversation of these turns.
    pub fn new(messages: Vec<Message>) -> Self {
        Self { messages, ..Self::default() }
    }

    /// The same conversation with functions that may be called.
    pub fn with_tools(mut self, tools: Vec<Json>) -> Self {
        self.tools = tools;
        self
    }

    /// The names of the functions that the assistant may call.
    pub fn tool_names(&self) -> Vec<String> {
        let name = |tool: &Json| {
            let name = tool["function"]["name"].as_str().or_else(|| tool["name"].as_str());
            name.map(str::to_owned)
        };
        self.tools.iter().filter_map(name).collect()
    }

    /// The first `turns` messages, with the same tools and documents.
    pub fn up_to(&self, turns: usize) -> Self {
        let messages = self.messages.iter().take(turns).cloned().collect();
        Self { messages, tools: self.tools.clone(), documents: self.documents.clone() }
    }

    /// How many images the conversation shows.
    pub fn image_count(&self) -> usize {
        self.messages.iter().map(Message::image_count).sum()
    }
}

/// Trims as Python's `str.strip` does: also the four separator controls that Unicode's White_Space leaves out.
pub(super) fn python_strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\x1c'..='\x1f').contains(&c))
}
