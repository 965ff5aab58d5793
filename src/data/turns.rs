//! The rules for the turns of a conversation, shared by the formatters.

use super::{DataError, Place};
use crate::text::{Conversation, Message, Part, Role};

/// What [`arrange`] makes of a record's turns.
#[derive(Clone, Debug, PartialEq)]
pub struct Arranged {
    /// An optional system message, then user and assistant in turn.
    pub conversation: Conversation,
    /// Turns that stood before the user's first one and were dropped.
    pub dropped_leading: usize,
}

/// Holds the turns of one record to the order that chat templates need.
///
/// A system message may stand before the user's first turn. Assistant turns before it answer nothing: they are dropped
/// and counted, as LLaVA drops them. From there on user and assistant must alternate, and the assistant must
/// speak at least once. A last turn of the user's may stay without an answer: it is context, and nothing is learned from it.
///
/// # Errors
/// [`DataError::EmptyConversation`], [`DataError::NotAlternating`], [`DataError::NoAnswer`]; turns are counted from 1
/// as they stand in the file. `field` is the list's name.
pub fn arrange(turns: Vec<Message>, field: &'static str, place: &Place) -> Result<Arranged, DataError> {
    let count = turns.len();
    if count == 0 {
        return Err(DataError::EmptyConversation { place: place.clone(), field });
    }
    let mut messages: Vec<Message> = Vec::with_capacity(count);
    let mut dropped_leading = 0;
    let mut expected = Role::User;
    let mut begun = false;
    for (i, turn) in turns.into_iter().enumerate() {
        let leading = !begun && turn.role != Role::User;
        if leading && turn.role == Role::System && messages.is_empty() {
            messages.push(turn);
        } else if leading && turn.role == Role::Assistant {
            dropped_leading += 1;
        } else if turn.role == expected {
            begun = true;
            expected = if expected == Role::User { Role::Assistant } else { Role::User };
            messages.push(turn);
        } else {
            return Err(DataError::NotAlternating {
                place: place.clone(),
                turn: i + 1,
                expected: expected.as_str(),
                found: turn.role.as_str(),
            });
        }
    }
    if !messages.iter().any(|message| message.role == Role::Assistant) {
        return Err(DataError::NoAnswer { place: place.clone(), turns: count });
    }
    Ok(Arranged { conversation: Conversation::new(messages), dropped_leading })
}

/// Splits a turn's text at its `<image>` markers.
pub fn split_images(text: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    for (i, piece) in text.split(IMAGE_MARKER).enumerate() {
        if i > 0 {
            parts.push(Part::Image);
        }
        if !piece.is_empty() {
            parts.push(Part::Text(piece.to_owned()));
        }
    }
    parts
}

/// A turn's text with an `<image>` marker for each image: the inverse of [`split_images`].
pub fn join_images(parts: &[Part]) -> String {
    let written = parts.iter().map(|part| match part {
        Part::Text(text) => text.as_str(),
        Part::Image => IMAGE_MARKER,
    });
    written.collect()
}

/// What stands for a picture in the text of a LLaVA record.
pub const IMAGE_MARKER: &str = "<image>";
