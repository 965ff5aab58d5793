//! Text without any markup: what a prompt and its completion are, one behind the other.

use super::prefix_suffix::{check_plain, content, refuse};
use super::{Conversation, IMAGE_TOKEN, Rendered, Role, TextError};
use std::sync::Arc;

/// The messages' words one behind the other, nothing between them. Cheap to clone.
///
/// An answer ends with the end of sequence, which is written where the answer does not bring it along. Answers are learned
/// with it. A token that stands for the end of a question and the beginning of an answer at once is not learned.
///
/// # Source
/// TRL's treatment of records of plain text (`prompt`, `completion`, `chosen`, `rejected`).
#[derive(Debug, Clone)]
pub struct PlainTextTemplate {
    end: Arc<str>,
    image_token: Arc<str>,
    around_image: (&'static str, &'static str),
}

impl PlainTextTemplate {
    /// The name that it is chosen by.
    pub const NAME: &'static str = "plain_text";

    /// `end`: the tokenizer's end of sequence, which an answer ends with; empty for a tokenizer without one.
    pub fn new(end: &str) -> Self {
        Self { end: end.into(), image_token: IMAGE_TOKEN.into(), around_image: ("", "") }
    }

    /// The same template with another image marker.
    pub fn with_image_token(mut self, token: &str) -> Self {
        self.image_token = token.into();
        self
    }

    /// The same template with each image between `<im_start>` and `<im_end>`.
    pub fn with_im_start_end(mut self) -> Self {
        self.around_image = ("<im_start>", "<im_end>");
        self
    }

    /// The end of sequence; `None` where there is none.
    pub fn stop(&self) -> Option<&str> {
        Some(&*self.end).filter(|end| !end.is_empty())
    }

    /// See [`super::ChatTemplate::render`].
    ///
    /// # Errors
    /// [`TextError::Inexpressible`].
    pub fn render(&self, conversation: &Conversation) -> Result<Rendered, TextError> {
        check_plain(Self::NAME, conversation)?;
        let (start, end) = self.around_image;
        let image = format!("{start}{}{end}", self.image_token);
        let mut out = Rendered::default();
        for message in &conversation.messages {
            let mut words = content(message, &image);
            if message.role == Role::Assistant && !words.ends_with(&*self.end) {
                words.push_str(&self.end);
            }
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
            return Err(refuse(Self::NAME, "a prompt must not end with a message of the assistant"));
        }
        Ok(self.render(conversation)?.text)
    }

    /// See [`super::ChatTemplate::render_continuation`].
    ///
    /// # Errors
    /// [`TextError::Inexpressible`], also where the last message is not the assistant's.
    pub fn render_continuation(&self, conversation: &Conversation) -> Result<String, TextError> {
        if conversation.messages.last().is_none_or(|last| last.role != Role::Assistant) {
            return Err(refuse(Self::NAME, "only words of the assistant at the end can be continued"));
        }
        let mut text = self.render(conversation)?.text;
        text.truncate(text.len() - self.end.len());
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{Message, Part};

    #[test]
    fn words_stand_one_behind_the_other_and_answers_end() {
        let template = PlainTextTemplate::new("</s>");
        let conversation = Conversation::new(vec![
            Message::new(Role::User, vec![Part::Image, Part::Text("1 + 1 =".into())]),
            Message::text(Role::Assistant, " 2"),
            Message::text(Role::User, ", 2 + 2 ="),
            Message::text(Role::Assistant, " 4</s>"),
        ]);
        let rendered = template.render(&conversation).unwrap();
        assert_eq!(rendered.text, "<image>1 + 1 = 2</s>, 2 + 2 = 4</s>");
        let learned: Vec<&str> = rendered.spans.iter().map(|span| &rendered.text[span.clone()]).collect();
        assert_eq!(learned, [" 2</s>", " 4</s>"]);
        assert_eq!(template.render_prompt(&conversation.up_to(1)).unwrap(), "<image>1 + 1 =");
        assert_eq!(template.render_continuation(&conversation.up_to(2)).unwrap(), "<image>1 + 1 = 2");
        assert!(template.render_prompt(&conversation).is_err() && template.render(&conversation.up_to(0)).is_err());
        assert!(template.render_continuation(&conversation.up_to(1)).is_err());
        let wrapped = template.clone().with_image_token("<i>").with_im_start_end();
        assert_eq!(wrapped.render_prompt(&conversation.up_to(1)).unwrap(), "<im_start><i><im_end>1 + 1 =");
        assert_eq!(template.stop(), Some("</s>"));
        assert_eq!(PlainTextTemplate::new("").stop(), None);
        assert_eq!(PlainTextTemplate::new("").render(&conversation.up_to(2)).unwrap().text, "<image>1 + 1 = 2");
    }
}
