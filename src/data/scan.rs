//! Finds where the records of a file begin and end without reading their values.
//!
//! One pass over the bytes that knows strings, escapes and brackets. Values are parsed when a record is asked for, so
//! opening a file of a million records costs one pass and 32 bytes a record.

use std::path::Path;
use std::sync::Arc;

use super::{DataError, Place};

/// The bytes of one record and the line (from 1) on which it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub start: usize,
    pub end: usize,
    pub line: usize,
}

/// Length of the byte order mark to skip.
///
/// # Errors
/// [`DataError::Encoding`] where the mark is UTF-16's.
pub(super) fn byte_order_mark(bytes: &[u8], file: &Path) -> Result<usize, DataError> {
    let encoding = match bytes {
        [0xEF, 0xBB, 0xBF, ..] => return Ok(3),
        [0xFF, 0xFE, ..] => "UTF-16LE",
        [0xFE, 0xFF, ..] => "UTF-16BE",
        _ => return Ok(0),
    };
    Err(DataError::Encoding { path: file.to_owned(), encoding })
}

/// The records of a .jsonl file: its lines, empty ones skipped.
///
/// # Errors
/// [`DataError::NotAnObject`] where the file is an array. Each line is checked when it is read, so that one bad line of
/// many can be skipped.
pub(super) fn lines(bytes: &[u8], from: usize, file: &Arc<Path>) -> Result<Vec<Span>, DataError> {
    let mut spans = Vec::new();
    let mut start = from;
    let mut line = 1;
    while start < bytes.len() {
        let end = bytes[start..].iter().position(|&b| b == b'\n').map_or(bytes.len(), |n| start + n);
        let text = bytes[start..end].trim_ascii();
        if !text.is_empty() {
            if spans.is_empty() && text[0] == b'[' {
                return Err(DataError::NotAnObject {
                    place: Place::new(file.clone(), line),
                    found: "an array; a file that is one array must be named .json".into(),
                });
            }
            let lead = bytes[start..end].len() - bytes[start..end].trim_ascii_start().len();
            spans.push(Span { start: start + lead, end: start + lead + text.len(), line });
        }
        start = end + 1;
        line += 1;
    }
    Ok(spans)
}

/// The records of a .json file: the objects of its one array.
///
/// # Errors
/// [`DataError::NotAnArray`], [`DataError::NotAnObject`], [`DataError::Truncated`], and [`DataError::Malformed`] for
/// what would make the records' bounds uncertain; the rest of JSON's grammar is checked when a record is read.
pub(super) fn array(bytes: &[u8], from: usize, file: &Arc<Path>) -> Result<Vec<Span>, DataError> {
    let mut scanner = Scanner { bytes, at: from, line: 1, file };
    match scanner.next_token() {
        None => return Ok(Vec::new()),
        Some(b'[') => scanner.at += 1,
        Some(first) => return Err(scanner.not_an_array(first)),
    }
    let mut spans = Vec::new();
    loop {
        match scanner.next_token() {
            Some(b'{') => spans.push(scanner.object()?),
            Some(b']') if spans.is_empty() => break,
            Some(b']') => {
                return Err(scanner.malformed("a comma before the closing `]`; remove it"));
            }
            Some(_) => return Err(scanner.not_an_object()),
            None => return Err(scanner.truncated("the array: a record should follow".into())),
        }
        match scanner.next_token() {
            Some(b',') => scanner.at += 1,
            Some(b']') => break,
            Some(_) => {
                let found = describe(&bytes[scanner.at..]);
                let detail = format!("expected `,` or `]` after a record, found {found}");
                return Err(scanner.malformed(&detail));
            }
            None => return Err(scanner.truncated("the array: its closing `]` is missing".into())),
        }
    }
    scanner.at += 1;
    match scanner.next_token() {
        None => Ok(spans),
        Some(_) => {
            let found = describe(&bytes[scanner.at..]);
            Err(scanner.malformed(&format!("{found} after the array's closing `]`")))
        }
    }
}

