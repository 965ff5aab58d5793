//! Jinja chat templates and the spans to learn from.
//!
//! # Content
//! A template that handles typed parts (`[{"type": "image"}, {"type": "text", "text": …}]`) is given them, another one a
//! string. Which it is, is found out for each role when the template is compiled, by rendering a probe: parts are handled
//! where the probe's words come out and its dictionary does not. For a template that takes strings, image markers go to
//! the front as `<image>\n`, as in LLaVA's conversations. One line break between an image and its neighbouring text, which
//! LLaVA's records write, is left out of typed parts: the template has its own.
//!
//! # Spans
//! Where the template has `{% generation %}` blocks, they are the spans. As a span begins directly after the assistant's
//! header, white space between the generation prompt and the block is learned, too: the model has to write it.
//! Elsewhere the answers are found by rendering again with marks, see [`spans`]. A span is the answer as the template
//! writes it there, from the end of its header to its end-of-turn marker. Thoughts that a template leaves out of earlier
//! turns are not learned; give such a conversation as one record per answer to learn all of them.
//!
//! # Special tokens
//! A user's words are text to the template, and as in transformers the tokenizer reads special tokens in them as such.
//! Supervision is not moved by that: spans come from marks that no text can contain.

mod chat;
pub(super) mod date;
pub(super) mod filters;
pub(super) mod json;
mod marks;
pub(super) mod methods;
pub(super) mod python;
mod spans;
#[cfg(test)]
mod tests;

use self::chat::{Chat, PROBE, answers};
use self::marks::{Mark, Marked, Owner};
use super::conversation::python_strip;
use super::generation_tags::rewrite;
use super::jinja_env::{GENERATION, TEMPLATE, environment, to_value};
use super::{Conversation, IMAGE_TOKEN, Message, Rendered, Role, TextError};
use minijinja::{Environment, Value};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// A compiled chat template. Cheap to clone.
///
/// `strftime_now` gives the date in UTC; a template that uses it renders differently tomorrow.
#[derive(Debug, Clone)]
pub struct JinjaTemplate {
    name: Arc<str>,
    env: Arc<Environment<'static>>,
    source: Arc<str>,
    variables: Arc<Map<String, Json>>,
    has_generation: bool,
    parts: TakesParts,
    image_token: Arc<str>,
    /// What conversations with tools are written with, where it is another template.
    tool_use: Option<Arc<JinjaTemplate>>,
}

/// Which roles' content a template takes as typed parts.
#[derive(Debug, Clone, Copy, Default)]
struct TakesParts {
    system: bool,
    user: bool,
    assistant: bool,
}

impl TakesParts {
    fn for_role(self, role: Role) -> bool {
        match role {
            Role::System => self.system,
            Role::User => self.user,
            Role::Assistant => self.assistant,
            Role::Tool => false,
        }
    }
}

impl JinjaTemplate {
    /// Compiles a template.
    ///
    /// `variables`: what it may name besides the messages, such as `bos_token`.
    ///
    /// # Errors
    /// [`TextError::Template`] with Jinja's reason and line.
    pub fn new(name: &str, source: &str, variables: Map<String, Json>) -> Result<Self, TextError> {
        // Jinja2 reads every line break of a template as `\n`, also inside string literals.
        let source = source.replace("\r\n", "\n").replace('\r', "\n");
        let rewritten = rewrite(&source, GENERATION);
        let env = environment(rewritten.source).map_err(|e| template_error(name, &e))?;
        let mut template = Self {
            name: name.into(),
            env: Arc::new(env),
            source: source.into(),
            variables: Arc::new(variables),
            has_generation: rewritten.found,
            parts: TakesParts::default(),
            image_token: IMAGE_TOKEN.into(),
            tool_use: None,
        };
        template.parts = template.probe();
        Ok(template)
    }

    /// The same template with another marker for the images of a template that takes strings.
    pub fn with_image_token(mut self, token: &str) -> Self {
        self.image_token = token.into();
        self.tool_use = self.tool_use.map(|other| Arc::new((*other).clone().with_image_token(token)));
        self
    }

    /// The same template with one more variable, such as `enable_thinking` or `date_string`.
    pub fn with_variable(mut self, name: &str, value: Json) -> Self {
        self.tool_use = self.tool_use.map(|other| Arc::new((*other).clone().with_variable(name, value.clone())));
        Arc::make_mut(&mut self.variables).insert(name.to_owned(), value);
        self
    }

    /// The same template with another one for conversations that have tools (the checkpoint's `tool_use`).
    pub fn with_tool_use(mut self, template: Self) -> Self {
        self.tool_use = Some(Arc::new(template));
        self
    }

    /// What messages call the template.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// See [`super::ChatTemplate::render`].
    ///
    /// # Errors
    /// [`TextError::Template`], [`TextError::Inexpressible`] or [`TextError::NoSpans`].
    pub fn render(&self, conversation: &Conversation) -> Result<Rendered, TextError> {
        if let Some(other) = self.tool_use.as_ref().filter(|_| !conversation.tools.is_empty()) {
            return other.render(conversation);
        }
        let messages = &conversation.messages;
        let chat = self.chat(conversation)?;
        let full = self.run(&chat.plain, &chat, false)?;
        let spans = if self.has_generation {
            self.block_spans(messages, &chat, &full)?
        } else {
            spans::locate(self, &chat, messages, &full.text)?
        };
        Ok(Rendered { text: full.text, spans })
    }

