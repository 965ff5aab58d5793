//! LLaVA's conversations as data: each is a row of [`CONVERSATIONS`] in one of four styles.
//!
//! Not here yet: the `###` style (`v0`, `llava_v0`, `v0_mmtag`), whose end marker is no token of its own.

use super::conversation::python_strip;
use super::{Conversation, IMAGE_TOKEN, Message, Rendered, Role, TextError};
use std::sync::Arc;

const VICUNA_USER: &str = "A chat between a curious user and an artificial intelligence assistant. \
    The assistant gives helpful, detailed, and polite answers to the user's questions.";
const VICUNA_HUMAN: &str = "A chat between a curious human and an artificial intelligence assistant. \
    The assistant gives helpful, detailed, and polite answers to the human's questions.";
const MMTAG: &str = "A chat between a curious user and an artificial intelligence assistant. \
    The assistant is able to understand the visual content that the user provides, and assist the user with a variety \
    of tasks using natural language.The visual content will be provided with the following format: \
    <Image>visual content</Image>.";
const LLAVA_LLAMA_2: &str = "You are a helpful language and vision assistant. You are able to understand the visual \
    content that the user provides, and assist the user with a variety of tasks using natural language.";
const MPT: &str = "A conversation between a user and an LLM-based AI assistant. \
    The assistant gives helpful and honest answers.";
const CHATML_DIRECT: &str = "Answer the questions.";

/// The end of an answer in the styles that come from Llama.
const END: &str = "</s>";

/// How turns are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// `SYSTEM USER: q ASSISTANT: a</s>USER: …`
    Labelled,
    /// `[INST] <<SYS>>\nSYSTEM\n<</SYS>>\n\nq [/INST] a </s>`, each later turn opened by `opening`.
    Instruct { opening: &'static str },
    /// `<|im_start|>system\nSYSTEM<|im_end|><|im_start|>user\nq<|im_end|><|im_start|>assistant\na<|im_end|>`
    Fenced,
    /// `<image>caption\n`: pretraining of the projector.
    Caption,
}

/// One of LLaVA's conversations.
#[derive(Debug)]
struct Spec {
    name: &'static str,
    system: &'static str,
    style: Style,
    /// Images are written `<Image><image></Image>`.
    tagged: bool,
}

const fn spec(name: &'static str, system: &'static str, style: Style) -> Spec {
    Spec { name, system, style, tagged: false }
}

const CONVERSATIONS: &[Spec] = &[
    spec("v1", VICUNA_USER, Style::Labelled),
    spec("vicuna_v1", VICUNA_USER, Style::Labelled),
    spec("llava_v1", VICUNA_HUMAN, Style::Labelled),
    Spec { name: "v1_mmtag", system: MMTAG, style: Style::Labelled, tagged: true },
    spec("plain", "", Style::Caption),
    spec("llava_llama_2", LLAVA_LLAMA_2, Style::Instruct { opening: "<s>" }),
    spec("mistral_instruct", "", Style::Instruct { opening: "" }),
    spec("mpt", MPT, Style::Fenced),
    spec("chatml_direct", CHATML_DIRECT, Style::Fenced),
    spec("mistral_direct", CHATML_DIRECT, Style::Fenced),
];

/// One of LLaVA's conversations, by name. Cheap to clone.
///
/// # Source
/// LLaVA's `conversation.py` and the `preprocess` functions of its `train.py`. In a turn with images the markers move to
/// the front as `<image>\n` and the turn is trimmed; other turns are kept to the letter. Unlike LLaVA, several images in
/// one turn keep their number.
#[derive(Debug, Clone)]
pub struct LlavaTemplate {
    spec: &'static Spec,
    image_token: Arc<str>,
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
        Ok(Self { spec, image_token: IMAGE_TOKEN.into() })
    }

    /// Vicuna's conversation, LLaVA 1.5's own.
    pub fn v1() -> Self {
        Self { spec: &CONVERSATIONS[0], image_token: IMAGE_TOKEN.into() }
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

    /// The conversation's key.
    pub fn name(&self) -> &str {
        self.spec.name
    }

    /// Whether an answer ends with a line break instead of a token of its own, as `plain` does.
    pub(super) fn ends_with_newline(&self) -> bool {
        self.spec.style == Style::Caption
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
        let mut out = self.write(&turns)?;
        match self.spec.style {
            Style::Labelled => out.push("ASSISTANT:"),
            Style::Fenced => out.push("<|im_start|>assistant\n"),
            Style::Instruct { .. } | Style::Caption => {}
        }
        Ok(out.text)
    }

    /// Sorts the messages into a system text and exchanges.
    fn turns<'a>(&self, conversation: &'a Conversation) -> Result<Turns<'a>, TextError> {
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

    fn expect(&self, index: usize, message: &Message, role: Role) -> Result<(), TextError> {
        let position = index + 1;
        if message.role != role {
            let found = message.role;
            return Err(self.refuse(format!(
                "message {position} is the {found}'s where the {role}'s was due; turns alternate, the user's first"
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
            Style::Labelled => Ok(self.write_labelled(turns)),
            Style::Instruct { opening } => Ok(self.write_instruct(turns, opening)),
            Style::Fenced => Ok(self.write_fenced(turns)),
            Style::Caption => self.write_caption(turns),
        }
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
                out.push_learned(&format!(" {}{END}", self.content(answer)), answer.train);
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
                out.push_learned(&format!(" {} {END}", self.content(answer)), answer.train);
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
        let (open, close) = if self.spec.tagged { ("<Image>", "</Image>") } else { ("", "") };
        let marker = format!("{open}{}{close}\n", self.image_token);
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
