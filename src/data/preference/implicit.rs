//! The prompt that two answers begin with, where a row has none of its own.

use super::super::{DataError, Place, RecordError};
use super::{CHOSEN, REJECTED};
use crate::text::{Message, Role};

/// What both have in common, and what each says after it.
type Split = (Vec<Message>, Vec<Message>, Vec<Message>);

/// The longest common beginning after which the assistant speaks in both.
///
/// # Errors
/// [`RecordError::EqualAnswers`], [`RecordError::NoCommonPrompt`].
pub(super) fn messages(
    mut chosen: Vec<Message>,
    mut rejected: Vec<Message>,
    place: &Place,
) -> Result<Split, DataError> {
    if chosen == rejected {
        return Err(equal().at(place));
    }
    let common = chosen.iter().zip(&rejected).take_while(|(a, b)| a == b).count();
    let answers = |messages: &[Message], at: usize| messages.get(at).is_some_and(|m| m.role == Role::Assistant);
    let at = (1..=common).rev().find(|&at| answers(&chosen, at) && answers(&rejected, at));
    let at = at.ok_or_else(|| no_common_prompt().at(place))?;
    let (chosen_answer, rejected_answer) = (chosen.split_off(at), rejected.split_off(at));
    Ok((chosen, chosen_answer, rejected_answer))
}

/// The longest common beginning that ends where a word ends in both, and what follows it in each.
///
/// # Errors
/// [`RecordError::EqualAnswers`], [`RecordError::NoCommonPrompt`].
pub(super) fn texts<'row>([chosen, rejected]: [&'row str; 2], place: &Place) -> Result<[&'row str; 3], DataError> {
    if chosen.trim() == rejected.trim() {
        return Err(equal().at(place));
    }
    let common = chosen
        .char_indices()
        .zip(rejected.chars())
        .find(|((_, a), b)| a != b)
        .map_or(chosen.len().min(rejected.len()), |((at, _), _)| at);
    let is_end = |at: usize| {
        let (before, rests) = (&chosen[..at], [&chosen[at..], &rejected[at..]]);
        ends_word(before, rests) && rests.iter().all(|rest| !rest.trim().is_empty()) && !before.trim().is_empty()
    };
    let at = (1..=common).rev().filter(|&at| chosen.is_char_boundary(at)).find(|&at| is_end(at));
    let at = at.ok_or_else(|| no_common_prompt().at(place))?;
    Ok([&chosen[..at], &chosen[at..], &rejected[at..]])
}

/// Whether a word ends with `before` and another begins with both rests: at white space, and beside characters that are
/// words of their own.
fn ends_word(before: &str, rests: [&str; 2]) -> bool {
    let Some(last) = before.chars().next_back() else { return false };
    let next = rests.map(|rest| rest.chars().next());
    let both = |is: fn(char) -> bool| next.iter().all(|next| next.is_some_and(is));
    !last.is_whitespace() && (both(char::is_whitespace) || both(is_word_of_its_own))
        || is_word_of_its_own(last) && next.iter().all(|next| next.is_some_and(|c| !is_joined(c)))
}

/// Characters of scripts that are written without spaces: Chinese and Japanese.
fn is_word_of_its_own(c: char) -> bool {
    let is_either = matches!(c, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}');
    is_either && !is_joined(c)
}

/// Marks that belong to the character before them.
fn is_joined(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{3099}'..='\u{309a}' | '\u{fe00}'..='\u{fe0f}' | '\u{e0100}'..='\u{e01ef}')
}

fn equal() -> RecordError {
    RecordError::EqualAnswers { chosen: CHOSEN.to_owned(), rejected: REJECTED.to_owned() }
}

fn no_common_prompt() -> RecordError {
    RecordError::NoCommonPrompt { chosen: CHOSEN.to_owned(), rejected: REJECTED.to_owned() }
}
