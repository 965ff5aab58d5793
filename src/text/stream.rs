//! Decoding ids that arrive one by one, for a chat on a terminal.

use super::Tokenizer;

/// Ids in front of a stream that are looked at: more than a character has.
const CONTEXT: usize = 8;

/// Turns a stream of ids into text as soon as it is whole.
///
/// Nothing is given out that a later token could still change: half a character, or the space before a word that some
/// decoders strip from the first token they see. Joined, the pieces are [`Tokenizer::decode`] of all ids, where nothing
/// [stands before them](Self::after).
#[derive(Debug, Clone)]
pub struct TextStream {
    tokenizer: Tokenizer,
    ids: Vec<u32>,
    /// Start of the piece that was given out last. It is decoded again as the left context of the next one.
    context: usize,
    /// End of what was given out.
    done: usize,
    /// Special tokens that are text all the same.
    kept: Vec<(u32, String)>,
}

impl TextStream {
    pub(super) fn new(tokenizer: Tokenizer) -> Self {
        Self { tokenizer, ids: Vec::new(), context: 0, done: 0, kept: Vec::new() }
    }

    /// The same stream, in which these of the vocabulary's special tokens are text like others.
    pub fn keeping(mut self, tokens: &[&str]) -> Self {
        let known = tokens.iter().filter_map(|token| Some((self.tokenizer.token_id(token)?, (*token).to_owned())));
        self.kept = known.filter(|(_, text)| self.tokenizer.hides(text)).collect();
        self
    }

    /// The same stream, as what goes on behind these ids: the space in front of its first word is then a part of it.
    pub fn after(mut self, before: &[u32]) -> Self {
        self.ids = before[before.len().saturating_sub(CONTEXT)..].to_vec();
        (self.context, self.done) = (0, self.ids.len());
        self
    }

    /// Takes the next id; returns the text that is complete with it.
    pub fn push(&mut self, id: u32) -> Option<String> {
        if let Some((_, text)) = self.kept.iter().find(|(kept, _)| *kept == id) {
            let text = text.clone();
            let before = self.finish().unwrap_or_default();
            self.ids.push(id);
            // It is no context of what follows: decoded, it would be nothing.
            (self.context, self.done) = (self.ids.len(), self.ids.len());
            return Some(before + &text);
        }
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

/// Watches the answers of a batch for the text that ends a turn, where that is no token of its own.
#[derive(Debug)]
pub struct StopText {
    stop: Option<String>,
    rows: Vec<(TextStream, String)>,
}

impl StopText {
    /// Whether the text that ends a turn is to be looked for: where it is neither empty nor a special token, which no text shows
    /// and which ends generation itself. A stop that is an ordinary token may also be written in other tokens, or inside a longer
    /// one; one of white space, such as a line's end, is a stop as well.
    pub fn is_shown(tokenizer: &Tokenizer, stop: &str) -> bool {
        let word = stop.trim();
        !stop.is_empty() && (word.is_empty() || !tokenizer.hides(word))
    }

    /// Watches `rows` answers for `stop`; for nothing where it is `None`, or [no text shows it](Self::is_shown).
    pub fn new(tokenizer: &Tokenizer, stop: Option<&str>, rows: usize) -> Self {
        let stop = stop.filter(|stop| Self::is_shown(tokenizer, stop)).map(str::to_owned);
        Self { stop, rows: (0..rows).map(|_| (tokenizer.stream(), String::new())).collect() }
    }

    /// Takes the next token of an answer; `false` where the answer has ended.
    pub fn push(&mut self, row: usize, id: u32) -> bool {
        let Some(stop) = &self.stop else { return true };
        let (stream, text) = &mut self.rows[row];
        if let Some(more) = stream.push(id) {
            text.push_str(&more);
        }
        !text.contains(stop.as_str())
    }

    /// An answer up to where the turn ends.
    pub fn cut<'a>(&self, answer: &'a str) -> &'a str {
        match &self.stop {
            Some(stop) => answer.split_once(stop.as_str()).map_or(answer, |(before, _)| before),
            None => answer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn what_goes_on_behind_a_text_keeps_its_space() {
        for name in ["metaspace", "bytelevel"] {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text").join(name);
            let tokenizer = Tokenizer::from_dir(&folder).unwrap();
            let ids =
                |text: &str| -> Vec<u32> { tokenizer.encode(text).unwrap().iter().map(|token| token.id).collect() };
            let whole = ids("The quick cat says so.");
            for cut in 1..whole.len() {
                let (before, behind) = whole.split_at(cut);
                let mut stream = tokenizer.stream().after(before);
                let mut text: String = behind.iter().filter_map(|&id| stream.push(id)).collect();
                text.push_str(&stream.finish().unwrap_or_default());
                assert_eq!(tokenizer.decode(before) + &text, "The quick cat says so.", "{name}: {cut}");
            }
        }
    }
}
