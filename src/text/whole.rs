//! All text is learned, not the answers alone.

use super::{ChatTemplate, Conversation, Rendered, Role, TextError};
use std::ops::Range;

impl ChatTemplate {
    /// The text to train on where all of it is learned: headers and the words of every role, except messages whose
    /// `train` is unset. Of those that precede an answer its header counts as theirs, so that behind a question that is
    /// not learned just the answer is.
    ///
    /// # Errors
    /// As [`Self::render`]; [`TextError::NoSpans`] where an answer that borders on what is not learned leaves no trace.
    pub fn render_all(&self, conversation: &Conversation) -> Result<Rendered, TextError> {
        let messages = &conversation.messages;
        let text = self.render(&learning(conversation, None))?.text;
        let mut spans = Vec::new();
        let mut next = 0;
        for run in messages.chunk_by(|one, other| one.train == other.train) {
            let (first, end) = (next, next + run.len());
            next = end;
            if !run[0].train {
                continue;
            }
            let from = match first {
                0 => 0,
                _ if messages[first].role == Role::Assistant => self.answer(conversation, first)?.start,
                _ => self.shared(conversation, first, &text)?,
            };
            let to = match end {
                _ if end == messages.len() => text.len(),
                _ if messages[end - 1].role == Role::Assistant => self.answer(conversation, end - 1)?.end,
                _ => self.shared(conversation, end, &text)?,
            };
            spans.extend(Some(from..to).filter(|span| !span.is_empty()));
        }
        Ok(Rendered { text, spans })
    }

    /// Where answer `i` lies, its end marker included.
    fn answer(&self, conversation: &Conversation, i: usize) -> Result<Range<usize>, TextError> {
        let spans = self.render(&learning(conversation, Some(i)))?.spans;
        match (spans.first(), spans.last()) {
            (Some(first), Some(last)) => Ok(first.start..last.end),
            _ => Err(TextError::NoSpans {
                template: self.name().to_owned(),
                reason: format!("message {} (the assistant's) comes out empty", i + 1),
            }),
        }
    }

    /// Up to where the text of the first `turns` messages is that of the whole.
    fn shared(&self, conversation: &Conversation, turns: usize, text: &str) -> Result<usize, TextError> {
        let part = self.render(&learning(&conversation.up_to(turns), None))?.text;
        let same = part.char_indices().zip(text.chars()).find(|((_, one), other)| one != other);
        Ok(same.map_or(part.len().min(text.len()), |((at, _), _)| at))
    }
}

/// The conversation with one message learned, or none.
fn learning(conversation: &Conversation, learned: Option<usize>) -> Conversation {
    let mut conversation = conversation.clone();
    conversation.messages.iter_mut().enumerate().for_each(|(i, message)| message.train = Some(i) == learned);
    conversation
}