    /// See [`super::ChatTemplate::render_prompt`].
    ///
    /// # Errors
    /// As [`Self::render`]; [`TextError::Inexpressible`] where the last message is the assistant's.
    pub fn render_prompt(&self, conversation: &Conversation) -> Result<String, TextError> {
        if let Some(other) = self.tool_use.as_ref().filter(|_| !conversation.tools.is_empty()) {
            return other.render_prompt(conversation);
        }
        if conversation.messages.last().is_some_and(|last| last.role == Role::Assistant) {
            return Err(self.inexpressible("a prompt must not end with a message of the assistant"));
        }
        let chat = self.chat(conversation)?;
        Ok(self.run(&chat.plain, &chat, true)?.text)
    }

    /// See [`super::ChatTemplate::render_continuation`].
    ///
    /// # Errors
    /// As [`Self::render`]; [`TextError::Inexpressible`] where the last message is not the assistant's or the template
    /// does not write its words at the end.
    pub fn render_continuation(&self, conversation: &Conversation) -> Result<String, TextError> {
        if let Some(other) = self.tool_use.as_ref().filter(|_| !conversation.tools.is_empty()) {
            return other.render_continuation(conversation);
        }
        let messages = &conversation.messages;
        let last = match messages.last() {
            Some(last) if last.role == Role::Assistant && last.tool_calls.is_empty() => last,
            _ => return Err(self.inexpressible("only words of the assistant at the end can be continued")),
        };
        let chat = self.chat(conversation)?;
        let full = self.run(&chat.plain, &chat, false)?;
        let mut values = chat.plain.clone();
        values.pop();
        values.extend(chat.marked.last().cloned());
        let marked = self.run(&values, &chat, false)?;
        let end = marked.last_end(messages.len() - 1).filter(|_| marked.text == full.text);
        let Some(end) = end else {
            return Err(
                self.inexpressible("the template changes the assistant's last words, so they cannot be continued")
            );
        };
        // Marks stand inside the white space at the end of the words, which the template may have trimmed.
        let words = last.words();
        let blank = &words[words.trim_end().len()..];
        let end = if full.text[end..].starts_with(blank) { end + blank.len() } else { end };
        Ok(full.text[..end].to_owned())
    }

    /// What the template writes at the end of a short answer: the text at which generation stops. `None` where it writes
    /// nothing, or refuses the trial.
    pub fn stop(&self) -> Option<String> {
        let trial =
            Conversation::new(vec![Message::text(Role::User, "q"), Message::text(Role::Assistant, PROBE.to_owned())]);
        let rendered = self.render(&trial).ok()?;
        let (_, end) = rendered.text.get(rendered.spans.last()?.clone())?.split_once(PROBE)?;
        let end = python_strip(end);
        (!end.is_empty()).then(|| end.to_owned())
    }

    /// The generation blocks of the messages that are learned.
    fn block_spans(&self, messages: &[Message], chat: &Chat, full: &Marked) -> Result<Vec<Range<usize>>, TextError> {
        let all = blocks(full);
        let answers = answers(messages);
        // A block without words, such as the end marker of an empty answer, is told by its number.
        let numbered = |n: usize| answers.get(n).copied().filter(|_| all.len() == answers.len());
        let owners: Vec<Option<usize>> = match spans::render_marked(self, chat, messages, &full.text) {
            Some((_, marked)) => all
                .iter()
                .enumerate()
                .map(|(n, block)| owner(block, &marked, numbered(n)))
                .collect::<Option<_>>()
                .ok_or_else(|| self.no_spans("a generation block holds words of several messages".into()))?,
            None if all.len() == answers.len() => answers.iter().copied().map(Some).collect(),
            None => return Err(self.no_spans("nobody can say which message a generation block belongs to".into())),
        };
        let mut spans: Vec<Range<usize>> = Vec::new();
        for (n, (block, &i)) in all.into_iter().zip(&owners).enumerate() {
            // Words of others are not learned, whatever the template says.
            let Some(i) = i.filter(|&i| messages[i].train) else { continue };
            let is_first = n == 0 || owners[n - 1] != Some(i);
            let start =
                if is_first { self.header_end(&chat.plain[..i], chat, &full.text, block.start) } else { block.start };
            spans.extend(Some(start..block.end).filter(|span| !span.is_empty()));
        }
        Ok(spans)
    }

    /// Where the generation prompt ends, if only white space lies between it and `start`; else `start`.
    fn header_end(&self, before: &[Value], chat: &Chat, text: &str, start: usize) -> usize {
        if !text[..start].ends_with(is_blank) {
            return start;
        }
        // A template may refuse to begin with the assistant; the block is then all there is to go by.
        let Ok(prompt) = self.run(before, chat, true) else { return start };
        let between = text.strip_prefix(prompt.text.as_str()).and_then(|_| text.get(prompt.text.len()..start));
        match between {
            Some(between) if python_strip(between).is_empty() => prompt.text.len(),
            _ => start,
        }
    }

