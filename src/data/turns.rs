//! The rules for the turns of a conversation, shared by the formatters.

use std::path::PathBuf;

use super::row::{self, Row};
use super::{DataError, Place, RecordError, Sample};
use crate::example::{Pair, Shape};
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

/// Holds the messages of a chat to what every template needs: an answer, and a question before it.
///
/// Roles may come in any order: several messages of one role in a row, calls and results of tools, a system message
/// in between. What a template cannot express it refuses itself. With `drops_leading`, the assistant's messages before the
/// user's first one are dropped and counted, since most templates refuse to begin with them.
///
/// # Errors
/// [`DataError::EmptyConversation`], [`DataError::NoAnswer`], [`RecordError::EmptyAnswer`] where the assistant is to be
/// learned and says nothing. `field` is the list's name.
pub fn gather(
    turns: Vec<Message>,
    field: &'static str,
    drops_leading: bool,
    place: &Place,
) -> Result<Arranged, DataError> {
    let count = turns.len();
    if count == 0 {
        return Err(DataError::EmptyConversation { place: place.clone(), field });
    }
    let first_question = turns.iter().position(|turn| turn.role == Role::User).unwrap_or(count);
    if !turns[first_question..].iter().any(|turn| turn.role == Role::Assistant) {
        return Err(DataError::NoAnswer { place: place.clone(), turns: count });
    }
    if let Some(i) = turns.iter().position(|turn| turn.is_learned() && says_nothing(turn)) {
        return Err(RecordError::EmptyAnswer { field: format!("{field}[{i}].content") }.at(place));
    }
    let is_kept = |i: usize, turn: &Message| !drops_leading || i >= first_question || turn.role != Role::Assistant;
    let messages: Vec<Message> =
        turns.into_iter().enumerate().filter(|(i, turn)| is_kept(*i, turn)).map(|(_, turn)| turn).collect();
    Ok(Arranged { dropped_leading: count - messages.len(), conversation: Conversation::new(messages) })
}

/// The messages before an answer, which must ask something.
///
/// # Errors
/// [`DataError::EmptyConversation`], [`RecordError::NoQuestion`].
pub fn context(messages: Vec<Message>, field: &'static str, place: &Place) -> Result<Conversation, DataError> {
    if messages.is_empty() {
        return Err(DataError::EmptyConversation { place: place.clone(), field });
    }
    let asks = |message: &Message| message.role != Role::System && !says_nothing(message);
    if !messages.iter().any(asks) {
        return Err(RecordError::NoQuestion { field: field.to_owned() }.at(place));
    }
    Ok(Conversation::new(messages))
}

/// An answer, of one message or several: the assistant's first, and words in all of the assistant's.
///
/// # Errors
/// [`RecordError::EmptyAnswer`], [`RecordError::AnswerRole`], [`RecordError::ImageInAnswer`].
pub fn answer(messages: Vec<Message>, field: &str, place: &Place) -> Result<Vec<Message>, DataError> {
    let field = || field.to_owned();
    let wrong = match messages.first() {
        None => Some(RecordError::EmptyAnswer { field: field() }),
        Some(first) if first.role != Role::Assistant => {
            Some(RecordError::AnswerRole { field: field(), found: first.role.as_str() })
        }
        Some(_) if messages.iter().any(|message| message.image_count() > 0) => {
            Some(RecordError::ImageInAnswer { field: field() })
        }
        Some(_) if messages.iter().any(|message| message.role == Role::Assistant && says_nothing(message)) => {
            Some(RecordError::EmptyAnswer { field: field() })
        }
        Some(_) => None,
    };
    wrong.map_or(Ok(messages), |wrong| Err(wrong.at(place)))
}

/// Two answers, each with its field, which must differ in more than the white space around them.
///
/// # Errors
/// Those of [`answer`], and [`RecordError::EqualAnswers`].
pub fn pair<X>(
    chosen: (Vec<Message>, &str),
    rejected: (Vec<Message>, &str),
    extra: X,
    place: &Place,
) -> Result<Pair<X>, DataError> {
    let names = (chosen.1.to_owned(), rejected.1.to_owned());
    let chosen = answer(chosen.0, chosen.1, place)?;
    let rejected = answer(rejected.0, rejected.1, place)?;
    let same = |a: &Message, b: &Message| {
        let said = |m: &Message| (m.role, m.words().trim().to_owned(), m.reasoning.clone(), m.tool_calls.clone());
        said(a) == said(b)
    };
    if chosen.len() == rejected.len() && chosen.iter().zip(&rejected).all(|(a, b)| same(a, b)) {
        return Err(RecordError::EqualAnswers { chosen: names.0, rejected: names.1 }.at(place));
    }
    Ok(Pair { chosen, rejected, extra })
}

/// The assistant's answer of these words.
pub fn said(words: &str) -> Vec<Message> {
    vec![Message::text(Role::Assistant, words)]
}

/// The user's question of these words about `images` images.
///
/// Each `<image>` in the words of a record with images stands for the next one; where the words have none, all
/// images come first. In a record without images `<image>` is a word like any other.
///
/// # Errors
/// [`RecordError::NoQuestion`], [`RecordError::ImagePlaces`].
pub fn question(words: &str, images: usize, field: &str, place: &Place) -> Result<Message, DataError> {
    if words.trim().is_empty() && images == 0 {
        return Err(RecordError::NoQuestion { field: field.to_owned() }.at(place));
    }
    if images == 0 {
        return Ok(Message::text(Role::User, words));
    }
    let mut message = Message::new(Role::User, split_images(words));
    match message.image_count() {
        0 => show_first(&mut message, images),
        places if places != images => return Err(RecordError::ImagePlaces { places, images }.at(place)),
        _ => {}
    }
    Ok(message)
}

/// Puts `images` places for images before all that the message says.
pub fn show_first(message: &mut Message, images: usize) {
    message.content.splice(0..0, std::iter::repeat_n(Part::Image, images));
}

/// The row with `answer` behind the turns of its list `field`, where the last of them is not an assistant's; `role` is the
/// field that says who speaks.
pub fn awaiting(row: &Row, field: &str, role: &str, assistants: &[&str], answer: serde_json::Value) -> Option<Row> {
    let last = row.get(field)?.as_array()?.last()?.get(role)?.as_str()?;
    if assistants.contains(&last) {
        return None;
    }
    let mut longer = row.clone();
    longer.get_mut(field)?.as_array_mut()?.push(answer);
    Some(longer)
}

/// The record of a row: its id, a conversation with its images, and what belongs to it.
///
/// # Errors
/// [`DataError::WrongType`] where the row's `id` is neither a string nor a number.
pub fn sample<S: Shape>(
    row: &Row,
    place: &Place,
    conversation: Conversation,
    images: Vec<PathBuf>,
    target: S::Target,
) -> Result<Sample<S>, DataError> {
    let id = row::id(row, place)?;
    Ok(Sample { id, conversation, target, images, dropped_leading: 0, place: place.clone() })
}

/// Whether a message has neither words nor images, nor calls anything.
fn says_nothing(message: &Message) -> bool {
    message.tool_calls.is_empty() && message.image_count() == 0 && message.words().trim().is_empty()
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
