//! An answer in steps: where in the text each of them ends, and which token that is.

use super::conversation::python_strip;
use super::supervision::{assemble, tokens_of};
use super::{ChatTemplate, Conversation, EncodedText, ImageTokens, Part, Role, TextError, Tokenizer};

/// A rendered conversation that ends with an answer in steps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stepped {
    /// The text, one marker per image.
    pub text: String,
    /// Where the answer's words begin.
    pub start: usize,
    /// One past the last byte of each step, in order.
    pub ends: Vec<usize>,
}

impl ChatTemplate {
    /// The text of a conversation whose last message is the assistant's and has a text part for each step. White space that
    /// the template trims from the answer's ends is missing from the first or the last step.
    ///
    /// # Errors
    /// As [`Self::render`]; [`TextError::Steps`] where a step is empty, or the template changes the answer's words.
    pub fn render_steps(&self, conversation: &Conversation) -> Result<Stepped, TextError> {
        let mut joined = conversation.clone();
        joined.messages.iter_mut().for_each(|message| message.train = false);
        let last = joined.messages.last_mut().filter(|last| last.role == Role::Assistant);
        let Some(last) = last else { return Err(steps("the last message is not the assistant's")) };
        let mut words = String::new();
        let mut ends = Vec::new();
        for (i, part) in last.content.iter().enumerate() {
            match part {
                Part::Text(text) if !text.is_empty() => words.push_str(text),
                Part::Text(_) => return Err(steps(format!("step {} is empty", i + 1))),
                Part::Image => return Err(steps(format!("an image stands where step {} was due", i + 1))),
            }
            ends.push(words.len());
        }
        // One part, so that a template for typed parts writes nothing between the steps.
        last.content = vec![Part::Text(words.clone())];
        last.train = true;
        let rendered = self.render(&joined)?;
        let (from, to) = match (rendered.spans.first(), rendered.spans.last()) {
            (Some(first), Some(last)) => (first.start, last.end),
            _ => return Err(steps("the template leaves the answer out")),
        };
        let written = rendered.text.get(from..to).unwrap_or_default();
        let kept = if written.contains(&words) { words.as_str() } else { python_strip(&words) };
        let Some(at) = written.find(kept).filter(|_| !kept.is_empty()) else {
            return Err(steps("the template changes the answer's words, so that they cannot be found"));
        };
        let lost = words.find(kept).unwrap_or(0);
        let start = from + at;
        let ends = ends.into_iter().map(|end| start + end.saturating_sub(lost).min(kept.len())).collect();
        Ok(Stepped { text: rendered.text, start, ends })
    }
}

/// Encodes a text in steps as [`encode_rendered`](super::encode_rendered) does. Supervised is of each step one token, the
/// last one that begins in it. (It may reach into the next step; all of this step has then been read.)
///
/// # Errors
/// As [`encode_rendered`](super::encode_rendered); [`TextError::Steps`] where two steps end in one token, or one has
/// none.
pub fn encode_steps(tokenizer: &Tokenizer, stepped: &Stepped, image: &ImageTokens) -> Result<EncodedText, TextError> {
    let tokens = tokens_of(tokenizer, &stepped.text, image)?;
    let mut at = Vec::with_capacity(stepped.ends.len());
    let starts = std::iter::once(stepped.start).chain(stepped.ends.iter().copied());
    for (i, (start, &end)) in starts.zip(&stepped.ends).enumerate() {
        // A tokenizer may drop white space at a step's end. Tokens that are bytes of one character share its range.
        let last = tokens.iter().rposition(|token| token.start < end && token.start < token.end);
        let last = last.filter(|&last| tokens[last].end > start);
        let last = last.ok_or_else(|| steps(format!("step {} has no token", i + 1)))?;
        if at.last() == Some(&last) {
            return Err(steps(format!(
                "steps {i} and {} end in one token; put a separator between them that is a token of its own",
                i + 1
            )));
        }
        at.push(last);
    }
    assemble(tokenizer, &stepped.text, &tokens, image, |i, _| at.binary_search(&i).is_ok())
}

fn steps(reason: impl Into<String>) -> TextError {
    TextError::Steps { reason: reason.into() }
}
