//! Where the answers lie in a text whose template has no `{% generation %}` blocks.
//!
//! The conversation is rendered a second time with marks around what every message says. If nothing but the marks has
//! changed, they show which bytes each message wrote and which the template did:
//! - An answer begins where the generation prompt for the messages before it ends. Where that prompt is not how the whole
//!   text begins (a template may rewrite earlier turns), its last piece, behind the words of the message before, is
//!   looked for behind the same words in the whole text. Where it is not there, the answer is refused.
//! - It ends with the template's words that follow it whatever comes next: those that are the same in the whole text, in
//!   the text up to the answer, and with another question behind it. White space at their end is not learned.
//!
//! Templates look at what they are given, so that marks may change more than themselves. Then only the answers are
//! marked, or nothing is and only prefixes count.

use super::super::conversation::python_strip;
use super::super::{Message, Role, TextError};
use super::marks::{Mark, Marked, Owner};
use super::{Chat, JinjaTemplate};
use minijinja::Value;
use std::ops::Range;

/// Finds the answers that are learned in `text`, the rendered conversation.
pub(super) fn locate(
    template: &JinjaTemplate,
    chat: &Chat,
    messages: &[Message],
    text: &str,
) -> Result<Vec<Range<usize>>, TextError> {
    let search = Search::new(template, chat, messages, text);
    let mut spans: Vec<Range<usize>> = Vec::new();
    for i in (0..messages.len()).filter(|&i| messages[i].role == Role::Assistant) {
        if messages[i].train {
            let span = search.span(i)?;
            if spans.last().is_some_and(|last| last.end > span.start) {
                return Err(search.refuse(i, "lies inside the answer before it"));
            }
            spans.extend(Some(span).filter(|span| !span.is_empty()));
        }
    }
    Ok(spans)
}

/// The conversation rendered with marks, with the messages that were given: all marked, else the answers alone.
///
/// `None` where either changes more than the marks.
pub(super) fn render_marked(
    template: &JinjaTemplate,
    chat: &Chat,
    messages: &[Message],
    text: &str,
) -> Option<(Vec<Value>, Marked)> {
    let answers = || (0..messages.len()).map(|i| (i, messages[i].role == Role::Assistant));
    let only_answers = || answers().map(|(i, marked)| if marked { &chat.marked[i] } else { &chat.plain[i] }.clone());
    [chat.marked.clone(), only_answers().collect()].into_iter().find_map(|values| {
        let full = template.run(&values, chat, false).ok()?;
        (full.text == text).then_some((values, full))
    })
}

struct Search<'a> {
    template: &'a JinjaTemplate,
    chat: &'a Chat,
    messages: &'a [Message],
    /// The messages with as many marks as leave the text alone.
    values: Vec<Value>,
    full: Marked,
    /// Whether the answers are marked in `full`.
    marked: bool,
}

impl<'a> Search<'a> {
    fn new(template: &'a JinjaTemplate, chat: &'a Chat, messages: &'a [Message], text: &str) -> Self {
        let (values, full, marked) = match render_marked(template, chat, messages, text) {
            Some((values, full)) => (values, full, true),
            None => (chat.plain.clone(), Marked { text: text.to_owned(), marks: Vec::new() }, false),
        };
        Self { template, chat, messages, values, full, marked }
    }

    fn span(&self, i: usize) -> Result<Range<usize>, TextError> {
        let start = self.start(i)?;
        let span = start..self.end(i, start)?;
        let foreign =
            |mark: &&Mark| mark.opens && !mark.is_of(i) && mark.owner != Owner::Block && span.contains(&mark.at);
        if span.start > span.end || self.full.marks.iter().any(|mark| foreign(&mark)) {
            return Err(self.refuse(i, "is not in one piece: another message's words stand in it"));
        }
        self.check_whole(i, &span)?;
        Ok(span)
    }

    /// Where the header of answer `i` ends.
    fn start(&self, i: usize) -> Result<usize, TextError> {
        let full = &self.full;
        let prompt = match self.template.run(&self.values[..i], self.chat, true) {
            Ok(prompt) if full.text.starts_with(&prompt.text) => return Ok(prompt.text.len()),
            Ok(prompt) => prompt,
            // A template may refuse to begin with the assistant.
            Err(error) => return full.first_start(i).ok_or(error),
        };
        self.start_behind(i, &prompt).ok_or_else(|| {
            self.refuse(
                i,
                "has another header in the whole conversation than in a prompt for it, so it cannot be found",
            )
        })
    }

    /// Where the header of answer `i` ends, found behind the words of the message before it.
    fn start_behind(&self, i: usize, prompt: &Marked) -> Option<usize> {
        let before = prompt.marks.iter().rev().find(|mark| !mark.opens)?;
        let nth = prompt.ends(before.owner).count() - 1;
        let from = self.full.ends(before.owner).nth(nth)?;
        let until = self.full.marks.iter().find(|mark| mark.opens && mark.at >= from);
        let written = self.full.text.get(from..until.map_or(self.full.text.len(), |mark| mark.at))?;
        let header = prompt.text.get(before.at..)?;
        // The header proper is what asking for an answer adds.
        let turn = self.template.run(&self.values[..i], self.chat, false).ok()?.text;
        let common = common_prefix(&turn, &prompt.text);
        let turn = whole_markers(&turn[..common], common < turn.len().min(prompt.text.len())).len();
        Some(from + header_in(header, turn.saturating_sub(before.at), written)?)
    }

