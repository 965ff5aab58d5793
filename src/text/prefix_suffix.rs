//! turbo-alignment's templates: every message stands between the same prefix and suffix.

use super::conversation::python_strip;
use super::{Conversation, IMAGE_TOKEN, Message, Part, Rendered, Role, TextError};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The same words around every message, with the name of who speaks in the prefix. Cheap to clone.
///
/// A file of this form (all else is refused):
/// ```json
/// {"prefix_template": "<|start_header_id|>{role}<|end_header_id|>\n\n", "suffix_template": "<|eot_id|>",
///  "role_tag_mapping": {"user": "user", "bot": "assistant", "system": "system"},
///  "start_modality_token": "<MS>", "end_modality_token": "</MS>"}
/// ```
/// `{role}` stands for the name that `role_tag_mapping` gives a role; `{{` and `}}` are braces. `bot`, which may be
/// called `assistant` as well, and `user` must be named, `system` and `tool` where records have them. The last two tokens
/// may be left out: they stand around an image.
///
/// An answer's words and its suffix are learned, no prefix is. Messages come in any order: an image may be one of its own.
///
/// # Source
/// turbo-alignment's `ChatPromptTemplate` and `_truncate_and_merge`, except that the whole text is tokenized at once and not
/// message by message.
#[derive(Debug, Clone)]
pub struct PrefixSuffixTemplate {
    name: Arc<str>,
    prefixes: Arc<Prefixes>,
    suffix: Arc<str>,
    image_token: Arc<str>,
    around_image: Option<(Arc<str>, Arc<str>)>,
}

/// The prefix of each role that the file names.
#[derive(Debug, Default)]
struct Prefixes {
    system: Option<String>,
    user: String,
    assistant: String,
    tool: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    prefix_template: String,
    suffix_template: String,
    role_tag_mapping: BTreeMap<String, String>,
    start_modality_token: Option<String>,
    end_modality_token: Option<String>,
}

impl PrefixSuffixTemplate {
    /// Reads a file.
    ///
    /// # Errors
    /// [`TextError::Io`] or [`TextError::Malformed`] with the file.
    pub fn from_file(path: &Path) -> Result<Self, TextError> {
        let text = std::fs::read_to_string(path).map_err(|source| TextError::Io { path: path.to_owned(), source })?;
        let malformed = |reason: String| TextError::Malformed { path: path.to_owned(), reason };
        Self::parse(&path.display().to_string(), &text).map_err(malformed)
    }

    /// Its name, as settings give it.
    pub const CHATML: &str = "chatml";

    /// ChatML: `<|im_start|>user\n…<|im_end|>\n` for every message, of any role and in any order.
    pub fn chatml() -> Self {
        let prefix = |tag: &str| format!("<|im_start|>{tag}\n");
        Self {
            name: Self::CHATML.into(),
            prefixes: Arc::new(Prefixes {
                system: Some(prefix("system")),
                user: prefix("user"),
                assistant: prefix("assistant"),
                tool: Some(prefix("tool")),
            }),
            suffix: "<|im_end|>\n".into(),
            image_token: IMAGE_TOKEN.into(),
            around_image: None,
        }
    }

    /// Reads a text of the file's form, under a name for messages.
    fn parse(name: &str, text: &str) -> Result<Self, String> {
        let file: File = serde_json::from_str(text).map_err(|error| {
            format!("{error}; a prefix/suffix template is {{\"prefix_template\", \"suffix_template\", \"role_tag_mapping\"}}")
        })?;
        let mut tags = file.role_tag_mapping;
        if tags.contains_key("bot") && tags.contains_key("assistant") {
            return Err(
                "`role_tag_mapping` names the assistant twice, as `bot` and as `assistant`; keep one".to_owned()
            );
        }
        let mut prefix = |roles: &[&str]| -> Result<Option<String>, String> {
            let tag = roles.iter().find_map(|role| tags.remove(*role));
            tag.map(|tag| fill(&file.prefix_template, &tag)).transpose()
        };
        let lacking = |role: &str| format!("`role_tag_mapping` has no name for `{role}`");
        let prefixes = Prefixes {
            system: prefix(&["system"])?,
            user: prefix(&["user"])?.ok_or_else(|| lacking("user"))?,
            assistant: prefix(&["bot", "assistant"])?.ok_or_else(|| lacking("bot"))?,
            tool: prefix(&["tool"])?,
        };
        if let Some(other) = tags.keys().next() {
            return Err(format!(
                "`role_tag_mapping` names the role `{other}`; the roles are user, bot, system and tool"
            ));
        }
        let around_image = match (file.start_modality_token, file.end_modality_token) {
            (Some(start), Some(end)) => Some((start.into(), end.into())),
            (None, None) => None,
            _ => {
                return Err("`start_modality_token` and `end_modality_token` go together; give both or none".to_owned());
            }
        };
        Ok(Self {
            name: name.into(),
            prefixes: Arc::new(prefixes),
            suffix: file.suffix_template.into(),
            image_token: IMAGE_TOKEN.into(),
            around_image,
        })
    }

