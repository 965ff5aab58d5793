//! Events to answers, in one piece or in many.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;

use super::backend::Event;
use super::prepare::Form;
use crate::engine::{Finish, Token, TopToken, Usage};
use crate::openai::{
    ChatAnswer, ChatChoice, ChatChunk, ChatDelta, ChatLogprobs, ChatMessageAnswer, ChunkChoice, Completion,
    CompletionChoice, CompletionLogprobs, DONE, FunctionCall, PromptTokensDetails, TokenLogprob, TopLogprob,
    UsageAnswer, WireToolCall, event, finite,
};
use crate::text::{ToolCall, ToolText};

/// Which of the two interfaces is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Chat,
    Completion,
}

/// What all pieces of an answer begin with.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub kind: Kind,
    pub id: String,
    pub created: u64,
    pub form: Form,
}

/// An answer that is gathered before it is sent.
#[derive(Debug)]
pub(super) struct Whole {
    head: Head,
    prompts: Vec<Vec<Token>>,
    choices: Vec<Gathered>,
}

#[derive(Clone, Debug, Default)]
struct Gathered {
    text: String,
    tokens: Vec<Token>,
    finish: Option<Finish>,
    tool_calls: Vec<ToolCall>,
}

/// An answer that is sent as it comes.
#[derive(Debug)]
pub(super) struct Pieces {
    head: Head,
    /// Characters of each choice so far.
    offsets: Vec<usize>,
    /// What parts each choice into words and calls, where tools may be called.
    parted: Vec<ToolText>,
}

impl Whole {
    pub fn new(head: Head, prompts: usize) -> Self {
        let choices = vec![Gathered::default(); prompts * head.form.choices];
        Self { head, prompts: vec![Vec::new(); prompts], choices }
    }

    pub fn add(&mut self, prompt: usize, event: Event) {
        match event {
            Event::Prompt(tokens) => self.prompts[prompt] = tokens,
            Event::Text { choice, text, token } => {
                if let Some(choice) = self.choice(prompt, choice) {
                    choice.text.push_str(&text);
                    choice.tokens.extend(token);
                }
            }
            Event::Finished { choice, finish, tool_calls } => {
                if let Some(choice) = self.choice(prompt, choice) {
                    (choice.finish, choice.tool_calls) = (Some(finish), tool_calls);
                }
            }
            Event::Done(_) | Event::Failed(_) => {}
        }
    }

    /// One of a prompt's answers; a backend that counts beyond what was asked for is not heard.
    fn choice(&mut self, prompt: usize, choice: usize) -> Option<&mut Gathered> {
        let own = self.head.form.choices;
        (choice < own).then(|| &mut self.choices[prompt * own + choice])
    }

    /// The answer's JSON.
    pub fn json(self, used: Usage) -> String {
        let Self { head, prompts, choices } = self;
        let (id, created, model, usage) = (head.id, head.created, head.form.model, Some(usage(used)));
        let finish = |finish: Option<Finish>| Some(finish.unwrap_or(Finish::Stop).as_str().to_owned());
        let form = head.form.choices;
        match head.kind {
            Kind::Chat => {
                let choices = choices.into_iter().enumerate().map(|(index, mut choice)| {
                    if !head.form.tools.is_empty() {
                        let (words, calls) = ToolText::split(&choice.text, &head.form.tools);
                        choice.text = words;
                        choice.finish = choice.finish.map(|finish| called(finish, &calls));
                        choice.tool_calls.extend(calls);
                    }
                    let logprobs = head.form.logprobs.map(|top| chat_logprobs(&choice.tokens, top));
                    let tool_calls = (!choice.tool_calls.is_empty()).then(|| tool_calls(choice.tool_calls));
                    // An answer that only calls functions says nothing.
                    let content = (tool_calls.is_none() || !choice.text.is_empty()).then_some(choice.text);
                    let message =
                        ChatMessageAnswer { role: "assistant".to_owned(), content, refusal: None, tool_calls };
                    ChatChoice { index, message, logprobs, finish_reason: finish(choice.finish) }
                });
                let choices = choices.collect();
                json(&ChatAnswer { id, object: "chat.completion".to_owned(), created, model, choices, usage })
            }
            Kind::Completion => {
                let choices = choices.into_iter().enumerate().map(|(index, choice)| {
                    let prompt = &prompts[index / form];
                    let mut text =
                        if head.form.echo { echoed(&head.form.texts, index / form, prompt) } else { String::new() };
                    let logprobs = head.form.logprobs.map(|top| {
                        let mut lists = CompletionLogprobs::default();
                        if head.form.echo {
                            add_logprobs(&mut lists, prompt, top, offsets(&text, prompt));
                        }
                        let after = following(&choice.tokens, &mut text.chars().count());
                        add_logprobs(&mut lists, &choice.tokens, top, after);
                        lists
                    });
                    text.push_str(&choice.text);
                    CompletionChoice { index, text, logprobs, finish_reason: finish(choice.finish) }
                });
                let choices = choices.collect();
                json(&Completion { id, object: "text_completion".to_owned(), created, model, choices, usage })
            }
        }
    }
}

