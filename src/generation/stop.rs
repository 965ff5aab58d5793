//! When an answer ends, and how much of its text may be shown.
//!
//! A stop string may begin in one token and end in another, so text that may be the beginning of one is held back until
//! it is clear what it is: what is shown never contains a part of a stop string. Only the answer is searched, not the
//! prompt.

use std::fmt::Debug;

/// Turns the ids of one answer into text, piece by piece.
///
/// Joined, the pieces are the text of all ids. `text::TextStream` is one, without the tokens that are not text.
pub trait Detokenizer: Debug + Send {
    /// Takes the next id; returns the text that is complete with it.
    fn push(&mut self, id: u32) -> Option<String>;

    /// The text that waited for a token that never came.
    fn finish(&mut self) -> Option<String>;

    /// One in the same state: a beam that parts into two.
    fn fork(&self) -> Box<dyn Detokenizer>;
}

/// Why an answer ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// This stop token came; it is the last of the ids.
    StopToken(u32),
    /// This stop string came; it is not part of the text, but its tokens are part of the ids.
    StopString(String),
    /// The answer has as many tokens as it may.
    Length,
    /// The caller gave it up.
    Cancelled,
}

impl FinishReason {
    /// The word of OpenAI's API: `stop` or `length`; `cancelled` has none there.
    pub fn word(&self) -> &'static str {
        match self {
            Self::StopToken(_) | Self::StopString(_) => "stop",
            Self::Length => "length",
            Self::Cancelled => "cancelled",
        }
    }
}

/// When an answer ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopRules {
    /// Tokens that end it.
    pub ids: Vec<u32>,
    /// Texts that end it; none is empty.
    pub strings: Vec<String>,
    /// Tokens after which it ends anyway.
    pub max_new_tokens: Option<usize>,
    /// Tokens of prompt and answer after which it ends anyway, where `max_new_tokens` is open.
    pub max_length: Option<usize>,
}

impl StopRules {
    /// What transformers generates where nothing says how much.
    pub const DEFAULT_NEW_TOKENS: usize = 20;

    /// Tokens that the answer to a prompt of `prompt` tokens may have.
    pub fn limit(&self, prompt: usize) -> usize {
        match (self.max_new_tokens, self.max_length) {
            (Some(tokens), _) => tokens,
            (None, Some(length)) => length.saturating_sub(prompt),
            (None, None) => Self::DEFAULT_NEW_TOKENS,
        }
    }
}

/// The text of one answer as it grows, up to the first stop string.
#[derive(Debug)]
pub struct Watch {
    detokenizer: Box<dyn Detokenizer>,
    /// What may be shown.
    shown: String,
    /// The end of the text, which may be the beginning of a stop string.
    held: String,
}

impl Clone for Watch {
    fn clone(&self) -> Self {
        Self { detokenizer: self.detokenizer.fork(), shown: self.shown.clone(), held: self.held.clone() }
    }
}

impl Watch {
    /// Watches an answer of which there is nothing yet.
    pub fn new(detokenizer: Box<dyn Detokenizer>) -> Self {
        Self { detokenizer, shown: String::new(), held: String::new() }
    }

    /// Takes the next id. Returns the stop string that is complete with it.
    pub fn push(&mut self, id: u32, strings: &[String]) -> Option<String> {
        let piece = self.detokenizer.push(id)?;
        self.take(&piece, strings)
    }

    /// The answer has ended: nothing is held back any more. Returns the stop string that the last text completes.
    pub fn finish(&mut self, strings: &[String]) -> Option<String> {
        let rest = self.detokenizer.finish().unwrap_or_default();
        let stop = self.take(&rest, strings);
        let held = std::mem::take(&mut self.held);
        if stop.is_none() {
            self.shown.push_str(&held);
        }
        stop
    }

    /// What may be shown so far.
    pub fn text(&self) -> &str {
        &self.shown
    }

    fn take(&mut self, piece: &str, strings: &[String]) -> Option<String> {
        self.held.push_str(piece);
        if let Some((start, stop)) = first_stop(&self.held, strings) {
            self.shown.push_str(&self.held[..start]);
            self.held.clear();
            return Some(stop.to_owned());
        }
        let keep = self.held.len() - possible_start(&self.held, strings);
        self.shown.push_str(&self.held[..keep]);
        self.held.drain(..keep);
        None
    }
}

/// Where the stop string begins that is the first to be complete; of two that end together the longer one. The pieces
/// in which a text comes make no difference.
fn first_stop<'s>(text: &str, strings: &'s [String]) -> Option<(usize, &'s str)> {
    let found = strings.iter().filter_map(|stop| text.find(stop.as_str()).map(|start| (start, stop.as_str())));
    found.min_by_key(|(start, stop)| (start + stop.len(), *start))
}