    /// The same template with another image marker.
    pub fn with_image_token(mut self, token: &str) -> Self {
        self.image_token = token.into();
        self
    }

    /// The same template with each image between `<im_start>` and `<im_end>`, unless the file names other tokens.
    pub fn with_im_start_end(mut self) -> Self {
        self.around_image.get_or_insert_with(|| ("<im_start>".into(), "<im_end>".into()));
        self
    }

    /// The file it was read from, or `chatml`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The suffix without white space around it; `None` where nothing else is in it.
    pub fn stop(&self) -> Option<&str> {
        Some(python_strip(&self.suffix)).filter(|stop| !stop.is_empty())
    }

    /// See [`super::ChatTemplate::render`].
    ///
    /// # Errors
    /// [`TextError::Inexpressible`].
    pub fn render(&self, conversation: &Conversation) -> Result<Rendered, TextError> {
        check_plain(&self.name, conversation)?;
        let mut out = Rendered::default();
        for (i, message) in conversation.messages.iter().enumerate() {
            out.push(self.prefix(i, message)?);
            let words = format!("{}{}", self.content(message), self.suffix);
            out.push_learned(&words, message.is_learned());
        }
        Ok(out)
    }

    /// See [`super::ChatTemplate::render_prompt`].
    ///
    /// # Errors
    /// [`TextError::Inexpressible`], also where the last message is the assistant's.
    pub fn render_prompt(&self, conversation: &Conversation) -> Result<String, TextError> {
        if conversation.messages.last().is_some_and(|last| last.role == Role::Assistant) {
            return Err(refuse(&self.name, "a prompt must not end with a message of the assistant"));
        }
        Ok(self.render(conversation)?.text + &self.prefixes.assistant)
    }

    /// See [`super::ChatTemplate::render_continuation`].
    ///
    /// # Errors
    /// [`TextError::Inexpressible`], also where the last message is not the assistant's.
    pub fn render_continuation(&self, conversation: &Conversation) -> Result<String, TextError> {
        if conversation.messages.last().is_none_or(|last| last.role != Role::Assistant) {
            return Err(refuse(&self.name, "only words of the assistant at the end can be continued"));
        }
        let mut text = self.render(conversation)?.text;
        text.truncate(text.len() - self.suffix.len());
        Ok(text)
    }

    fn prefix(&self, index: usize, message: &Message) -> Result<&str, TextError> {
        let prefix = match message.role {
            Role::System => self.prefixes.system.as_deref(),
            Role::User => Some(self.prefixes.user.as_str()),
            Role::Assistant => Some(self.prefixes.assistant.as_str()),
            Role::Tool => self.prefixes.tool.as_deref(),
        };
        prefix.ok_or_else(|| {
            let (position, role) = (index + 1, message.role);
            refuse(&self.name, format!("message {position} is the {role}'s, for which `role_tag_mapping` has no name"))
        })
    }

    fn content(&self, message: &Message) -> String {
        let (start, end) = self.around_image.as_ref().map_or(("", ""), |(start, end)| (start, end));
        content(message, &format!("{start}{}{end}", self.image_token))
    }
}

/// A prefix with the role's name in it, as Python's `str.format` writes it.
fn fill(prefix: &str, tag: &str) -> Result<String, String> {
    let mut out = String::new();
    let mut rest = prefix;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let (written, length) = match rest {
            _ if rest.starts_with("{{") => ("{", 2),
            _ if rest.starts_with("}}") => ("}", 2),
            _ if rest.starts_with("{role}") => (tag, "{role}".len()),
            _ => {
                return Err(format!(
                    "`prefix_template` is {prefix:?}, in which only {{role}} may stand in braces; write a brace twice"
                ));
            }
        };
        out.push_str(written);
        rest = &rest[length..];
    }
    Ok(out + rest)
}

/// A message's words with `image` where an image stands.
pub(super) fn content(message: &Message, image: &str) -> String {
    let parts = message.content.iter().map(|part| match part {
        Part::Text(text) => text.as_str(),
        Part::Image => image,
    });
    parts.collect()
}

/// Refuses what a template of plain words has no place for.
pub(super) fn check_plain(template: &str, conversation: &Conversation) -> Result<(), TextError> {
    if conversation.messages.is_empty() {
        return Err(refuse(template, "it is empty"));
    }
    if !conversation.tools.is_empty() || !conversation.documents.is_empty() {
        return Err(refuse(template, "it has tools or documents, for which the template has no place"));
    }
    let speaks_more = |message: &Message| message.reasoning.is_some() || !message.tool_calls.is_empty();
    match conversation.messages.iter().position(speaks_more) {
        Some(i) => {
            let position = i + 1;
            Err(refuse(template, format!("message {position} has tool calls or reasoning beside its content")))
        }
        None => Ok(()),
    }
}