impl Pieces {
    pub fn new(head: Head, prompts: usize) -> Self {
        let choices = prompts * head.form.choices;
        let parted = if head.form.tools.is_empty() { 0 } else { choices };
        let parted = vec![ToolText::new(&head.form.tools); parted];
        Self { head, offsets: vec![0; choices], parted }
    }

    /// What is sent before anything has happened.
    pub fn first(&self) -> String {
        if self.head.kind == Kind::Completion {
            return String::new();
        }
        let delta = || ChatDelta { role: Some("assistant".to_owned()), content: Some(String::new()), tool_calls: None };
        (0..self.offsets.len()).map(|index| self.chat(index, delta(), None, None)).collect()
    }

    /// What is sent for an event; may be nothing.
    pub fn add(&mut self, prompt: usize, event: Event) -> String {
        let own = self.head.form.choices;
        let logprobs = self.head.form.logprobs;
        match (self.head.kind, event) {
            (Kind::Completion, Event::Prompt(tokens)) => {
                let text = echoed(&self.head.form.texts, prompt, &tokens);
                let lists = logprobs.map(|top| completion_logprobs(&tokens, top, offsets(&text, &tokens)));
                let mut all = String::new();
                for index in prompt * own..(prompt + 1) * own {
                    self.offsets[index] = text.chars().count();
                    all.push_str(&self.completion(index, text.clone(), lists.clone(), None));
                }
                all
            }
            (_, Event::Text { choice, .. } | Event::Finished { choice, .. }) if choice >= own => String::new(),
            (_, Event::Text { text, token: None, .. }) if text.is_empty() => String::new(),
            (Kind::Chat, Event::Text { choice, text, token }) => {
                let index = prompt * own + choice;
                let text = match self.parted.get_mut(index) {
                    Some(parted) => parted.push(&text),
                    None => text,
                };
                if text.is_empty() && token.is_none() {
                    return String::new();
                }
                let logprobs = token.zip(logprobs).map(|(token, top)| chat_logprobs(&[token], top));
                let delta = ChatDelta { content: Some(text), ..ChatDelta::default() };
                self.chat(index, delta, logprobs, None)
            }
            (Kind::Completion, Event::Text { choice, text, token }) => {
                let index = prompt * own + choice;
                let logprobs = token.zip(logprobs).map(|(token, top)| {
                    let tokens = [token];
                    let offsets = following(&tokens, &mut self.offsets[index]);
                    completion_logprobs(&tokens, top, offsets)
                });
                self.completion(index, text, logprobs, None)
            }
            (Kind::Chat, Event::Finished { choice, finish, tool_calls: mut calls }) => {
                let index = prompt * own + choice;
                let (words, written) = self.parted.get_mut(index).map(ToolText::finish).unwrap_or_default();
                let finish = called(finish, &written);
                calls.extend(written);
                let words = (!words.is_empty()).then(|| {
                    let delta = ChatDelta { content: Some(words), ..ChatDelta::default() };
                    self.chat(index, delta, None, None)
                });
                let tool_calls = (!calls.is_empty()).then(|| tool_calls(calls));
                let called = tool_calls.map(|calls| {
                    let delta = ChatDelta { tool_calls: Some(calls), ..ChatDelta::default() };
                    self.chat(index, delta, None, None)
                });
                let last = self.chat(index, ChatDelta::default(), None, Some(finish));
                words.unwrap_or_default() + &called.unwrap_or_default() + &last
            }
            (Kind::Completion, Event::Finished { choice, finish, .. }) => {
                self.completion(prompt * own + choice, String::new(), None, Some(finish))
            }
            _ => String::new(),
        }
    }

