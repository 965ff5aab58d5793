//! Where the images of a question stand.

use super::error::ChatError;
use super::line::path;
use crate::data::turns::split_images;
use crate::text::Part;
use std::path::PathBuf;

/// What a file that is named after `@` ends with, where it is meant to be an image.
const PICTURES: &[&str] = &["png", "jpg", "jpeg", "webp", "bmp", "gif"];

/// A part of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    Text(String),
    /// An `<image>` marker: the place of an image that waits.
    Marker,
    /// The file of an image.
    File(PathBuf),
}

/// Words, markers and, where `files` says so, files after `@`.
///
/// What stands after `@` and is no file is words, unless it is called like an image.
///
/// # Errors
/// [`ChatError::NoFile`].
pub(super) fn pieces(text: &str, files: bool) -> Result<Vec<Piece>, ChatError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, name, behind)) = if files { next_file(rest)? } else { None } {
        words(before, &mut pieces);
        pieces.push(Piece::File(name));
        // Where an image stands first, the question begins with its first word.
        rest = if before.trim().is_empty() { behind.trim_start() } else { behind };
    }
    words(rest, &mut pieces);
    Ok(pieces)
}

fn words(text: &str, pieces: &mut Vec<Piece>) {
    if text.trim().is_empty() {
        return;
    }
    pieces.extend(split_images(text).into_iter().map(|part| match part {
        Part::Text(text) => Piece::Text(text),
        Part::Image => Piece::Marker,
    }));
}

/// The first file after an `@` at a word's beginning, with what stands before and behind.
fn next_file(text: &str) -> Result<Option<(&str, PathBuf, &str)>, ChatError> {
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        let begins = c == '@' && before.is_whitespace();
        before = c;
        if !begins {
            continue;
        }
        let name = &text[at + 1..][..name_length(&text[at + 1..])];
        let shorter = name.trim_end_matches(['.', ',', ';', ':', '!', '?', ')']);
        let found = [name, shorter].into_iter().find(|name| !name.is_empty() && path(name).is_file());
        if let Some(name) = found {
            return Ok(Some((&text[..at], path(name), &text[at + 1 + name.len()..])));
        }
        let extension = path(shorter).extension().map(|extension| extension.to_string_lossy().to_lowercase());
        if extension.is_some_and(|extension| PICTURES.contains(&extension.as_str())) {
            return Err(ChatError::NoFile(path(shorter)));
        }
    }
    Ok(None)
}

/// Bytes of a file's name: to the closing quote, or to the first space without a backslash.
fn name_length(text: &str) -> usize {
    if let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) {
        return text[1..].find(quote).map_or(text.len(), |end| end + 2);
    }
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        if c.is_whitespace() && !escaped {
            return at;
        }
        escaped = c == '\\' && !escaped && !cfg!(windows);
    }
    text.len()
}
