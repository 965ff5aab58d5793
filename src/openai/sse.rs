//! Server-sent events: how a streamed answer travels.

/// The data of the event behind the last one.
pub const DONE: &str = "[DONE]";

/// An event with this data, which must be one line (JSON always is).
pub fn event(data: &str) -> String {
    format!("data: {data}\n\n")
}

/// Why a stream of events cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SseError {
    /// An event is longer than is accepted.
    #[error("an event of the stream is longer than {limit} bytes")]
    TooLong {
        /// Bytes accepted.
        limit: usize,
    },
    /// An event is no text.
    #[error("an event of the stream is not UTF-8")]
    Utf8,
}

/// Cuts a stream of bytes into the data of its events.
#[derive(Debug)]
pub struct EventReader {
    line: Vec<u8>,
    data: Vec<u8>,
    any: bool,
    limit: usize,
}

impl EventReader {
    /// A reader that accepts events of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self { line: Vec::new(), data: Vec::new(), any: false, limit }
    }

    /// Takes the next bytes and hands the data of every event that they complete to `on_event`.
    ///
    /// # Errors
    /// [`SseError`]; the reader is of no use afterwards.
    pub fn push(&mut self, bytes: &[u8], mut on_event: impl FnMut(String)) -> Result<(), SseError> {
        for &byte in bytes {
            if byte != b'\n' {
                self.line.push(byte);
                if self.line.len() + self.data.len() > self.limit {
                    return Err(SseError::TooLong { limit: self.limit });
                }
                continue;
            }
            if self.line.last() == Some(&b'\r') {
                self.line.pop();
            }
            if let Some(data) = self.end_line() {
                on_event(String::from_utf8(data).map_err(|_| SseError::Utf8)?);
            }
        }
        Ok(())
    }

    /// The event's data, where the line that has just ended was the empty one behind it.
    fn end_line(&mut self) -> Option<Vec<u8>> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let whole = std::mem::take(&mut self.data);
            return std::mem::take(&mut self.any).then_some(whole);
        }
        // Comments and the fields `event`, `id` and `retry` say nothing here.
        if let Some(rest) = line.strip_prefix(b"data:") {
            if std::mem::replace(&mut self.any, true) {
                self.data.push(b'\n');
            }
            self.data.extend_from_slice(rest.strip_prefix(b" ").unwrap_or(rest));
        }
        None
    }
}
