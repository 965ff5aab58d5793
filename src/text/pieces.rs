//! Words that were met before need not be tokenized again.
//!
//! A text is cut in front of each space that follows something else. Tokenizers whose tokens never reach over such a cut
//! give each piece the same tokens wherever it stands, so that the tokens of frequent pieces are kept. Which tokenizers
//! these are is read off their parts (`may_be_cut`); with all others a text is tokenized as a whole.
//!
//! - Byte-level ones whose pattern is GPT-2's, Llama 3's or Qwen's: a space is the first character of a match there or
//!   among white space alone, nothing is looked at behind a match, and the white space in front of the cut is none.
//! - Metaspace ones that split at spaces, or in whose vocabulary `▁` never follows another character: no merge then joins
//!   what lies on both sides. Each byte must have a token, or what is unknown on both sides might be fused.
//!
//! In front of a piece that begins with a space none is added, so that a piece does not depend on being first, either.
//!
//! Another cut is in front of added tokens, which are taken out of a text before all else: where none of them can begin
//! inside another one, those that are found from left to right are all that there are.

use super::{TextError, Token};
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use tokenizers::{ModelWrapper, Tokenizer as Backend};

/// Longer pieces are rarely met again.
const LONGEST: usize = 48;
/// Threads that look for different pieces rarely wait for each other.
const SHARDS: usize = 64;
/// Pieces that a shard keeps at most: about 15 MB in all.
const PIECES_PER_SHARD: usize = 1024;

/// Patterns of byte-level tokenizers that may be cut: Llama 3's and Qwen's. GPT-2's is built in.
const PATTERNS: [&str; 2] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];

/// The tokens of pieces, their offsets counted from the piece. Shared by the clones of a tokenizer.
#[derive(Clone)]
pub(super) struct Pieces {
    shards: Arc<[RwLock<Shard>]>,
    hasher: RandomState,
    added: Arc<Added>,
}

/// The added tokens that a text may be cut in front of.
#[derive(Default)]
struct Added {
    /// The byte that they all begin with, and that none has elsewhere.
    first: u8,
    tokens: Vec<String>,
}

impl Added {
    /// None where they begin in several ways, or could overlap.
    fn of(backend: &Backend) -> Self {
        let added = backend.get_added_vocabulary().get_added_tokens_decoder().values();
        let tokens: Vec<String> = added.map(|token| token.content.clone()).filter(|text| !text.is_empty()).collect();
        let Some(&first) = tokens.first().and_then(|text| text.as_bytes().first()) else { return Self::default() };
        let once =
            |text: &String| text.as_bytes()[0] == first && text.bytes().filter(|&byte| byte == first).count() == 1;
        // A normalizer might make such a token of other characters, or take it for another.
        let sure = first.is_ascii_punctuation() && backend.get_normalizer().is_none() && tokens.iter().all(once);
        if sure { Self { first, tokens } } else { Self::default() }
    }

    fn begins(&self, text: &str) -> bool {
        self.tokens.iter().any(|token| text.starts_with(token.as_str()))
    }
}

type Shard = HashMap<u64, Known, BuildHasherDefault<Hashed>>;

/// A piece that was met.
struct Known {
    text: Box<str>,
    tokens: Box<[Token]>,
    /// Whether it was met again since the shard was last full.
    again: AtomicBool,
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pieces")
    }
}

/// The hash of what is a hash already.
#[derive(Default)]
struct Hashed(u64);

