//! Characters that nobody wrote, put around what each message says, so that a rendered text shows where it came out.

use super::super::Role;
use super::super::conversation::python_strip;
use serde_json::Value as Json;
use std::collections::{BTreeMap, HashMap, HashSet};

/// Planes 15 and 16 are for private use: 131,068 characters that have no meaning.
fn private_use() -> impl Iterator<Item = char> {
    ('\u{F0000}'..='\u{FFFFD}').chain('\u{100000}'..='\u{10FFFD}')
}

/// Whose words lie between two marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// A piece of the assistant's message with this index, as [`Markers::mark`] counts them.
    Answer(usize, usize),
    /// Any message of another role. They share a pair, so that a template may still find two of them equal.
    Other(Role),
    /// A `{% generation %}` block.
    Block,
}

/// The place of a mark that was taken out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    pub(super) at: usize,
    pub(super) owner: Owner,
    pub(super) opens: bool,
}

/// A rendered text without its marks.
#[derive(Debug, Default)]
pub(super) struct Marked {
    pub(super) text: String,
    pub(super) marks: Vec<Mark>,
}

impl Marked {
    /// The first place where words of answer `i` begin.
    pub(super) fn first_start(&self, i: usize) -> Option<usize> {
        self.marks.iter().find(|mark| mark.opens && mark.is_of(i)).map(|mark| mark.at)
    }

    /// The last place where words of answer `i` end.
    pub(super) fn last_end(&self, i: usize) -> Option<usize> {
        self.marks.iter().rev().find(|mark| !mark.opens && mark.is_of(i)).map(|mark| mark.at)
    }

    /// The last end of words of answer `i`: whose it is, and which of their ends, counted from 0.
    pub(super) fn last_words(&self, i: usize) -> Option<(Owner, usize)> {
        let last = self.marks.iter().rev().find(|mark| !mark.opens && mark.is_of(i))?;
        Some((last.owner, self.ends(last.owner).count() - 1))
    }

    /// Where words of `owner` end, in order.
    pub(super) fn ends(&self, owner: Owner) -> impl Iterator<Item = usize> {
        self.marks.iter().filter(move |mark| !mark.opens && mark.owner == owner).map(|mark| mark.at)
    }
}

impl Mark {
    /// Whether it belongs to answer `i`.
    pub(super) fn is_of(&self, i: usize) -> bool {
        matches!(self.owner, Owner::Answer(j, _) if i == j)
    }
}

/// Pairs of characters that neither the template nor the conversation contains: nobody can forge a mark.
#[derive(Debug)]
pub(super) struct Markers {
    pub(super) block: (char, char),
    others: [(char, char); 3],
    answers: BTreeMap<usize, Vec<(char, char)>>,
    owners: HashMap<char, (Owner, bool)>,
}

impl Markers {
    /// `written`: every text that could come out; `answers`: the indices of the assistant's messages, each with the
    /// number of its pieces.
    ///
    /// `None` where the texts use up nearly all characters for private use.
    pub(super) fn new(written: &[&str], answers: &[(usize, usize)]) -> Option<Self> {
        let private = written.iter().filter(|text| next_private(text, 0).is_some());
        let taken: HashSet<char> = private.flat_map(|text| text.chars()).filter(|&c| c >= '\u{F0000}').collect();
        let mut free = private_use().filter(|c| !taken.contains(c));
        let mut pair = || free.next().zip(free.next());
        let block = pair()?;
        let others = [pair()?, pair()?, pair()?];
        let mut pieces = |count| (0..count).map(|_| pair()).collect::<Option<Vec<_>>>();
        let answers = answers.iter().map(|&(i, n)| Some((i, pieces(n)?))).collect::<Option<BTreeMap<_, _>>>()?;
        let mut owners = HashMap::new();
        let mut own = |(open, close): (char, char), owner| {
            owners.insert(open, (owner, true));
            owners.insert(close, (owner, false));
        };
        own(block, Owner::Block);
        for (pair, role) in others.iter().zip([Role::System, Role::User, Role::Tool]) {
            own(*pair, Owner::Other(role));
        }
        for (&i, pieces) in &answers {
            pieces.iter().enumerate().for_each(|(piece, pair)| own(*pair, Owner::Answer(i, piece)));
        }
        Some(Self { block, others, answers, owners })
    }

    /// Puts marks around what message `index` says: words (piece 0), reasoning (1), names of called functions (2, 3, …).
    pub(super) fn mark(&self, index: usize, role: Role, message: &mut Json) {
        let own = self.answers.get(&index);
        let pair = |piece: usize| match role {
            Role::System => Some(self.others[0]),
            Role::User => Some(self.others[1]),
            Role::Tool => Some(self.others[2]),
            Role::Assistant => own?.get(piece).copied(),
        };
        let Json::Object(fields) = message else { return };
        for (key, field) in fields {
            match (key.as_str(), field) {
                ("content", Json::Array(parts)) => {
                    parts.iter_mut().filter_map(|part| part.get_mut("text")).for_each(|text| wrap(text, pair(0)));
                }
                ("content", text) => wrap(text, pair(0)),
                ("reasoning_content" | "thinking", text) => wrap(text, pair(1)),
                ("tool_calls", Json::Array(calls)) => {
                    let names = calls.iter_mut().map(|call| call.get_mut("function")?.get_mut("name"));
                    for (i, name) in names.enumerate() {
                        name.into_iter().for_each(|name| wrap(name, pair(2 + i)));
                    }
                }
                _ => {}
            }
        }
    }

    /// Takes the marks out of a text.
    pub(super) fn unmark(&self, marked: &str) -> Marked {
        let mut out = Marked { text: String::with_capacity(marked.len()), marks: Vec::new() };
        // Most of a text has no character for private use, so that all up to the next one is taken at once.
        let (mut taken, mut from) = (0, 0);
        while let Some(at) = next_private(marked, from) {
            let Some(c) = marked[at..].chars().next() else { break };
            from = at + c.len_utf8();
            if let Some(&(owner, opens)) = self.owners.get(&c) {
                out.text.push_str(&marked[taken..at]);
                out.marks.push(Mark { at: out.text.len(), owner, opens });
                taken = from;
            }
        }
        out.text.push_str(&marked[taken..]);
        out
    }
}

/// Where, from `from` on, the next character lies that may be of plane 15 or 16.
fn next_private(text: &str, from: usize) -> Option<usize> {
    // U+C0000 and above begin with this byte or a higher one.
    let bytes = &text.as_bytes()[from..];
    bytes.iter().position(|&byte| byte >= 0xF3).map(|at| from + at)
}

/// Marks go inside the white space at both ends, which templates like to trim.
fn wrap(text: &mut Json, pair: Option<(char, char)>) {
    let (Json::String(text), Some((open, close))) = (text, pair) else { return };
    let words = python_strip(text);
    if words.is_empty() {
        return;
    }
    let start = words.as_ptr().addr() - text.as_ptr().addr();
    let end = start + words.len();
    *text = format!("{}{open}{words}{close}{}", &text[..start], &text[end..]);
}
