//! Chat templates: a conversation in, text with the spans to learn from out.

pub(super) mod named;

use super::{
    Conversation, JinjaTemplate, LlavaTemplate, PlainTextTemplate, PrefixSuffixTemplate, TextError, Tokenizer,
};
use std::ops::Range;
use std::path::Path;

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
    /// A prefix and a suffix around every message, as turbo-alignment writes them.
    PrefixSuffix(PrefixSuffixTemplate),
    /// No markup at all.
    PlainText(PlainTextTemplate),
}

impl ChatTemplate {
    /// One of LLaVA's conversations by its key (`v1`, `plain`, …).
    ///
    /// # Errors
    /// [`TextError::UnknownTemplate`] with the valid names.
    pub fn llava(name: &str) -> Result<Self, TextError> {
        LlavaTemplate::named(name).map(Self::Llava)
    }

    /// turbo-alignment's template in a JSON file.
    ///
    /// # Errors
    /// As [`PrefixSuffixTemplate::from_file`].
    pub fn prefix_suffix(path: &Path) -> Result<Self, TextError> {
        PrefixSuffixTemplate::from_file(path).map(Self::PrefixSuffix)
    }

    /// No markup: words one behind the other, answers ended by the tokenizer's end of sequence.
    pub fn plain_text(tokenizer: &Tokenizer) -> Self {
        let end = tokenizer.eos().and_then(|id| tokenizer.token(id)).unwrap_or_default();
        Self::PlainText(PlainTextTemplate::new(&end))
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

    /// The templates of a checkpoint's folder: the default one and, for conversations with tools, the one named
    /// `tool_use` where there is one. `None` where the folder has no default template.
    ///
    /// Read are `chat_template.jinja` and `additional_chat_templates/`, else `chat_template.json`, else the
    /// configuration's `chat_template` in each of its forms.
    ///
    /// # Errors
    /// [`TextError::Io`] or [`TextError::Malformed`] with the file; as [`Self::jinja`].
    pub fn from_dir(dir: &Path, tokenizer: &Tokenizer) -> Result<Option<Self>, TextError> {
        let templates = named::read(dir)?;
        let Some((default, tool_use)) = named::choose(&templates) else { return Ok(None) };
        let variables = tokenizer.template_variables();
        let mut template = JinjaTemplate::new("checkpoint", default, variables.clone())?;
        if let Some(source) = tool_use {
            template = template.with_tool_use(JinjaTemplate::new("checkpoint's tool_use", source, variables)?);
        }
        Ok(Some(Self::Jinja(template)))
    }

    /// A template of a checkpoint's folder by its name (`default`, `tool_use`, `rag`, …).
    ///
    /// # Errors
    /// [`TextError::UnknownTemplate`] with the folder's names; as [`Self::from_dir`].
    pub fn named_in_dir(dir: &Path, name: &str, tokenizer: &Tokenizer) -> Result<Self, TextError> {
        let templates = named::read(dir)?;
        let source = templates.get(name).ok_or_else(|| TextError::UnknownTemplate {
            name: name.to_owned(),
            valid: templates.keys().map(String::as_str).collect::<Vec<_>>().join(", "),
        })?;
        Self::jinja(name, source, tokenizer)
    }

    /// The same template with another image marker than [`IMAGE_TOKEN`]. (A Jinja template that writes its own marker
    /// for `{"type": "image"}` parts is not changed by this.)
    pub fn with_image_token(self, token: &str) -> Self {
        match self {
            Self::Llava(template) => Self::Llava(template.with_image_token(token)),
            Self::Jinja(template) => Self::Jinja(template.with_image_token(token)),
            Self::PrefixSuffix(template) => Self::PrefixSuffix(template.with_image_token(token)),
            Self::PlainText(template) => Self::PlainText(template.with_image_token(token)),
        }
    }

    /// The same template with each image between `<im_start>` and `<im_end>` (LLaVA's `mm_use_im_start_end`).
    ///
    /// # Errors
    /// [`TextError::Inexpressible`] for a Jinja template, which writes its images itself.
    pub fn with_im_start_end(self) -> Result<Self, TextError> {
        match self {
            Self::Llava(template) => Ok(Self::Llava(template.with_im_start_end())),
            Self::PrefixSuffix(template) => Ok(Self::PrefixSuffix(template.with_im_start_end())),
            Self::PlainText(template) => Ok(Self::PlainText(template.with_im_start_end())),
            Self::Jinja(template) => Err(TextError::Inexpressible {
                template: template.name().to_owned(),
                reason:
                    "`<im_start>` and `<im_end>` around an image are LLaVA's (`mm_use_im_start_end`); choose one of \
                         its conversations with `data.template`"
                        .to_owned(),
            }),
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
            Self::PrefixSuffix(template) => template.render(conversation),
            Self::PlainText(template) => template.render(conversation),
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
            Self::PrefixSuffix(template) => template.render_prompt(conversation),
            Self::PlainText(template) => template.render_prompt(conversation),
        }
    }

    /// The text up to the end of the assistant's last words, which generation goes on with (transformers'
    /// `continue_final_message`).
    ///
    /// # Errors
    /// As [`Self::render`]; also where the last message is not the assistant's words.
    pub fn render_continuation(&self, conversation: &Conversation) -> Result<String, TextError> {
        match self {
            Self::Llava(template) => template.render_continuation(conversation),
            Self::Jinja(template) => template.render_continuation(conversation),
            Self::PrefixSuffix(template) => template.render_continuation(conversation),
            Self::PlainText(template) => template.render_continuation(conversation),
        }
    }

    /// The text that ends an answer. Where it is not the tokenizer's end of sequence, generation has to stop at it.
    pub fn stop(&self) -> Option<String> {
        match self {
            Self::Llava(template) => Some(template.stop().to_owned()),
            Self::Jinja(template) => template.stop(),
            Self::PrefixSuffix(template) => template.stop().map(str::to_owned),
            Self::PlainText(template) => template.stop().map(str::to_owned),
        }
    }

    /// What messages call the template.
    pub fn name(&self) -> &str {
        match self {
            Self::Llava(template) => template.name(),
            Self::Jinja(template) => template.name(),
            Self::PrefixSuffix(template) => template.name(),
            Self::PlainText(_) => PlainTextTemplate::NAME,
        }
    }
}
