//! An answer that may call tools, parted into its words and its calls, whole or as it comes.

use super::{ToolCall, parse_tool_calls};

const HERMES: (&str, &str) = ("<tool_call>", "</tool_call>");
const MISTRAL: &str = "[TOOL_CALLS]";
const LLAMA: &str = "<|python_tag|>";

/// Parts an answer as it comes: words are given out as soon as they can be no part of a call.
///
/// The words given out, joined, are what [`split`](Self::split) says of the whole text.
#[derive(Clone, Debug)]
pub struct ToolText {
    names: Vec<String>,
    text: String,
    /// Bytes of the words that were given out.
    given: usize,
}

impl ToolText {
    /// Tokens that mark calls, and that some vocabularies leave out of texts as special ones.
    pub const MARKS: &[&str] = &[HERMES.0, HERMES.1, MISTRAL, "[ARGS]", "[CALL_ID]", LLAMA];

    /// For an answer that may call the functions of these names.
    pub fn new(names: &[String]) -> Self {
        Self { names: names.to_vec(), text: String::new(), given: 0 }
    }

    /// Takes more of the answer; returns the words that can be given out.
    pub fn push(&mut self, piece: &str) -> String {
        self.text.push_str(piece);
        let end = words_end(&self.text);
        let more = self.text.get(self.given..end).unwrap_or_default().to_owned();
        self.given = self.given.max(end);
        more
    }

    /// The answer has ended: the rest of its words, and its calls.
    pub fn finish(&mut self) -> (String, Vec<ToolCall>) {
        let (words, calls) = Self::split(&self.text, &self.names);
        let rest = words.get(self.given..).unwrap_or_default().to_owned();
        self.given = self.given.max(words.len());
        (rest, calls)
    }

    /// The words of a whole answer, and its calls, as [`parse_tool_calls`] reads them. All of it is words where a call cannot be read,
    /// and where a call that no mark announces is none of the functions `names`: then it is an answer in JSON.
    pub fn split(text: &str, names: &[String]) -> (String, Vec<ToolCall>) {
        let Ok(calls) = parse_tool_calls(text) else { return (text.to_owned(), Vec::new()) };
        let words = match (text.split_once(HERMES.0), text.split_once(MISTRAL)) {
            (Some((before, rest)), _) => {
                let mut words = before.to_owned();
                for part in rest.split(HERMES.0) {
                    let behind = part.split_once(HERMES.1).map_or("", |(_, behind)| behind);
                    if !behind.trim().is_empty() {
                        words.push_str(behind);
                    }
                }
                words
            }
            (None, Some((before, _))) => before.to_owned(),
            (None, None) => {
                let announced = text.trim_start().starts_with(LLAMA);
                if !announced && calls.iter().any(|call| !names.contains(&call.name)) {
                    return (text.to_owned(), Vec::new());
                }
                String::new()
            }
        };
        (if words.trim().is_empty() { String::new() } else { words }, calls)
    }
}

/// Where the words end that stay words whatever follows.
fn words_end(text: &str) -> usize {
    let start = text.trim_start();
    if start.is_empty() || start.starts_with(['{', '[']) || start.starts_with(LLAMA) || LLAMA.starts_with(start) {
        return 0;
    }
    let marks = [HERMES.0, MISTRAL];
    let whole = marks.iter().filter_map(|mark| text.find(mark)).min();
    let begun = |mark: &&str| (1..mark.len()).rev().find(|&n| text.ends_with(&mark[..n])).unwrap_or(0);
    let end = whole.unwrap_or_else(|| text.len() - marks.iter().map(begun).max().unwrap_or(0));
    if text[..end].trim().is_empty() { 0 } else { end }
}
