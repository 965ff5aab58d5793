//! The file format: protobuf messages `ModelProto`, `SentencePiece`, `TrainerSpec` and `NormalizerSpec`.
//!
//! Eight fields of four messages are read. A reader made for just these needs no dependency, names the byte and the
//! piece at fault, and stops at its limits while it reads, whereas a general decoder first fills memory.
//!
//! # Source
//! `sentencepiece_model.proto` of SentencePiece 0.2.1 for the field numbers and defaults.

use std::collections::HashSet;

/// Larger files are refused. The largest vocabularies in use (a million pieces) take about 25 MB.
pub(super) const MAX_FILE: usize = 32 << 20;
/// More pieces are refused.
const MAX_PIECES: usize = 2_000_000;
/// A longer piece is refused, in bytes.
const MAX_PIECE: usize = 4096;
/// More text in all pieces together is refused, in bytes: the models hold some 100 bytes for each.
const MAX_TEXT: usize = 16 << 20;

/// What a `tokenizer.model` says, as far as a conversion needs it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Model {
    pub(super) algorithm: Algorithm,
    /// In the order of their ids. Never empty; no piece is empty or there twice.
    pub(super) pieces: Vec<Piece>,
    /// The normalizer's table, as in the file; empty where text is not normalized.
    pub(super) charsmap: Vec<u8>,
}

/// How text becomes pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    Unigram,
    Bpe,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub(super) text: String,
    /// Log-probability (Unigram) or minus the rank (BPE).
    pub(super) score: f32,
    pub(super) kind: PieceKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PieceKind {
    /// Normal, unknown, unused and byte pieces: a conversion treats them alike.
    Plain,
    /// `<s>` and the like: no text becomes one.
    Control,
    /// Never split, and found in the raw text.
    UserDefined,
}

impl Model {
    /// Reads a whole file.
    ///
    /// # Errors
    /// What is wrong, with the byte or the piece.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, String> {
        if let Some(what) = something_else(bytes) {
            return Err(what.to_owned());
        }
        if bytes.len() > MAX_FILE {
            return Err(format!("a file of more than {MAX_FILE} bytes, which no SentencePiece model has"));
        }
        let damaged = |reason| format!("{reason}; the file is damaged or no SentencePiece model, fetch it again");
        let mut raw = RawModel::default();
        raw.read(bytes).map_err(damaged)?;
        let algorithm = match raw.model_type {
            1 => Algorithm::Unigram,
            2 => Algorithm::Bpe,
            3 => {
                return Err(
                    "its model type is WORD, which transformers has no tokenizer for; use BPE or Unigram".into()
                );
            }
            4 => {
                return Err(
                    "its model type is CHAR, which transformers has no tokenizer for; use BPE or Unigram".into()
                );
            }
            other => return Err(damaged(format!("model type {other}, where 1 is Unigram and 2 is BPE"))),
        };
        check(&raw.pieces).map_err(damaged)?;
        Ok(Self { algorithm, pieces: raw.pieces, charsmap: raw.charsmap })
    }
}

/// Other things that are found under the name of a SentencePiece model.
fn something_else(bytes: &[u8]) -> Option<&'static str> {
    if bytes.is_empty() {
        return Some("the file is empty; fetch it again");
    }
    if bytes.starts_with(b"version https://git-lfs") {
        return Some(
            "this is a Git LFS pointer, not the file it stands for; run `git lfs pull` in the checkpoint's folder",
        );
    }
    // Each line of a tiktoken vocabulary is `base64 rank`.
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    let (token, rank) = line.iter().position(|&b| b == b' ').map(|at| line.split_at(at))?;
    let base64 = |b: &u8| b.is_ascii_alphanumeric() || b"+/=".contains(b);
    let digits = rank.len() > 1 && rank[1..].trim_ascii_end().iter().all(u8::is_ascii_digit);
    (!token.is_empty() && token.iter().all(base64) && digits).then_some(
        "this is a tiktoken vocabulary, not a SentencePiece model; load the folder with transformers' AutoTokenizer and \
         save it to get a tokenizer.json",
    )
}

/// What SentencePiece itself refuses, and numbers that no model can be made with.
fn check(pieces: &[Piece]) -> Result<(), String> {
    if pieces.is_empty() {
        return Err("it has no pieces".into());
    }
    let mut seen = HashSet::with_capacity(pieces.len());
    for (id, piece) in pieces.iter().enumerate() {
        if !seen.insert(piece.text.as_str()) {
            return Err(format!("piece {id} {:?} is there twice", piece.text));
        }
        if !piece.score.is_finite() {
            return Err(format!("piece {id} {:?} has the score {}", piece.text, piece.score));
        }
    }
    Ok(())
}

