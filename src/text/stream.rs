//! Decoding ids that arrive one by one, for a chat on a terminal.

use super::Tokenizer;

/// Turns a stream of ids into text as soon as it is whole.
///
/// Nothing is given out that a later token could still change: half a character, or the space before a word that some
/// decoders strip from the first token they see. Joined, the pieces are [`Tokenizer::decode`] of all ids.
#[derive(Debug, Clone)]
pub struct TextStream {
    tokenizer: Tokenizer,
    ids: Vec<u32>,
    /// Start of the piece that was given out last. It is decoded again as the left context of the next one.
    context: usize,
    /// End of what was given out.
    done: usize,
}

impl TextStream {
    pub(super) fn new(tokenizer: Tokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), context: 0, done: 0 }
    }

    /// Takes the next id; returns the text that is complete with it.
    pub fn push(&mut self, id: u32) -> Option<String> {
        self.ids.push(id);
        let text = self.pending();
        // U+FFFD at the end is half a character: the rest comes with the next tokens.
        if text.is_empty() || text.ends_with(char::REPLACEMENT_CHARACTER) {
            return None;
        }
        self.context = self.done;
        self.done = self.ids.len();
        Some(text)
    }

    /// The text that waited for a token that never came.
    pub fn finish(&mut self) -> Option<String> {
        let text = self.pending();
        self.context = self.done;
        self.done = self.ids.len();
        (!text.is_empty()).then_some(text)
    }

    fn pending(&self) -> String {
        let given = self.tokenizer.decode(&self.ids[self.context..self.done]);
        let with_new = self.tokenizer.decode(&self.ids[self.context..]);
        match with_new.strip_prefix(&given) {
            Some(text) => text.to_owned(),
            // Bytes that are no character spoil the run they are in when it is decoded as a whole.
            None => self.tokenizer.decode(&self.ids[self.done..]),
        }
    }
}