impl Hasher for Hashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.0 = self.0.rotate_left(8) ^ u64::from(byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

impl Pieces {
    /// `None` for a tokenizer whose texts must not be cut.
    pub(super) fn of(backend: &Backend) -> Option<Self> {
        let empty = || (0..SHARDS).map(|_| RwLock::default()).collect();
        may_be_cut(backend).then(|| Self {
            shards: empty(),
            hasher: RandomState::new(),
            added: Arc::new(Added::of(backend)),
        })
    }

    /// The tokens of a text.
    pub(super) fn encode(&self, backend: &Backend, text: &str) -> Result<Vec<Token>, TextError> {
        let mut tokens = Vec::with_capacity(text.len() / 3);
        let mut unknown: Vec<Range<usize>> = Vec::new();
        let mut from = 0;
        while from < text.len() {
            let piece = from..self.next_cut(text, from);
            from = piece.end;
            let known = self.with(&text[piece.clone()], |known| {
                // Pieces in front of it come first, and are tokenized in one go.
                if unknown.is_empty() {
                    extend(&mut tokens, known, piece.start);
                    return None;
                }
                Some(known.to_vec())
            });
            match known {
                Some(None) => {}
                Some(Some(known)) => {
                    self.learn(backend, text, &mut unknown, &mut tokens)?;
                    extend(&mut tokens, &known, piece.start);
                }
                None => unknown.push(piece),
            }
        }
        self.learn(backend, text, &mut unknown, &mut tokens)?;
        Ok(tokens)
    }

    /// Where the piece that begins at `from` ends: in front of a space that follows neither white space nor `▁`, or of an
    /// added token.
    fn next_cut(&self, text: &str, from: usize) -> usize {
        let first = self.added.first;
        let may_be_cut = |byte: &u8| *byte == b' ' || (*byte == first && !self.added.tokens.is_empty());
        let mut at = from + 1;
        while let Some(next) = text.as_bytes().get(at..).and_then(|rest| rest.iter().position(may_be_cut)) {
            at += next;
            let found = match text.as_bytes()[at] {
                b' ' => text[from..at].chars().next_back().is_some_and(|c| !c.is_whitespace() && c != '▁'),
                _ => self.added.begins(&text[at..]),
            };
            if found {
                return at;
            }
            at += 1;
        }
        text.len()
    }

    /// Pieces that are kept at most.
    #[cfg(test)]
    pub(super) const MOST: usize = SHARDS * PIECES_PER_SHARD;

    /// Pieces that are kept.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.read().map_or(0, |shard| shard.len())).sum()
    }

    fn shard(&self, hash: u64) -> &RwLock<Shard> {
        // The low bits choose a place within the shard.
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    /// What is done with the tokens of a piece; `None` where they are not known.
    fn with<T>(&self, piece: &str, then: impl FnOnce(&[Token]) -> T) -> Option<T> {
        if piece.len() > LONGEST {
            return None;
        }
        let hash = self.hasher.hash_one(piece);
        let shard = self.shard(hash).read().ok()?;
        let known = shard.get(&hash).filter(|known| *known.text == *piece)?;
        if !known.again.load(Ordering::Relaxed) {
            known.again.store(true, Ordering::Relaxed);
        }
        Some(then(&known.tokens))
    }

    /// Tokenizes pieces that follow each other and keeps their tokens.
    fn learn(
        &self,
        backend: &Backend,
        text: &str,
        pieces: &mut Vec<Range<usize>>,
        tokens: &mut Vec<Token>,
    ) -> Result<(), TextError> {
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else { return Ok(()) };
        let start = first.start;
        let new = whole(backend, &text[start..last.end])?;
        extend(tokens, &new, start);
        let mut rest = new.as_slice();
        for piece in pieces.drain(..) {
            let (own, others) = rest.split_at(rest.partition_point(|token| start + token.start < piece.end));
            rest = others;
            self.keep(&text[piece.clone()], own, piece.start - start);
        }
        Ok(())
    }

    /// `offset`: where the piece begins, as the tokens count.
    fn keep(&self, piece: &str, tokens: &[Token], offset: usize) {
        if piece.len() > LONGEST {
            return;
        }
        let hash = self.hasher.hash_one(piece);
        // Whoever panicked with the lock left a whole table behind, but nothing hangs on what is kept.
        let Ok(mut shard) = self.shard(hash).write() else { return };
        if shard.len() >= PIECES_PER_SHARD {
            shard.retain(|_, known| std::mem::take(known.again.get_mut()));
            if shard.len() > PIECES_PER_SHARD / 2 {
                shard.clear();
            }
        }
        let moved = |token: &Token| Token { id: token.id, start: token.start - offset, end: token.end - offset };
        let tokens = tokens.iter().map(moved).collect();
        shard.insert(hash, Known { text: piece.into(), tokens, again: AtomicBool::new(false) });
    }
}

/// The tokens of a text as the backend has them.
pub(super) fn whole(backend: &Backend, text: &str) -> Result<Vec<Token>, TextError> {
    let encoding = backend.encode(text, false).map_err(|error| TextError::Tokenize(error.to_string()))?;
    let tokens = encoding.get_ids().iter().zip(encoding.get_offsets());
    Ok(tokens.map(|(&id, &(start, end))| Token { id, start, end }).collect())
}

fn extend(tokens: &mut Vec<Token>, piece: &[Token], offset: usize) {
    tokens.extend(piece.iter().map(|token| Token {
        id: token.id,
        start: token.start + offset,
        end: token.end + offset,
    }));
}

fn may_be_cut(backend: &Backend) -> bool {
    let ModelWrapper::BPE(model) = backend.get_model() else { return false };
    let plain = model.dropout.is_none()
        && model.continuing_subword_prefix.is_none()
        && model.end_of_word_suffix.is_none()
        && !backend.get_encode_special_tokens()
        && backend.get_post_processor().is_none();
    let mut added = backend.get_added_vocabulary().get_added_tokens_decoder().values();
    let added_are_words = added.all(|token| {
        let reaches = token.lstrip || token.rstrip || token.single_word;
        !reaches && !token.content.chars().any(char::is_whitespace)
    });
    let json = |part: serde_json::Result<serde_json::Value>| part.unwrap_or_default();
    let normalizer = json(serde_json::to_value(backend.get_normalizer()));
    // Composing characters takes none away that is followed by a space, and a space joins none before it.
    let composes = normalizer.is_null() || normalizer["type"] == "NFC";
    let pre_tokenizer = json(serde_json::to_value(backend.get_pre_tokenizer()));
    let tokens_end_there = match pre_tokenizer["type"].as_str() {
        Some("ByteLevel") => pre_tokenizer["add_prefix_space"] == false && pre_tokenizer["use_regex"] == true,
        Some("Sequence") => is_known_sequence(&pre_tokenizer["pretokenizers"]),
        Some("Metaspace") if pre_tokenizer["replacement"] == "▁" && normalizer.is_null() => {
            model.byte_fallback
                && (0..=255u8).all(|byte| backend.token_to_id(&format!("<{byte:#04X}>")).is_some())
                && (pre_tokenizer["split"] == true || (!model.ignore_merges && !joins_words(backend)))
        }
        _ => false,
    };
    plain && added_are_words && composes && tokens_end_there
}

/// A pattern that is known, then bytes as characters.
fn is_known_sequence(parts: &serde_json::Value) -> bool {
    let Some([split, bytes]) = parts.as_array().map(Vec::as_slice) else { return false };
    split["type"] == "Split"
        && split["behavior"] == "Isolated"
        && split["invert"] == false
        && split["pattern"]["Regex"].as_str().is_some_and(|pattern| PATTERNS.contains(&pattern))
        && bytes["type"] == "ByteLevel"
        && bytes["add_prefix_space"] == false
        && bytes["use_regex"] == false
}

/// Whether a token of the vocabulary has `▁` behind another character.
fn joins_words(backend: &Backend) -> bool {
    backend.get_vocab(false).keys().any(|token| token.trim_start_matches('▁').contains('▁'))
}