    /// What is sent once all is done.
    pub fn last(&self, used: Usage) -> String {
        let Head { id, created, form, .. } = self.head.clone();
        let usage = Some(usage(used));
        let counts = match (form.include_usage, self.head.kind) {
            (false, _) => String::new(),
            (true, Kind::Chat) => {
                let object = "chat.completion.chunk".to_owned();
                event(&json(&ChatChunk { id, object, created, model: form.model, choices: Vec::new(), usage }))
            }
            (true, Kind::Completion) => {
                let object = "text_completion".to_owned();
                event(&json(&Completion { id, object, created, model: form.model, choices: Vec::new(), usage }))
            }
        };
        counts + &event(DONE)
    }

    fn chat(&self, index: usize, delta: ChatDelta, logprobs: Option<ChatLogprobs>, finish: Option<Finish>) -> String {
        let Head { id, created, form, .. } = self.head.clone();
        let finish_reason = finish.map(|finish| finish.as_str().to_owned());
        let choices = vec![ChunkChoice { index, delta, logprobs, finish_reason }];
        let object = "chat.completion.chunk".to_owned();
        event(&json(&ChatChunk { id, object, created, model: form.model, choices, usage: None }))
    }

    fn completion(
        &self,
        index: usize,
        text: String,
        logprobs: Option<CompletionLogprobs>,
        finish: Option<Finish>,
    ) -> String {
        let Head { id, created, form, .. } = self.head.clone();
        let finish_reason = finish.map(|finish| finish.as_str().to_owned());
        let choices = vec![CompletionChoice { index, text, logprobs, finish_reason }];
        let object = "text_completion".to_owned();
        event(&json(&Completion { id, object, created, model: form.model, choices, usage: None }))
    }
}

/// Why an answer with these calls ended. One that was cut off may lack some.
fn called(finish: Finish, calls: &[ToolCall]) -> Finish {
    if finish == Finish::Stop && !calls.is_empty() { Finish::ToolCalls } else { finish }
}

/// What is sent where an answer breaks off.
pub(super) fn broken(error: &super::error::ApiError) -> String {
    event(&error.json())
}

/// JSON of a type whose keys are all strings, which cannot fail.
pub(super) fn json(answer: &impl Serialize) -> String {
    serde_json::to_string(answer).unwrap_or_else(|error| format!("{{\"error\":{{\"message\":\"{error}\"}}}}"))
}

fn usage(used: Usage) -> UsageAnswer {
    let Usage { prompt_tokens, cached_tokens, completion_tokens } = used;
    let details = PromptTokensDetails { cached_tokens: Some(cached_tokens) };
    UsageAnswer {
        prompt_tokens,
        completion_tokens,
        total_tokens: prompt_tokens + completion_tokens,
        prompt_tokens_details: Some(details),
    }
}

/// A prompt as its answer repeats it: as it was sent, where it was a text, and else what its tokens say.
fn echoed(texts: &[Option<Arc<str>>], prompt: usize, tokens: &[Token]) -> String {
    match texts.get(prompt) {
        Some(Some(text)) => text.to_string(),
        _ => tokens.iter().map(|token| token.text.as_str()).collect(),
    }
}

/// Where each token begins in the text, in characters. A token that was put in front of the text has no part in it, and neither
/// has a space that was put in front of its first word; of a character that is several tokens, the first has it.
fn offsets(text: &str, tokens: &[Token]) -> Vec<usize> {
    let (mut rest, mut at, mut unfound) = (text, 0, 0);
    let mut offsets = Vec::new();
    for Token { text: token, .. } in tokens {
        let starts = rest.char_indices().map(|(start, _)| start).take(unfound + 1);
        let found = starts.enumerate().find_map(|(skipped, start)| {
            let bare = if at == 0 { token.trim_start() } else { token };
            let fits = [token, bare].into_iter().find(|word| !word.is_empty() && rest[start..].starts_with(*word));
            fits.map(|word| (skipped, start + word.len(), word.chars().count()))
        });
        match found {
            Some((skipped, end, length)) => {
                offsets.push(at + skipped);
                (rest, at, unfound) = (&rest[end..], at + skipped + length, 0);
            }
            None => {
                offsets.push(at);
                unfound += 1;
            }
        }
    }
    offsets
}