/// Whether a .json file is one object that has this key: a list of sources, not an array of records.
pub(super) fn has_key(bytes: &[u8], from: usize, file: &Arc<Path>, key: &[u8]) -> bool {
    let mut scanner = Scanner { bytes, at: from, line: 1, file };
    if scanner.next_token() != Some(b'{') {
        return false;
    }
    let mut depth = 0usize;
    while let Some(byte) = scanner.next_token() {
        match byte {
            b'"' => {
                let begin = scanner.at + 1;
                if scanner.string(1).is_err() {
                    return false;
                }
                let text = &bytes[begin..scanner.at - 1];
                if depth == 1 && text == key && scanner.next_token() == Some(b':') {
                    return true;
                }
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return false;
        }
        scanner.at += 1;
    }
    false
}

/// What the value at the start of `bytes` seems to be.
pub(super) fn describe(bytes: &[u8]) -> String {
    let known = match bytes.first() {
        None => "nothing",
        Some(b'{') => "an object `{`",
        Some(b'[') => "a list `[`",
        Some(b'"') => "a string",
        Some(b'-' | b'0'..=b'9') => "a number",
        _ => {
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
            let word: String = text.chars().take_while(|c| *c != '\n').take(16).collect();
            return format!("`{}`", word.trim_end());
        }
    };
    known.to_owned()
}

struct Scanner<'file> {
    bytes: &'file [u8],
    at: usize,
    line: usize,
    file: &'file Arc<Path>,
}

impl Scanner<'_> {
    /// The next byte that is not white space, without taking it.
    fn next_token(&mut self) -> Option<u8> {
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'\n' => self.line += 1,
                b' ' | b'\t' | b'\r' => {}
                _ => return Some(byte),
            }
            self.at += 1;
        }
        None
    }

    /// The object that begins here; moves behind it.
    fn object(&mut self) -> Result<Span, DataError> {
        let (start, first_line) = (self.at, self.line);
        let mut open: Vec<u8> = Vec::with_capacity(8);
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'"' => {
                    self.string(first_line)?;
                    continue;
                }
                b'\n' => self.line += 1,
                b'{' => open.push(b'}'),
                b'[' => open.push(b']'),
                b'}' | b']' => match open.pop() {
                    Some(expected) if expected == byte => {
                        if open.is_empty() {
                            self.at += 1;
                            return Ok(Span { start, end: self.at, line: first_line });
                        }
                    }
                    Some(expected) => {
                        let (expected, byte) = (expected as char, byte as char);
                        let detail = format!(
                            "expected `{expected}` and found `{byte}` in the record that begins on line {first_line}"
                        );
                        return Err(self.malformed(&detail));
                    }
                    None => return Err(self.malformed("a bracket too many")),
                },
                _ => {}
            }
            self.at += 1;
        }
        Err(self.truncated(format!("the record that begins on line {first_line}")))
    }

    /// Moves behind the string that begins here.
    fn string(&mut self, first_line: usize) -> Result<(), DataError> {
        self.at += 1;
        while let Some(&byte) = self.bytes.get(self.at) {
            match byte {
                b'"' => {
                    self.at += 1;
                    return Ok(());
                }
                // A raw line break is not allowed in a string. Without this check a missing quote would be reported
                // at the end of the file.
                b'\n' => {
                    return Err(self.malformed(
                        "a string does not end on its line; close it with `\"` and write line breaks as `\\n`",
                    ));
                }
                b'\\' => self.at += 2,
                _ => self.at += 1,
            }
        }
        Err(self.truncated(format!("a string of the record that begins on line {first_line}")))
    }

    fn place(&self) -> Place {
        Place::new(self.file.clone(), self.line)
    }

    fn malformed(&self, detail: &str) -> DataError {
        DataError::Malformed { place: self.place(), detail: detail.to_owned() }
    }

    fn truncated(&self, inside: String) -> DataError {
        DataError::Truncated { place: self.place(), inside }
    }

    fn not_an_object(&self) -> DataError {
        let found = describe(&self.bytes[self.at..]);
        DataError::NotAnObject { place: self.place(), found }
    }

    fn not_an_array(&self, first: u8) -> DataError {
        let advice = match first {
            b'{' => {
                "put `[` and `]` around the records, or, with one record a line, name the file .jsonl; a list of sources \
                 has the key `sources`"
            }
            _ => "put `[` and `]` around the records",
        };
        let found = describe(&self.bytes[self.at..]);
        DataError::NotAnArray { place: self.place(), found, advice }
    }
}
