//! Chat templates: a conversation in, text with the spans to learn from out.

use super::{Conversation, JinjaTemplate, LlavaTemplate, TextError, Tokenizer};
use std::ops::Range;

/// The marker of an image in LLaVA's texts, and the default for Jinja templates.
pub const IMAGE_TOKEN: &str = "<image>";

/// A rendered conversation.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rendered {
    /// The text, one marker per image.
    pub text: String,
    /// Byte ranges of `text` to learn from: ordered, disjoint, not empty.
    pub spans: Vec<Range<usize>>,
}

impl Rendered {
    /// A text with nothing to learn from: a prompt.
    pub fn prompt(text: impl Into<String>) -> Self {
        Self { text: text.into(), spans: Vec::new() }
    }

    /// Appends text that is not learned.
    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Appends text that is learned if `learn` holds.
    pub(super) fn push_learned(&mut self, text: &str, learn: bool) {
        let start = self.text.len();
        self.text.push_str(text);
        if learn && !text.is_empty() {
            self.spans.push(start..self.text.len());
        }
    }
}

/// How conversations are written down. Cheap to clone.
#[derive(Debug, Clone)]
pub enum ChatTemplate {
    /// One of LLaVA's conversations.
    Llava(LlavaTemplate),
    /// A Jinja template, as in `tokenizer_config.json` or `chat_template.jinja`.
    Jinja(JinjaTemplate),
}

impl ChatTemplate {
    /// One of LLaVA's conversations by its key (`v1`, `plain`, …).
    ///
    /// # Errors
    /// [`TextError::UnknownTemplate`] with the valid names.
    pub fn llava(name: &str) -> Result<Self, TextError> {
        LlavaTemplate::named(name).map(Self::Llava)
    }

    /// A Jinja template with the tokenizer's special tokens as its variables (`bos_token`, …).
    ///
    /// # Errors
    /// [`TextError::Template`] where it does not compile.
    pub fn jinja(name: &str, source: &str, tokenizer: &Tokenizer) -> Result<Self, TextError> {
        JinjaTemplate::new(name, source, tokenizer.template_variables()).map(Self::Jinja)
    }

    /// The checkpoint's own template; `None` where it has none.
    ///
    /// # Errors
    /// As [`Self::jinja`].
    pub fn from_tokenizer(tokenizer: &Tokenizer) -> Option<Result<Self, TextError>> {
        tokenizer.chat_template().map(|source| Self::jinja("checkpoint", source, tokenizer))
    }

    /// The same template with another image marker than [`IMAGE_TOKEN`]. (A Jinja template that writes its own marker
    /// for `{"type": "image"}` parts is not changed by this.)
    pub fn with_image_token(self, token: &str) -> Self {
        match self {
            Self::Llava(template) => Self::Llava(template.with_image_token(token)),
            Self::Jinja(template) => Self::Jinja(template.with_image_token(token)),
        }
    }

    /// The text to train on, with the spans to learn from.
    ///
    /// # Errors
    /// [`TextError::Inexpressible`], [`TextError::Template`] or [`TextError::NoSpans`].
    pub fn render(&self, conversation: &Conversation) -> Result<Rendered, TextError> {
        match self {
            Self::Llava(template) => template.render(conversation),
            Self::Jinja(template) => template.render(conversation),
        }
    }

    /// The text to generate from: it ends with the assistant's header.
    ///
    /// # Errors
    /// As [`Self::render`]; also where the conversation already ends with an answer.
    pub fn render_prompt(&self, conversation: &Conversation) -> Result<String, TextError> {
        match self {
            Self::Llava(template) => template.render_prompt(conversation),
            Self::Jinja(template) => template.render_prompt(conversation),
        }
    }

    /// What messages call the template.
    pub fn name(&self) -> &str {
        match self {
            Self::Llava(template) => template.name(),
            Self::Jinja(template) => template.name(),
        }
    }
}
