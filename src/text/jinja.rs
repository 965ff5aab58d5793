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
//! Elsewhere the span of an answer runs from the end of the generation prompt for the messages before it, to the end of
//! the text rendered up to it; both must be beginnings of the whole text.

use super::conversation::python_strip;
use super::generation_tags::rewrite;
use super::jinja_env::{TEMPLATE, environment, marker, to_value};
use super::{Conversation, IMAGE_TOKEN, Message, Part, Rendered, Role, TextError};
use minijinja::{Environment, Value};
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

/// What a `{% generation %}` block calls.
const GENERATION: &str = "__generation_block";

/// A word no template writes of itself.
const PROBE: &str = "qzprobezq";

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

/// A rendered text and where its generation blocks lie.
struct Marked {
    text: String,
    blocks: Vec<Range<usize>>,
}

impl JinjaTemplate {
    /// Compiles a template.
    ///
    /// `variables`: what it may name besides the messages, such as `bos_token`.
    ///
    /// # Errors
    /// [`TextError::Template`] with Jinja's reason and line.
    pub fn new(name: &str, source: &str, variables: Map<String, Json>) -> Result<Self, TextError> {
        let rewritten = rewrite(source, GENERATION);
        let env = environment(rewritten.source).map_err(|e| template_error(name, &e))?;
        let mut template = Self {
            name: name.into(),
            env: Arc::new(env),
            source: source.into(),
            variables: Arc::new(variables),
            has_generation: rewritten.found,
            parts: TakesParts::default(),
            image_token: IMAGE_TOKEN.into(),
        };
        template.parts = template.probe();
        Ok(template)
    }

    /// The same template with another marker for the images of a template that takes strings.
    pub fn with_image_token(mut self, token: &str) -> Self {
        self.image_token = token.into();
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
        let messages = &conversation.messages;
        if messages.is_empty() {
            return Err(self.inexpressible("it is empty"));
        }
        let full = self.run(messages, false)?;
        let spans =
            if self.has_generation { self.block_spans(messages, &full)? } else { self.prefix_spans(messages, &full)? };
        Ok(Rendered { text: full.text, spans })
    }

    /// See [`super::ChatTemplate::render_prompt`].
    ///
    /// # Errors
    /// As [`Self::render`]; [`TextError::Inexpressible`] where the last message is the assistant's.
    pub fn render_prompt(&self, conversation: &Conversation) -> Result<String, TextError> {
        match conversation.messages.last() {
            None => Err(self.inexpressible("it is empty")),
            Some(last) if last.role == Role::Assistant => {
                Err(self.inexpressible("a prompt must not end with a message of the assistant"))
            }
            Some(_) => Ok(self.run(&conversation.messages, true)?.text),
        }
    }

    /// The generation blocks of the messages that are learned.
    fn block_spans(&self, messages: &[Message], full: &Marked) -> Result<Vec<Range<usize>>, TextError> {
        let answers = answers(messages);
        let mut first = 0;
        let mut spans: Vec<Range<usize>> = Vec::new();
        for (n, &i) in answers.iter().enumerate() {
            let end = if full.blocks.len() == answers.len() {
                n + 1
            } else {
                // Several blocks, or none, for one message: count those of the text up to it.
                let upto = self.run(&messages[..=i], false)?;
                if !full.blocks.starts_with(&upto.blocks) || upto.blocks.len() < first {
                    let reason = format!("the generation blocks of message {} change with what follows it", i + 1);
                    return Err(self.no_spans(reason));
                }
                upto.blocks.len()
            };
            if messages[i].train {
                let mut blocks = full.blocks[first..end].to_vec();
                if let Some(block) = blocks.first_mut() {
                    block.start = self.header_end(&messages[..i], &full.text, block.start);
                }
                spans.extend(blocks.into_iter().filter(|block| !block.is_empty()));
            }
            first = end;
        }
        Ok(spans)
    }

    /// Where the generation prompt ends, if only white space lies between it and `start`; else `start`.
    fn header_end(&self, before: &[Message], text: &str, start: usize) -> usize {
        let prompt = match self.run(before, true) {
            Ok(prompt) => prompt.text,
            // A template may refuse to begin with the assistant; the block is then all there is to go by.
            Err(_) => return start,
        };
        let between = text.strip_prefix(prompt.as_str()).and_then(|_| text.get(prompt.len()..start));
        match between {
            Some(between) if python_strip(between).is_empty() => prompt.len(),
            _ => start,
        }
    }

