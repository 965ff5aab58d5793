//! Questions from a file or a pipe, one in each line.

use super::error::ChatError;
use super::line::{goes_on, joined};
use super::talk::{Speaker, Talk};
use std::io::{BufRead, Write};

/// Answers line by line. A line that has no answer is told on standard error, and the next one is taken.
///
/// # Errors
/// Input that cannot be read and output that cannot be written, at once; at the end, that lines had no answer.
pub(super) fn run<S: Speaker>(
    talk: &mut Talk<S>,
    input: &mut impl BufRead,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let (mut number, mut refused) = (0, 0);
    while let Some((first, text)) = next(input, &mut number)? {
        match text.and_then(|text| talk.line(&text, out)) {
            Ok(flow) if flow.is_break() => break,
            Ok(_) => {}
            Err(ChatError::Out(error)) => return Err(error.into()),
            Err(error) => {
                refused += 1;
                eprintln!("error: line {first}: {error}");
            }
        }
    }
    match refused {
        0 => Ok(()),
        refused => Err(anyhow::anyhow!("{refused} of {number} lines had no answer")),
    }
}

/// A line's number, and its text.
type Numbered = (usize, Result<String, ChatError>);

/// The next line with its number, those that it goes on in put to it.
fn next(input: &mut impl BufRead, number: &mut usize) -> std::io::Result<Option<Numbered>> {
    let mut bytes = Vec::new();
    let first = *number + 1;
    loop {
        let before = bytes.len();
        if input.read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        *number += 1;
        let end = bytes.strip_suffix(b"\n").map_or(bytes.len(), |line| line.strip_suffix(b"\r").unwrap_or(line).len());
        bytes.truncate(end);
        if !goes_on(&String::from_utf8_lossy(&bytes[before..])) {
            break;
        }
        bytes.push(b'\n');
    }
    if first > *number {
        return Ok(None);
    }
    let text = String::from_utf8(bytes).map_err(|_| ChatError::NotText);
    Ok(Some((first, text.map(|text| joined(&text)))))
}