pub(super) fn refuse(template: &str, reason: impl Into<String>) -> TextError {
    TextError::Inexpressible { template: template.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LLAMA_3: &str = r#"{"prefix_template": "<|start_header_id|>{role}<|end_header_id|>\n\n",
        "suffix_template": "<|eot_id|>", "role_tag_mapping": {"user": "user", "bot": "assistant", "system": "system"}}"#;

    fn said(role: Role, text: &str) -> Message {
        Message::text(role, text)
    }

    #[test]
    fn every_message_stands_between_prefix_and_suffix() {
        let template = PrefixSuffixTemplate::parse("llama3.json", LLAMA_3).unwrap();
        let head = |role: &str| format!("<|start_header_id|>{role}<|end_header_id|>\n\n");
        let question = vec![said(Role::System, "S"), said(Role::User, "q")];
        let mut messages = question.clone();
        messages.extend([said(Role::Assistant, "a").without_loss(), said(Role::Assistant, "b")]);
        let conversation = Conversation::new(messages);
        let rendered = template.render(&conversation).unwrap();
        let asked = format!("{}S<|eot_id|>{}q<|eot_id|>{}", head("system"), head("user"), head("assistant"));
        assert_eq!(rendered.text, format!("{asked}a<|eot_id|>{}b<|eot_id|>", head("assistant")));
        assert_eq!(rendered.spans.len(), 1);
        assert_eq!(&rendered.text[rendered.spans[0].clone()], "b<|eot_id|>");
        assert_eq!(template.render_prompt(&Conversation::new(question)).unwrap(), asked);
        assert_eq!(template.render_continuation(&conversation.up_to(3)).unwrap(), format!("{asked}a"));
        assert!(template.render_prompt(&conversation).is_err());
        assert!(template.render_continuation(&conversation.up_to(2)).is_err());
        assert_eq!(template.stop(), Some("<|eot_id|>"));
    }

    #[test]
    fn an_image_is_a_message_of_its_own_or_a_part_of_one() {
        let file = r#"{"prefix_template": "<RS>{{{role}}}", "suffix_template": "</RS>\n",
            "role_tag_mapping": {"user": "u", "assistant": "b"},
            "start_modality_token": "<MS>", "end_modality_token": "</MS>"}"#;
        let template = PrefixSuffixTemplate::parse("t", file).unwrap().with_image_token("<img>").with_im_start_end();
        let conversation = Conversation::new(vec![
            Message::new(Role::User, vec![Part::Image]),
            Message::new(Role::User, vec![Part::Text("What ".into()), Part::Image, Part::Text("?".into())]),
        ]);
        let image = "<MS><img></MS>";
        let expected = format!("<RS>{{u}}{image}</RS>\n<RS>{{u}}What {image}?</RS>\n<RS>{{b}}");
        assert_eq!(template.render_prompt(&conversation).unwrap(), expected);
        assert_eq!(template.stop(), Some("</RS>"));
        let plain = PrefixSuffixTemplate::parse("t", LLAMA_3).unwrap().with_im_start_end();
        assert!(plain.render(&conversation).unwrap().text.contains("<im_start><image><im_end>"));
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said() {
        let file = |prefix: &str, mapping: &str, more: &str| {
            format!(
                r#"{{"prefix_template": "{prefix}", "suffix_template": "", "role_tag_mapping": {{{mapping}}}{more}}}"#
            )
        };
        let both = r#""user": "u", "bot": "b""#;
        for (text, words) in [
            (file("{who}", both, ""), "only {role} may stand in braces"),
            (file("{role", both, ""), "only {role} may stand in braces"),
            (file("}", both, ""), "only {role} may stand in braces"),
            (file("", r#""user": "u""#, ""), "no name for `bot`"),
            (file("", r#""bot": "u""#, ""), "no name for `user`"),
            (file("", &format!(r#"{both}, "assistant": "a""#), ""), "names the assistant twice"),
            (file("", &format!(r#"{both}, "judge": "j""#), ""), "the role `judge`"),
            (file("", both, r#", "start_modality_token": "<M>""#), "go together"),
            (file("", both, r#", "keep_end": true"#), "keep_end"),
            ("[".to_owned(), "prefix/suffix template is"),
        ] {
            let error = PrefixSuffixTemplate::parse("t", &text).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let template = PrefixSuffixTemplate::parse("t.json", &file("", both, "")).unwrap();
        let error = template.render(&Conversation::new(vec![said(Role::System, "S")])).unwrap_err().to_string();
        assert!(error.contains("`t.json`") && error.contains("message 1 is the system's"), "{error}");
        assert!(template.render(&Conversation::default()).is_err());
        assert_eq!(template.stop(), None);
        let error = PrefixSuffixTemplate::from_file(Path::new("nowhere.json")).unwrap_err().to_string();
        assert!(error.contains("nowhere.json"), "{error}");
    }
}