/// The messages with protobuf's defaults.
struct RawModel {
    pieces: Vec<Piece>,
    text: usize,
    model_type: i32,
    charsmap: Vec<u8>,
}

impl Default for RawModel {
    fn default() -> Self {
        Self { pieces: Vec::new(), text: 0, model_type: 1, charsmap: Vec::new() }
    }
}

impl RawModel {
    fn read(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut fields = Fields { bytes, at: 0, origin: 0 };
        while let Some((number, value)) = fields.next()? {
            match (number, value) {
                (1, Value::Bytes(origin, bytes)) => self.piece(Fields { bytes, at: 0, origin })?,
                (2, Value::Bytes(origin, bytes)) => self.trainer(Fields { bytes, at: 0, origin })?,
                (3, Value::Bytes(origin, bytes)) => self.normalizer(Fields { bytes, at: 0, origin })?,
                _ => {}
            }
        }
        Ok(())
    }

    fn piece(&mut self, mut fields: Fields) -> Result<(), String> {
        let id = self.pieces.len();
        if id == MAX_PIECES {
            return Err(format!("more than {MAX_PIECES} pieces"));
        }
        let mut text: &[u8] = &[];
        let (mut score, mut kind) = (0.0, PieceKind::Plain);
        while let Some((number, value)) = fields.next().map_err(|e| format!("piece {id}: {e}"))? {
            match (number, value) {
                (1, Value::Bytes(_, bytes)) => text = bytes,
                (2, Value::Fixed32(bits)) => score = f32::from_bits(bits),
                (3, Value::Varint(3)) => kind = PieceKind::Control,
                (3, Value::Varint(4)) => kind = PieceKind::UserDefined,
                (3, Value::Varint(1 | 2 | 5 | 6)) => kind = PieceKind::Plain,
                (3, Value::Varint(other)) => return Err(format!("piece {id}: unknown type {other}")),
                _ => {}
            }
        }
        self.text += text.len();
        if text.is_empty() || text.len() > MAX_PIECE || self.text > MAX_TEXT {
            let limits = format!("a piece has 1 to {MAX_PIECE} bytes, all together {MAX_TEXT}");
            return Err(format!("piece {id} has {} bytes, all so far {}; {limits}", text.len(), self.text));
        }
        let text = std::str::from_utf8(text).map_err(|e| format!("piece {id} is not UTF-8: {e}"))?.to_owned();
        self.pieces.push(Piece { text, score, kind });
        Ok(())
    }

    fn trainer(&mut self, mut fields: Fields) -> Result<(), String> {
        while let Some((number, value)) = fields.next()? {
            if let (3, Value::Varint(model_type)) = (number, value) {
                // An enum is an int32; protobuf drops the upper half.
                self.model_type = model_type as i32;
            }
        }
        Ok(())
    }

    fn normalizer(&mut self, mut fields: Fields) -> Result<(), String> {
        while let Some((number, value)) = fields.next()? {
            if let (2, Value::Bytes(_, bytes)) = (number, value) {
                self.charsmap = bytes.to_vec();
            }
        }
        Ok(())
    }
}

/// The fields of one message, in the order of the file.
struct Fields<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the message begins in the file.
    origin: usize,
}

enum Value<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64,
    /// With the place in the file.
    Bytes(usize, &'a [u8]),
}

impl<'a> Fields<'a> {
    fn next(&mut self) -> Result<Option<(u32, Value<'a>)>, String> {
        if self.at == self.bytes.len() {
            return Ok(None);
        }
        let start = self.origin + self.at;
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).ok().filter(|number| (1..1 << 29).contains(number));
        let number = number.ok_or_else(|| format!("byte {start}: field number {}", tag >> 3))?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => self.take(8).map(|_| Value::Fixed64)?,
            2 => {
                let length = self.varint()?;
                let origin = self.origin + self.at;
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                Value::Bytes(origin, self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Value::Fixed32(bytes.iter().rev().fold(0, |bits, &b| bits << 8 | u32::from(b)))
            }
            wire => return Err(format!("byte {start}: wire type {wire}, which these messages do not have")),
        };
        Ok(Some((number, value)))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let left = self.bytes.len() - self.at;
        if length > left {
            return Err(format!("byte {}: {length} bytes announced, {left} left", self.origin + self.at));
        }
        let taken = &self.bytes[self.at..self.at + length];
        self.at += length;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, String> {
        let start = self.origin + self.at;
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            // The tenth byte has one bit left; protobuf drops the others.
            value |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(format!("byte {start}: a number longer than ten bytes"))
    }
}
