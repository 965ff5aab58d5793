//! One conversation that a model is shown of a record, whole or in part.

use std::ops::Range;

use super::TextOptions;
use crate::example::Learns;
use crate::text::{Conversation, EncodedText, Message, Role};

/// A row of a record as token ids, with the images that it shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextRow {
    /// Ids, mask and the places of the images.
    pub text: EncodedText,
    /// Per place of an image, in order, which of the record's images is shown there.
    pub images: Vec<usize>,
}

/// A row's messages before any of them is left out for want of space.
pub(super) struct RowParts {
    /// All of them, with what the options say of what is learned still to come.
    pub(super) conversation: Conversation,
    /// How many of them, from the first on, may be left out as a whole. Behind them are the answers of a pair.
    pub(super) context: usize,
    /// Per message, how many images of the record come before its own.
    images_before: Vec<usize>,
    pub(super) learns: Learns,
    options: TextOptions,
}

impl RowParts {
    /// `context`: number of messages that are not the target's.
    pub(super) fn new(mut conversation: Conversation, context: usize, learns: Learns, options: TextOptions) -> Self {
        let mut images_before = Vec::with_capacity(conversation.messages.len());
        let mut images = 0;
        for message in &conversation.messages {
            images_before.push(images);
            images += message.image_count();
        }
        let stays = |message: &Message| !options.ignore_system_prompt || message.role != Role::System;
        let context = conversation.messages.iter().take(context).filter(|message| stays(message)).count();
        let flags: Vec<bool> = conversation.messages.iter().map(stays).collect();
        let mut flags = flags.into_iter();
        images_before.retain(|_| flags.next().unwrap_or(true));
        conversation.messages.retain(stays);
        Self { conversation, context, images_before, learns, options }
    }

    /// All messages.
    pub(super) fn all(&self) -> Vec<usize> {
        (0..self.conversation.messages.len()).collect()
    }

    /// The messages behind the context.
    pub(super) fn answers(&self) -> Range<usize> {
        self.context..self.conversation.messages.len()
    }

    /// Some of the messages, with what of them is learned.
    pub(super) fn select(&self, kept: &[usize]) -> Conversation {
        let whole = &self.conversation;
        let mut messages: Vec<Message> = kept.iter().map(|&i| whole.messages[i].clone()).collect();
        match self.learns {
            Learns::Row => messages.iter_mut().for_each(|message| message.train = false),
            Learns::Answers if self.options.only_last_replica_loss => {
                let last = messages.iter().rposition(|message| message.role == Role::Assistant);
                let earlier = messages.iter_mut().take(last.unwrap_or(0));
                earlier.filter(|message| message.role == Role::Assistant).for_each(|message| message.train = false);
            }
            Learns::Answers | Learns::Steps => {}
        }
        Conversation { messages, tools: whole.tools.clone(), documents: whole.documents.clone() }
    }

    /// Which of the record's images some of the messages show.
    pub(super) fn images(&self, kept: &[usize]) -> Vec<usize> {
        let of = |&i: &usize| {
            let first = self.images_before[i];
            first..first + self.conversation.messages[i].image_count()
        };
        kept.iter().flat_map(of).collect()
    }

    /// The messages of a part, the answers behind the context included.
    pub(super) fn messages(&self, part: &Part) -> Vec<usize> {
        let is_system = |i: &usize| self.conversation.messages[*i].role == Role::System;
        let system = (0..part.context.start).filter(|i| part.keeps_system && is_system(i));
        system.chain(part.context.clone()).chain(self.answers()).collect()
    }

    /// The parts of the context that may be kept, in lists from the longest to the shortest. Of the second list use is made
    /// where nothing of the first fits.
    pub(super) fn parts(&self) -> Vec<Vec<Part>> {
        let has_answers = !self.answers().is_empty();
        let mut lists = match (self.options.keep_end, has_answers) {
            (true, _) => self.suffixes(),
            (false, false) => vec![self.prefixes()],
            (false, true) => Vec::new(),
        };
        if !has_answers && self.learns != Learns::Row {
            let learned = Learned::of(self);
            lists.iter_mut().for_each(|list| list.retain(|part| learned.any_in(part)));
        }
        lists.retain(|list| !list.is_empty());
        lists
    }

    /// First messages, up to an answer; of a row that is judged as a whole, up to any message but a system's.
    fn prefixes(&self) -> Vec<Part> {
        let ends = |i: &usize| match self.learns {
            Learns::Row => self.conversation.messages[*i].role != Role::System,
            _ => self.conversation.messages[*i].role == Role::Assistant,
        };
        (0..self.context).rev().filter(ends).map(|last| Part { keeps_system: true, context: 0..last + 1 }).collect()
    }

    /// Last messages, from a turn of the user's on: with the system messages that precede them, then without.
    fn suffixes(&self) -> Vec<Vec<Part>> {
        let messages = &self.conversation.messages;
        // A conversation that is learned ends with an answer; the context of answers ends with itself.
        let end = match self.answers().is_empty() && self.learns != Learns::Row {
            true => messages.iter().rposition(|message| message.role == Role::Assistant).map_or(0, |last| last + 1),
            false => self.context,
        };
        let is_user = |i: usize| messages[i].role == Role::User;
        let starts: Vec<usize> = (0..end).filter(|&i| is_user(i) && (i == 0 || !is_user(i - 1))).collect();
        let has_system = messages[..end].iter().any(|message| message.role == Role::System);
        let list = |keeps_system| starts.iter().map(|&start| Part { keeps_system, context: start..end }).collect();
        if has_system { vec![list(true), list(false)] } else { vec![list(true)] }
    }
}

/// A run of the context's messages, and whether the system messages in front of it stay there.
pub(super) struct Part {
    keeps_system: bool,
    context: Range<usize>,
}

/// Up to each message, how many are learned: a record may have a hundred thousand messages.
struct Learned<'a> {
    row: &'a RowParts,
    answers: Vec<usize>,
    others: Vec<usize>,
}

impl<'a> Learned<'a> {
    fn of(row: &'a RowParts) -> Self {
        let count = |counts: fn(&Message) -> bool| {
            let mut total = 0;
            let messages = row.conversation.messages.iter();
            let sums = messages.map(|message| {
                total += usize::from(counts(message));
                total
            });
            std::iter::once(0).chain(sums).collect::<Vec<_>>()
        };
        Self { row, answers: count(Message::is_learned), others: count(|m| m.train && m.role != Role::Assistant) }
    }

    /// Whether something of a part would be learned.
    fn any_in(&self, part: &Part) -> bool {
        let Range { start, end } = part.context;
        let options = self.row.options;
        let last = end.checked_sub(1).map(|last| &self.row.conversation.messages[last]);
        let answers = match options.only_last_replica_loss {
            // Every part of a conversation that is learned ends with an answer.
            true => last.is_some_and(Message::is_learned),
            false => self.answers[end] > self.answers[start],
        };
        answers || (!options.only_answer_loss && self.others[end] > self.others[start])
    }
}