    /// Spans between the generation prompt before an answer and the text rendered up to it.
    fn prefix_spans(&self, messages: &[Message], full: &Marked) -> Result<Vec<Range<usize>>, TextError> {
        let mut spans: Vec<Range<usize>> = Vec::new();
        for i in answers(messages) {
            if !messages[i].train {
                continue;
            }
            let header = self.run(&messages[..i], true)?.text;
            let upto = self.run(&messages[..=i], false)?.text;
            let position = i + 1;
            for (what, prefix) in [("generation prompt before", &header), ("text up to", &upto)] {
                if !full.text.starts_with(prefix.as_str()) {
                    let reason = format!(
                        "the {what} message {position} is not how the whole conversation begins, so that the answer \
                         cannot be found in it"
                    );
                    return Err(self.no_spans(reason));
                }
            }
            let start = header.len().max(spans.last().map_or(0, |span| span.end));
            if start < upto.len() {
                spans.push(start..upto.len());
            }
        }
        Ok(spans)
    }

    fn run(&self, messages: &[Message], add_generation_prompt: bool) -> Result<Marked, TextError> {
        let rendered: Vec<Json> = messages.iter().map(|message| self.message(message)).collect();
        self.run_json(rendered, add_generation_prompt)
    }

    fn run_json(&self, messages: Vec<Json>, add_generation_prompt: bool) -> Result<Marked, TextError> {
        let marks = self.marks(&messages);
        let mut context: BTreeMap<&str, Value> =
            self.variables.iter().map(|(name, value)| (name.as_str(), to_value(value))).collect();
        context.insert("messages", Value::from(messages.iter().map(to_value).collect::<Vec<_>>()));
        context.insert("add_generation_prompt", Value::from(add_generation_prompt));
        context.insert("tools", Value::from(()));
        context.insert("documents", Value::from(()));
        context.insert(GENERATION, marker(marks.0, marks.1));
        let template = self.env.get_template(TEMPLATE).map_err(|e| template_error(&self.name, &e))?;
        let text = template.render(context).map_err(|e| template_error(&self.name, &e))?;
        Ok(unmark(&text, marks))
    }

    /// Two characters that neither the template nor the conversation contains, so that nobody can forge a block.
    fn marks(&self, messages: &[Json]) -> (char, char) {
        let variables = Json::Object((*self.variables).clone()).to_string();
        let messages = Json::from(messages.to_vec()).to_string();
        // Plane 15 is for private use: 65,534 characters that have no meaning.
        let mut free = ('\u{F0000}'..='\u{FFFFD}')
            .filter(|&c| !self.source.contains(c) && !variables.contains(c) && !messages.contains(c));
        // A conversation that uses up the whole plane can blur its own spans, nothing else.
        (free.next().unwrap_or('\u{F0000}'), free.next().unwrap_or('\u{F0001}'))
    }

    fn message(&self, message: &Message) -> Json {
        let content = if self.parts.for_role(message.role) {
            typed_parts(message)
        } else {
            let images = message.image_count();
            let words = message.words();
            if images == 0 {
                Json::from(words)
            } else {
                let markers = format!("{}\n", self.image_token).repeat(images);
                Json::from(python_strip(&format!("{markers}{}", python_strip(&words))))
            }
        };
        json!({"role": message.role.as_str(), "content": content})
    }

    /// Finds out which roles' content may be typed parts.
    fn probe(&self) -> TakesParts {
        let words = |role: &str, text: &str| json!({"role": role, "content": text});
        let parts = |role: &str, text: &str| json!({"role": role, "content": [{"type": "text", "text": text}]});
        let handled = |messages: Vec<Json>| {
            self.run_json(messages, false).is_ok_and(|out| {
                let printed = ["'type'", "\"type\""].iter().any(|dictionary| out.text.contains(dictionary));
                out.text.contains(PROBE) && !printed
            })
        };
        let user = handled(vec![parts("user", PROBE)]);
        let question = if user { parts("user", "q") } else { words("user", "q") };
        TakesParts {
            user,
            assistant: handled(vec![question.clone(), parts("assistant", PROBE)]),
            system: handled(vec![parts("system", PROBE), question]),
        }
    }

    fn inexpressible(&self, reason: &str) -> TextError {
        TextError::Inexpressible { template: self.name.to_string(), reason: reason.to_owned() }
    }

    fn no_spans(&self, reason: String) -> TextError {
        TextError::NoSpans { template: self.name.to_string(), reason }
    }
}

/// The indices of the assistant's messages.
fn answers(messages: &[Message]) -> Vec<usize> {
    (0..messages.len()).filter(|&i| messages[i].role == Role::Assistant).collect()
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

/// Takes the marks out of a text and keeps where they stood.
fn unmark(marked: &str, (open, close): (char, char)) -> Marked {
    let mut text = String::with_capacity(marked.len());
    let mut blocks = Vec::new();
    let mut start = None;
    for piece in marked.split_inclusive([open, close]) {
        let last = piece.chars().next_back();
        let words = piece.strip_suffix([open, close]).unwrap_or(piece);
        text.push_str(words);
        if last == Some(open) {
            start = Some(text.len());
        } else if last == Some(close) {
            blocks.extend(start.take().map(|start| start..text.len()));
        }
    }
    Marked { text, blocks }
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
