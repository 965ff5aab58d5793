//! A conversation: who said what, with images where they were shown.

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

/// One turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// Words and images, in order.
    pub content: Vec<Part>,
    /// Whether the turn is learned; has a meaning for the assistant only (`disable_loss` of a record sets it to false).
    pub train: bool,
}

impl Message {
    /// A message of several parts that is learned where it is the assistant's.
    pub fn new(role: Role, content: Vec<Part>) -> Self {
        Self { role, content, train: true }
    }

    /// A message of words only.
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self::new(role, vec![Part::Text(text.into())])
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
}

impl Conversation {
    /// A conversation of these turns.
    pub fn new(messages: Vec<Message>) -> Self {
        Self { messages }
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