    /// Where answer `i`, which starts at `start`, ends with its end marker.
    fn end(&self, i: usize, start: usize) -> Result<usize, TextError> {
        let is_last = i + 1 == self.messages.len();
        let upto = if is_last { None } else { self.template.run(&self.values[..=i], self.chat, false).ok() };
        // Only what stands in the text up to it is the answer's: a result may name the function that was called.
        let last = upto.as_ref().unwrap_or(&self.full).last_words(i);
        let lost = || self.refuse(i, "comes out otherwise when nothing follows it, so its end cannot be found");
        let (from, tail) = self.tail(i, &self.full, last, start).ok_or_else(lost)?;
        if is_last {
            let mut values = self.values.clone();
            values.push(self.chat.probe.clone());
            let asked = self.template.run(&values, self.chat, false).unwrap_or_default();
            let marker = self.tail(i, &asked, last, start).map_or(tail, |(_, other)| shared_marker(tail, other));
            // A template may end only the last answer with a marker: without one, nobody learns to stop.
            let marker = if python_strip(marker).is_empty() { shared_marker(tail, tail) } else { marker };
            return Ok(from + marker.len());
        }
        let (_, other) = upto.as_ref().and_then(|upto| self.tail(i, upto, last, start)).ok_or_else(lost)?;
        Ok(from + shared_marker(tail, other).len())
    }

    /// What the template writes behind the `last` words of answer `i`, up to the next message's words.
    fn tail<'b>(
        &self,
        i: usize,
        text: &'b Marked,
        last: Option<(Owner, usize)>,
        start: usize,
    ) -> Option<(usize, &'b str)> {
        let from = match last {
            Some((owner, nth)) => text.ends(owner).nth(nth)?,
            // Nothing of it is marked: what follows the header is all there is to compare.
            None => (text.text.get(..start) == self.full.text.get(..start)).then_some(start)?,
        };
        let next = text.marks.iter().find(|mark| mark.opens && !mark.is_of(i) && mark.at >= from);
        Some((from, text.text.get(from..next.map_or(text.text.len(), |mark| mark.at))?))
    }

    /// Refuses an answer that the template leaves out, in part where the model would have to write it.
    fn check_whole(&self, i: usize, span: &Range<usize>) -> Result<(), TextError> {
        let message = &self.messages[i];
        let words = message.words();
        let said: Vec<&str> = std::iter::once(words.as_str())
            .chain(message.reasoning.as_deref())
            .chain(message.tool_calls.iter().map(|call| call.name.as_str()))
            .filter(|said| !python_strip(said).is_empty())
            .collect();
        // Before the last question, leaving thoughts out is what templates for thinking models do.
        let in_history = self.messages[i..].iter().any(|message| message.role == Role::User);
        if in_history {
            let lost = self.marked && !said.is_empty() && self.full.last_end(i).is_none();
            return if lost { Err(self.refuse(i, "is left out by the template")) } else { Ok(()) };
        }
        let squeeze = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
        // The header counts: a generation prompt may begin the thoughts.
        let foreign = |mark: &&Mark| !mark.opens && !mark.is_of(i) && mark.at <= span.start;
        let turn = self.full.marks.iter().rev().find(foreign).map_or(0, |mark| mark.at);
        let written = squeeze(self.full.text.get(turn..span.end).unwrap_or_default());
        match said.iter().find(|said| !written.contains(&squeeze(said))) {
            None => Ok(()),
            Some(lost) => {
                let start: String = python_strip(lost).chars().take(40).collect();
                Err(self
                    .refuse(i, &format!("is not whole: the template leaves out {start:?}, which would not be learned")))
            }
        }
    }

    fn refuse(&self, i: usize, reason: &str) -> TextError {
        self.template.no_spans(format!("message {} (the assistant's) {reason}", i + 1))
    }
}

/// How many bytes two texts have in common at their beginning, whole characters.
fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(x, y)| x == y).map(|(x, _)| x.len_utf8()).sum()
}

/// Where the generation prompt's last piece, `header`, ends in what the conversation has at its place, `written`. The
/// first `turn` bytes of it end the turn before.
///
/// White space may differ, as a template may write a line break between turns that the prompt leaves out. A prompt may
/// also say more than the conversation does, for example begin the thinking (`<think>`) that history leaves out or ends
/// (`</think>`): behind a part of the header, it goes on with a tag that the conversation has not. `None` where they part otherwise: what follows could
/// be another header, which the model must not learn.
fn header_in(header: &str, turn: usize, written: &str) -> Option<usize> {
    let (mut asked, mut found) = (header, written);
    loop {
        let (x, y) = (asked.trim_start(), found.trim_start());
        let (mut after_x, mut after_y) = (x.chars(), y.chars());
        match (after_x.next(), after_y.next()) {
            // Of the white space behind the header, as much as both have: the answer may begin with some.
            (None, _) | (_, None) => return Some(written.len() - found.len() + common_prefix(asked, found)),
            (Some(a), Some(b)) if a == b => (asked, found) = (after_x.as_str(), after_y.as_str()),
            _ => return parted_at(header, header.len() - x.len(), turn, written, written.len() - y.len()),
        }
    }
}