    fn chat(&self, conversation: &Conversation) -> Result<Chat, TextError> {
        if conversation.messages.is_empty() {
            return Err(self.inexpressible("it is empty"));
        }
        self.chat_of(conversation)
    }

    fn chat_of(&self, conversation: &Conversation) -> Result<Chat, TextError> {
        let variables = serde_json::to_string(&*self.variables).unwrap_or_default();
        Chat::new(conversation, self.parts, &self.image_token, &[&self.source, &variables])
            .ok_or_else(|| self.inexpressible("its text uses up Unicode's characters for private use"))
    }

    fn run(&self, messages: &[Value], chat: &Chat, add_generation_prompt: bool) -> Result<Marked, TextError> {
        let mut context: BTreeMap<&str, Value> =
            self.variables.iter().map(|(name, value)| (name.as_str(), to_value(value))).collect();
        context.insert("messages", Value::from(messages.to_vec()));
        context.insert("add_generation_prompt", Value::from(add_generation_prompt));
        context.insert("tools", chat.tools.clone());
        context.insert("documents", chat.documents.clone());
        let (open, close) = chat.markers.block;
        context.insert(GENERATION, Value::from(format!("{open}{close}")));
        let template = self.env.get_template(TEMPLATE).map_err(|e| template_error(&self.name, &e))?;
        // minijinja 3.0.5 panics where `continue` or `break` leaves a `with` block; a checkpoint's template must not end
        // the program. Nothing is shared with the rendering but what it reads.
        let rendered = std::panic::catch_unwind(AssertUnwindSafe(|| template.render(context)));
        let broken = || TextError::Template {
            template: self.name.to_string(),
            reason:
                "it cannot be rendered: `continue` or `break` inside a `with` or `generation` block is not supported"
                    .to_owned(),
        };
        let text = rendered.map_err(|_| broken())?.map_err(|e| template_error(&self.name, &e))?;
        Ok(chat.markers.unmark(&text))
    }

    /// Finds out which roles' content may be typed parts.
    fn probe(&self) -> TakesParts {
        let Ok(chat) = self.chat_of(&Conversation::default()) else { return TakesParts::default() };
        let words = |role: &str, text: &str| json!({"role": role, "content": text});
        let parts = |role: &str, text: &str| json!({"role": role, "content": [{"type": "text", "text": text}]});
        let handled = |messages: &[Json]| {
            let values: Vec<Value> = messages.iter().map(to_value).collect();
            self.run(&values, &chat, false).is_ok_and(|out| {
                let printed = ["'type'", "\"type\""].iter().any(|dictionary| out.text.contains(dictionary));
                out.text.contains(PROBE) && !printed
            })
        };
        let user = handled(&[parts("user", PROBE)]);
        let question = if user { parts("user", "q") } else { words("user", "q") };
        TakesParts {
            user,
            assistant: handled(&[question.clone(), parts("assistant", PROBE)]),
            system: handled(&[parts("system", PROBE), question]),
        }
    }

    fn inexpressible(&self, reason: &str) -> TextError {
        TextError::Inexpressible { template: self.name.to_string(), reason: reason.to_owned() }
    }

    fn no_spans(&self, reason: String) -> TextError {
        TextError::NoSpans { template: self.name.to_string(), reason }
    }
}

/// Whether Python's `strip` takes the character away.
fn is_blank(c: char) -> bool {
    python_strip(c.encode_utf8(&mut [0; 4])).is_empty()
}

/// The places of the generation blocks.
fn blocks(text: &Marked) -> Vec<Range<usize>> {
    let mut blocks = Vec::new();
    let mut start = None;
    for mark in text.marks.iter().filter(|mark| mark.owner == Owner::Block) {
        if mark.opens {
            start = Some(mark.at);
        } else {
            blocks.extend(start.take().map(|start| start..mark.at));
        }
    }
    blocks
}

/// The answer that a block belongs to: the one whose words are in it; without any words `numbered`, else the answer
/// before it. `Some(None)` for a block of another's words; `None` where the words of several are mixed.
fn owner(block: &Range<usize>, text: &Marked, numbered: Option<usize>) -> Option<Option<usize>> {
    let answer = |mark: &Mark| match mark.owner {
        Owner::Answer(i, _) => Some(i),
        _ => None,
    };
    let words = || text.marks.iter().filter(|mark| mark.opens && mark.owner != Owner::Block);
    let mut inside = words().filter(|mark| block.contains(&mark.at)).map(answer);
    match inside.next() {
        Some(first) => inside.all(|other| other == first).then_some(first),
        None => Some(numbered.or_else(|| words().take_while(|mark| mark.at < block.start).filter_map(answer).last())),
    }
}

fn template_error(name: &str, error: &minijinja::Error) -> TextError {
    let mut reason = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        reason.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    TextError::Template { template: name.to_owned(), reason }
}