fn tool_calls(calls: Vec<ToolCall>) -> Vec<WireToolCall> {
    let calls = calls.into_iter().zip(0..).map(|(call, index)| {
        let arguments = call.arguments.as_str().map_or_else(|| call.arguments.to_string(), str::to_owned);
        let id = call.id.unwrap_or_else(call_id);
        let function = FunctionCall { name: call.name, arguments };
        WireToolCall { index: Some(index), id, kind: "function".to_owned(), function }
    });
    calls.collect()
}

/// A new name for a call: nine letters and digits, which is what Mistral's templates ask for.
fn call_id() -> String {
    (0..9).map(|_| char::from_digit(rand::random::<u32>() % 36, 36).unwrap_or('0')).collect()
}

fn chat_logprobs(tokens: &[Token], top: usize) -> ChatLogprobs {
    let token = |token: &Token| TokenLogprob {
        token: token.text.clone(),
        logprob: finite(token.logprob.unwrap_or(0.0)),
        bytes: token.bytes.clone(),
        top_logprobs: token.top.iter().take(top).map(alternative).collect(),
    };
    ChatLogprobs { content: Some(tokens.iter().map(token).collect()) }
}

fn alternative(token: &TopToken) -> TopLogprob {
    TopLogprob { token: token.text.clone(), logprob: finite(token.logprob), bytes: token.bytes.clone() }
}

/// Where each token begins; `offset` is where the first does, and then where the last ends.
fn following(tokens: &[Token], offset: &mut usize) -> Vec<usize> {
    let next = |token: &Token| std::mem::replace(offset, *offset + token.text.chars().count());
    tokens.iter().map(next).collect()
}

/// Lists of a completion's tokens, and of where each begins.
fn completion_logprobs(tokens: &[Token], top: usize, offsets: Vec<usize>) -> CompletionLogprobs {
    let mut lists = CompletionLogprobs::default();
    add_logprobs(&mut lists, tokens, top, offsets);
    lists
}

fn add_logprobs(lists: &mut CompletionLogprobs, tokens: &[Token], top: usize, offsets: Vec<usize>) {
    lists.text_offset.extend(offsets);
    let all = lists.top_logprobs.get_or_insert_default();
    for token in tokens {
        lists.tokens.push(token.text.clone());
        lists.token_logprobs.push(token.logprob.map(finite));
        let likeliest = token.logprob.map(|own| {
            let mut likeliest: BTreeMap<String, f32> = BTreeMap::new();
            // Two tokens may have one text: the likelier counts.
            for other in token.top.iter().take(top) {
                let logprob = finite(other.logprob);
                likeliest.entry(other.text.clone()).and_modify(|known| *known = known.max(logprob)).or_insert(logprob);
            }
            likeliest.entry(token.text.clone()).or_insert(finite(own));
            likeliest
        });
        all.push(likeliest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_into_the_text_that_was_sent() {
        let of = |text: &str, tokens: &[&str]| {
            let token = |text: &&str| Token { text: (*text).to_owned(), bytes: None, logprob: None, top: Vec::new() };
            offsets(text, &tokens.iter().map(token).collect::<Vec<Token>>())
        };
        assert_eq!(of("The cat", &["The", " cat"]), [0, 3]);
        // The server's own first token, and the space that some tokenizers put in front.
        assert_eq!(of("The cat", &["<s>", " The", " cat"]), [0, 0, 3]);
        assert_eq!(of("<s>The cat", &["<s>", "The", " cat"]), [0, 3, 6]);
        assert_eq!(of(" The", &["<s>", " The"]), [0, 0]);
        // A character of three tokens.
        assert_eq!(of("a\u{20ac} c", &["a", "\u{fffd}", "\u{fffd}", "\u{fffd}", " c"]), [0, 1, 1, 1, 2]);
        assert_eq!(of("", &["<s>"]), [0]);
    }
}
