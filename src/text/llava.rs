//! LLaVA's conversations: each is a row of [`CONVERSATIONS`], written in one of five styles.

mod specs;

use self::specs::{CONVERSATIONS, Spec, Style};
use super::conversation::python_strip;
use super::{Conversation, IMAGE_TOKEN, Message, Rendered, Role, TextError};
use std::sync::Arc;

/// One of LLaVA's conversations, by name. Cheap to clone.
///
/// # Source
/// LLaVA's `conversation.py` and the `preprocess` functions of its `train.py`. In a turn with images the markers move to
/// the front as `<image>\n` and the turn is trimmed; other turns are kept to the letter. Unlike LLaVA, several images in
/// one turn keep their number.
///
/// `default`, `v0`, `llava_v0` and `v0_mmtag` train on another text than they ask with, as in LLaVA:
/// `SYSTEM\n\n### Human: q\n### Assistant: a\n### ` against `SYSTEM###Human: q###Assistant:`. Their end of a turn is the
/// string `###`, no token: see [`Self::stop`].
#[derive(Debug, Clone)]
pub struct LlavaTemplate {
    spec: &'static Spec,
    image_token: Arc<str>,
    im_start_end: bool,
}

impl LlavaTemplate {
    /// The conversation with this key.
    ///
    /// # Errors
    /// [`TextError::UnknownTemplate`] with the valid names.
    pub fn named(name: &str) -> Result<Self, TextError> {
        let spec = CONVERSATIONS
            .iter()
            .find(|spec| spec.name == name)
            .ok_or_else(|| TextError::UnknownTemplate { name: name.to_owned(), valid: Self::names().join(", ") })?;
        Ok(Self::of(spec))
    }

    /// Vicuna's conversation, LLaVA 1.5's own.
    pub fn v1() -> Self {
        Self::of(&CONVERSATIONS[0])
    }

    fn of(spec: &'static Spec) -> Self {
        Self { spec, image_token: IMAGE_TOKEN.into(), im_start_end: false }
    }