/// [`header_in`] where the header's bytes from `asked` on are others than those of `written` from `found` on.
fn parted_at(header: &str, asked: usize, turn: usize, written: &str, found: usize) -> Option<usize> {
    let asked = whole_markers(&header[..asked], true).len();
    let found = whole_markers(&written[..found], true).trim_end().len();
    let (part, more, rest) = (header.get(turn..asked)?.trim_end(), &header[asked..], &written[found..]);
    // Where the prompt's tag stands further on, its header ends there, unless that is the end of the answer's thoughts.
    let is_behind = !rest.contains(more.trim()) || more.starts_with("</");
    let is_sure = !part.trim().is_empty() && more.starts_with(['<', '[']) && is_behind;
    is_sure.then(|| found + common_prefix(&header[turn + part.len()..asked], rest))
}

/// The end marker that two continuations of an answer share.
fn shared_marker<'a>(tail: &'a str, other: &str) -> &'a str {
    let common = common_prefix(tail, other);
    end_marker(&tail[..common], common < tail.len() && common < other.len())
}

/// Without the beginning of a marker inside which two texts part (`<|` of `<|user|>` and `<|endoftext|>`).
fn whole_markers(common: &str, parted: bool) -> &str {
    let open = common.rfind(['<', '[']).filter(|&at| parted && !common[at..].contains(['>', ']']));
    &common[..open.unwrap_or(common.len())]
}

/// The end marker in the words that follow every answer, without white space behind it.
fn end_marker(common: &str, parted: bool) -> &str {
    let whole = whole_markers(common, parted);
    let trimmed = whole.trim_end_matches(|c: char| python_strip(c.encode_utf8(&mut [0; 4])).is_empty());
    if trimmed.is_empty() { whole } else { trimmed }
}

#[cfg(test)]
mod tests {
    use super::{header_in, shared_marker};

    #[track_caller]
    fn check(tail: &str, other: &str, expected: &str) {
        assert_eq!(shared_marker(tail, other), expected);
    }

    #[test]
    fn the_end_marker_is_what_every_continuation_has() {
        check("<|im_end|>\n", "<|im_end|>\n", "<|im_end|>");
        check(" </s>", " </s><s>[INST] ", " </s>");
        check(" </s><s>[INST] ", " </s>", " </s>");
        check("<|end|>\n<|endoftext|>", "<|end|>\n<|user|>\n", "<|end|>");
        check("</s>", "<s>[INST] ", "");
        check("\n\n", "\n\nUser: ", "\n\n");
        check("", "\n", "");
    }

    #[test]
    fn a_header_is_found_whatever_white_space_is_in_it_and_no_other_is_taken_for_it() {
        let behind = |turn: &str, header: &str, written: &'static str| {
            header_in(&format!("{turn}{header}"), turn.len(), written).map(|at| &written[at..])
        };
        assert_eq!(behind("<|end|>", "<|a|>\n", "<|end|>\n<|a|>\n"), Some(""));
        assert_eq!(behind("<|end|>\n", "<|a|>", "<|end|><|a|>\n"), Some("\n"));
        assert_eq!(behind("", "<a>\n", "<a>\n\n<think>\n"), Some("\n<think>\n"));
        assert_eq!(behind(" \n", "<a>\n<think>\n", " \n<a>\n"), Some(""));
        assert_eq!(behind("", "<a><think>\n", "<a> "), Some(" "));
        assert_eq!(behind("</s>", "<a><think>\n", "</s><a></think>"), Some("</think>"));
        assert_eq!(behind("</s>", "<a>\n<think>\n", "</s>\n<a>\n\n</s>"), Some("\n</s>"));
        assert_eq!(behind("", "<a><think>\n\n</think>", "<a><think>\nHm.</think>4"), Some("Hm.</think>4"));
        // A word whose mark is lost with the thoughts before it.
        assert_eq!(behind("</s>", "<a><think>\n", "</s><a>\n\n4</s>"), Some("\n\n4</s>"));
        assert_eq!(behind("", "", "<a>"), Some("<a>"));
        for (turn, header, written) in [
            (" \n", "<new>", " \n<old>"),
            ("<|end|>", "<new>", "<|end|><old>"),
            ("<|end|>\n", "<new>", "<|end|><old>"),
            ("<|end|>\n", "<|start|>new", "<|end|>\n<|start|>old"),
            ("", "### Response:\n", "### Answer:\n"),
            ("", "<a>thought\n", "<a>final\n"),
            ("", "Ann: ", "Assistant: "),
            ("", "<a><b>", "<a><c><b>"),
            ("", "A:", "B"),
        ] {
            assert_eq!(behind(turn, header, written), None, "{header:?} {written:?}");
        }
    }
}