/// Length of the longest end of `text` with which one of `strings` begins.
fn possible_start(text: &str, strings: &[String]) -> usize {
    let overlap = |stop: &String| {
        let longest = text.len().min(stop.len().saturating_sub(1));
        let fits = |&n: &usize| stop.is_char_boundary(n) && text.ends_with(&stop[..n]);
        (1..=longest).rev().find(fits).unwrap_or(0)
    };
    strings.iter().map(overlap).max().unwrap_or(0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// An id stands for a text; what is no whole character waits.
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Pieces {
        pub(crate) table: Vec<Vec<u8>>,
        waiting: Vec<u8>,
    }

    impl Pieces {
        pub(crate) fn new<T: AsRef<[u8]>>(table: &[T]) -> Self {
            Self { table: table.iter().map(|bytes| bytes.as_ref().to_vec()).collect(), waiting: Vec::new() }
        }
    }

    impl Detokenizer for Pieces {
        fn push(&mut self, id: u32) -> Option<String> {
            self.waiting.extend(&self.table[id as usize]);
            let text = std::str::from_utf8(&self.waiting).ok()?.to_owned();
            self.waiting.clear();
            (!text.is_empty()).then_some(text)
        }

        fn finish(&mut self) -> Option<String> {
            let text = String::from_utf8_lossy(&std::mem::take(&mut self.waiting)).into_owned();
            (!text.is_empty()).then_some(text)
        }

        fn fork(&self) -> Box<dyn Detokenizer> {
            Box::new(self.clone())
        }
    }

    /// Pushes `pieces`; returns what was shown, piece by piece, and the stop string.
    fn run<T: AsRef<[u8]>>(pieces: &[T], strings: &[&str]) -> (Vec<String>, Option<String>) {
        let strings: Vec<String> = strings.iter().map(|s| (*s).to_owned()).collect();
        let mut watch = Watch::new(Box::new(Pieces::new(pieces)));
        let mut shown = Vec::new();
        for id in 0..pieces.len() as u32 {
            let before = watch.text().len();
            let stop = watch.push(id, &strings);
            shown.push(watch.text()[before..].to_owned());
            if stop.is_some() {
                return (shown, stop);
            }
        }
        let before = watch.text().len();
        let stop = watch.finish(&strings);
        shown.push(watch.text()[before..].to_owned());
        (shown, stop)
    }

    #[test]
    fn no_part_of_a_stop_string_is_shown() {
        let (shown, stop) = run(&["Hi", "#", "#", "#", " there"], &["###"]);
        assert_eq!((shown.concat().as_str(), stop.as_deref()), ("Hi", Some("###")));
        assert_eq!(shown, ["Hi", "", "", ""]);
    }

    #[test]
    fn what_turns_out_to_be_no_stop_string_is_shown() {
        let (shown, stop) = run(&["a#", "#b", "##"], &["###"]);
        assert_eq!(shown, ["a", "##b", "", "##"]);
        assert_eq!(stop, None);
    }

    #[test]
    fn a_stop_string_inside_one_token_cuts_it() {
        let (shown, stop) = run(&["one", "two\n\nthree"], &["\n\n"]);
        assert_eq!(shown, ["one", "two"]);
        assert_eq!(stop.as_deref(), Some("\n\n"));
    }

    #[test]
    fn the_first_complete_stop_string_counts() {
        // "bc" is complete before "abcd" is, in one piece as in four.
        for pieces in [vec!["xabcd"], vec!["x", "a", "b", "c", "d"]] {
            let (shown, stop) = run(&pieces, &["abcd", "bc"]);
            assert_eq!((shown.concat().as_str(), stop.as_deref()), ("xa", Some("bc")));
        }
        // Of two that end together the longer one is cut off whole.
        let (shown, stop) = run(&["xab", "c"], &["bc", "abc"]);
        assert_eq!((shown.concat().as_str(), stop.as_deref()), ("x", Some("abc")));
    }

    #[test]
    fn half_characters_wait() {
        let euro = "€".as_bytes();
        let (shown, stop) = run(&[b"5 ", &euro[..1], &euro[1..], b"!"], &["€!"]);
        assert_eq!((shown.concat().as_str(), stop.as_deref()), ("5 ", Some("€!")));
        let (shown, _) = run(&[b"5 ", &euro[..2]], &["x"]);
        assert_eq!(shown.concat(), "5 \u{fffd}");
    }

    #[test]
    fn lengths() {
        let rules = |max_new_tokens, max_length| StopRules { max_new_tokens, max_length, ..StopRules::default() };
        assert_eq!(rules(None, None).limit(7), 20);
        assert_eq!(rules(None, Some(10)).limit(7), 3);
        assert_eq!(rules(None, Some(10)).limit(12), 0);
        assert_eq!(rules(Some(5), Some(10)).limit(7), 5);
    }

    proptest::proptest! {
        /// Cut into any pieces, a text stops at the same place, and nothing is lost or shown too early.
        #[test]
        fn pieces_make_no_difference(
            letters in proptest::collection::vec(0_usize..4, 0..40),
            cuts in proptest::collection::vec(1_usize..5, 40),
            stops in proptest::collection::vec("[abé]{1,4}", 0..3),
        ) {
            let alphabet = ["a", "b", "é", "c"];
            let text: String = letters.iter().map(|&i| alphabet[i]).collect();
            let mut pieces: Vec<Vec<u8>> = Vec::new();
            let mut rest = text.as_bytes();
            for &cut in &cuts {
                let (piece, more) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece.to_vec());
                rest = more;
            }
            pieces.push(rest.to_vec());
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let (shown, stop) = run(&pieces, &stops);
            // By letters: the first place where some stop string is complete.
            let ends = text.char_indices().map(|(i, c)| i + c.len_utf8());
            let mut expected = (text.as_str(), None);
            for end in ends {
                let hit = stops.iter().filter(|s| text[..end].ends_with(**s)).max_by_key(|s| s.len());
                if let Some(hit) = hit {
                    expected = (&text[..end - hit.len()], Some((*hit).to_owned()));
                    break;
                }
            }
            proptest::prop_assert_eq!(shown.concat(), expected.0);
            proptest::prop_assert_eq!(stop, expected.1);
            let mut so_far = String::new();
            for piece in shown {
                so_far.push_str(&piece);
                proptest::prop_assert!(expected.0.starts_with(&so_far));
            }
        }
    }
}