    /// The keys [`Self::named`] knows.
    pub fn names() -> Vec<&'static str> {
        CONVERSATIONS.iter().map(|spec| spec.name).collect()
    }

    /// The same conversation with another image marker.
    pub fn with_image_token(mut self, token: &str) -> Self {
        self.image_token = token.into();
        self
    }

    /// The same conversation with each image between `<im_start>` and `<im_end>` (`mm_use_im_start_end`).
    ///
    /// `plain` is left as it is: LLaVA writes its captions without them.
    pub fn with_im_start_end(mut self) -> Self {
        self.im_start_end = true;
        self
    }

    /// The conversation's key.
    pub fn name(&self) -> &str {
        self.spec.name
    }

    /// The text that ends an answer. Where it is not the tokenizer's end of sequence (`###`, a line break), generation
    /// has to stop at the string.
    pub fn stop(&self) -> &'static str {
        self.spec.style.stop()
    }

    /// See [`super::ChatTemplate::render`].
    ///
    /// # Errors
    /// [`TextError::Inexpressible`].
    pub fn render(&self, conversation: &Conversation) -> Result<Rendered, TextError> {
        let turns = self.turns(conversation)?;
        self.write(&turns)
    }

    /// See [`super::ChatTemplate::render_prompt`].
    ///
    /// # Errors
    /// [`TextError::Inexpressible`], also where the last message is not the user's.
    pub fn render_prompt(&self, conversation: &Conversation) -> Result<String, TextError> {
        let turns = self.turns(conversation)?;
        if turns.exchanges.last().is_none_or(|exchange| exchange.assistant.is_some()) {
            return Err(self.refuse("a prompt must end with a message of the user"));
        }
        let mut out = match self.spec.style {
            Style::Hashed { example } => self.hashed_prompt(&turns, example),
            _ => self.write(&turns)?,
        };
        match self.spec.style {
            Style::Hashed { .. } => out.push("Assistant:"),
            Style::Labelled => out.push("ASSISTANT:"),
            Style::Fenced => out.push("<|im_start|>assistant\n"),
            Style::Instruct { .. } | Style::Caption => {}
        }
        Ok(out.text)
    }

    /// See [`super::ChatTemplate::render_continuation`].
    ///
    /// # Errors
    /// [`TextError::Inexpressible`], also where the last message is not the assistant's.
    pub fn render_continuation(&self, conversation: &Conversation) -> Result<String, TextError> {
        let (last, before) = match conversation.messages.split_last() {
            Some((last, before)) if last.role == Role::Assistant => (last, before),
            _ => return Err(self.refuse("only words of the assistant at the end can be continued")),
        };
        let mut text = self.render_prompt(&Conversation::new(before.to_vec()))?;
        // `plain` and ChatML put nothing between the header and the words.
        if !matches!(self.spec.style, Style::Fenced | Style::Caption) {
            text.push(' ');
        }
        text.push_str(&self.content(last));
        Ok(text)
    }

    /// Sorts the messages into a system text and exchanges.
    fn turns<'a>(&self, conversation: &'a Conversation) -> Result<Turns<'a>, TextError> {
        self.check_plain(conversation)?;
        let mut messages = conversation.messages.iter().enumerate().peekable();
        let system = messages.next_if(|(_, message)| message.role == Role::System);
        if system.is_some_and(|(_, message)| message.image_count() > 0) {
            return Err(self.refuse("the system message has an image; images belong to the user's turns"));
        }
        let mut exchanges = Vec::new();
        while let Some((i, user)) = messages.next() {
            self.expect(i, user, Role::User)?;
            let assistant = messages.next();
            if let Some((i, assistant)) = assistant {
                self.expect(i, assistant, Role::Assistant)?;
            }
            exchanges.push(Exchange { user, assistant: assistant.map(|(_, message)| message) });
        }
        if exchanges.is_empty() {
            return Err(self.refuse("it has no message of the user"));
        }
        Ok(Turns { system: system.map(|(_, message)| message.words()), exchanges })
    }

    /// Refuses what LLaVA's conversations have no words for.
    fn check_plain(&self, conversation: &Conversation) -> Result<(), TextError> {
        if !conversation.tools.is_empty() || !conversation.documents.is_empty() {
            return Err(self.refuse("it has tools or documents, for which LLaVA's conversations have no place"));
        }
        let speaks_more = |message: &Message| message.reasoning.is_some() || !message.tool_calls.is_empty();
        match conversation.messages.iter().position(speaks_more) {
            Some(i) => {
                let position = i + 1;
                Err(self.refuse(format!("message {position} has tool calls or reasoning beside its content")))
            }
            None => Ok(()),
        }
    }

    fn expect(&self, index: usize, message: &Message, role: Role) -> Result<(), TextError> {
        let position = index + 1;
        if message.role != role {
            let found = message.role;
            return Err(self.refuse(format!(
                "message {position} is the {found}'s where the {role}'s was due; turns alternate, the user's first \
                 (with data.template=chatml they need not)"
            )));
        }
        // `plain` throws the user's words away, so that they may be missing there.
        let words_matter = self.spec.style != Style::Caption || role == Role::Assistant;
        if words_matter && self.content(message).is_empty() {
            return Err(self.refuse(format!("message {position} (the {role}'s) is empty")));
        }
        Ok(())
    }

    fn write(&self, turns: &Turns<'_>) -> Result<Rendered, TextError> {
        match self.spec.style {
            Style::Hashed { .. } => Ok(self.write_hashed(turns)),
            Style::Labelled => Ok(self.write_labelled(turns)),
            Style::Instruct { opening } => Ok(self.write_instruct(turns, opening)),
            Style::Fenced => Ok(self.write_fenced(turns)),
            Style::Caption => self.write_caption(turns),
        }
    }

    /// What is trained on. An answer ends with its line break and the `###` after it.
    fn write_hashed(&self, turns: &Turns<'_>) -> Rendered {
        let mut out = Rendered::default();
        out.push(turns.system.as_deref().unwrap_or(self.spec.system));
        out.push("\n\n###");
        for exchange in &turns.exchanges {
            out.push(&format!(" Human: {}\n###", self.content(exchange.user)));
            if let Some(answer) = exchange.assistant {
                out.push(" Assistant:");
                out.push_learned(&format!(" {}\n###", self.content(answer)), answer.train);
            }
        }
        out.push(" ");
        out
    }

    /// What is asked with, up to the header of the answer.
    fn hashed_prompt(&self, turns: &Turns<'_>, example: Option<(&str, &str)>) -> Rendered {
        let mut out = Rendered::default();
        out.push(turns.system.as_deref().unwrap_or(self.spec.system));
        out.push("###");
        if let Some((question, answer)) = example {
            out.push(&format!("Human: {question}###Assistant: {answer}###"));
        }
        for exchange in &turns.exchanges {
            out.push(&format!("Human: {}###", self.content(exchange.user)));
            if let Some(answer) = exchange.assistant {
                out.push(&format!("Assistant: {}###", self.content(answer)));
            }
        }
        out
    }

    fn write_labelled(&self, turns: &Turns<'_>) -> Rendered {
        let mut out = Rendered::default();
        let system = turns.system.as_deref().unwrap_or(self.spec.system);
        if !system.is_empty() {
            out.push(&format!("{system} "));
        }
        for exchange in &turns.exchanges {
            out.push(&format!("USER: {} ", self.content(exchange.user)));
            if let Some(answer) = exchange.assistant {
                out.push("ASSISTANT:");
                out.push_learned(&format!(" {}{}", self.content(answer), self.stop()), answer.train);
            }
        }
        out
    }

    fn write_instruct(&self, turns: &Turns<'_>, opening: &str) -> Rendered {
        let mut out = Rendered::default();
        let system = turns.system.as_deref().unwrap_or(self.spec.system);
        for (i, exchange) in turns.exchanges.iter().enumerate() {
            // The first opening is the BOS that the tokenizer adds.
            out.push(if i == 0 { "" } else { opening });
            out.push("[INST] ");
            if i == 0 && !system.is_empty() {
                out.push(&format!("<<SYS>>\n{system}\n<</SYS>>\n\n"));
            }
            out.push(&format!("{} [/INST]", self.content(exchange.user)));
            if let Some(answer) = exchange.assistant {
                out.push_learned(&format!(" {} {}", self.content(answer), self.stop()), answer.train);
            }
        }
        out
    }

    fn write_fenced(&self, turns: &Turns<'_>) -> Rendered {
        let mut out = Rendered::default();
        let system = turns.system.as_deref().unwrap_or(self.spec.system);
        out.push(&format!("<|im_start|>system\n{system}<|im_end|>"));
        for exchange in &turns.exchanges {
            out.push(&format!("<|im_start|>user\n{}<|im_end|>", self.content(exchange.user)));
            if let Some(answer) = exchange.assistant {
                out.push("<|im_start|>assistant\n");
                out.push_learned(&format!("{}<|im_end|>", self.content(answer)), answer.train);
            }
        }
        out
    }

    fn write_caption(&self, turns: &Turns<'_>) -> Result<Rendered, TextError> {
        let [exchange] = turns.exchanges.as_slice() else {
            let n = turns.exchanges.len();
            return Err(self.refuse(format!("it has {n} exchanges, and only one picture with its caption is possible")));
        };
        if turns.system.as_ref().is_some_and(|system| !system.is_empty()) {
            return Err(self.refuse("it has a system message, for which a caption has no place"));
        }
        let mut out = Rendered::default();
        out.push(&self.image_token.repeat(exchange.user.image_count()));
        if let Some(caption) = exchange.assistant {
            if caption.image_count() > 0 {
                return Err(self.refuse("message 2 (the assistant's) has an image; a caption has none"));
            }
            out.push_learned(&format!("{}\n", caption.words()), caption.train);
        }
        Ok(out)
    }

    /// A turn's text, image markers first.
    fn content(&self, message: &Message) -> String {
        let images = message.image_count();
        let words = message.words();
        if images == 0 {
            return words;
        }
        let mut marker = self.image_token.to_string();
        if self.im_start_end {
            marker = format!("<im_start>{marker}<im_end>");
        }
        if self.spec.tagged {
            marker = format!("<Image>{marker}</Image>");
        }
        marker.push('\n');
        let text = format!("{}{}", marker.repeat(images), python_strip(&words));
        python_strip(&text).to_owned()
    }

    fn refuse(&self, reason: impl Into<String>) -> TextError {
        TextError::Inexpressible { template: self.spec.name.to_owned(), reason: reason.into() }
    }
}

struct Exchange<'a> {
    user: &'a Message,
    /// `None` for a last question without an answer.
    assistant: Option<&'a Message>,
}

struct Turns<'a> {
    /// The record's own system text.
    system: Option<String>,
    exchanges: Vec<Exchange<'a>>,
}
