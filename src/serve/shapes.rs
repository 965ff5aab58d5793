//! Events to answers, in one piece or in many.

use std::collections::BTreeMap;

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
                    let (mut text, mut tokens) = (String::new(), Vec::new());
                    if head.form.echo {
                        text = words(prompt);
                        tokens.clone_from(prompt);
                    }
                    text.push_str(&choice.text);
                    tokens.extend(choice.tokens);
                    let logprobs = head.form.logprobs.map(|top| completion_logprobs(&tokens, top, &mut 0));
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
                let text = words(&tokens);
                let mut all = String::new();
                for index in prompt * own..(prompt + 1) * own {
                    let logprobs = logprobs.map(|top| completion_logprobs(&tokens, top, &mut self.offsets[index]));
                    all.push_str(&self.completion(index, text.clone(), logprobs, None));
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
                let lists = |(token, top)| completion_logprobs(&[token], top, &mut self.offsets[index]);
                let logprobs = token.zip(logprobs).map(lists);
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

fn words(tokens: &[Token]) -> String {
    tokens.iter().map(|token| token.text.as_str()).collect()
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
        bytes: bytes(&token.text, &token.bytes),
        top_logprobs: token.top.iter().take(top).map(alternative).collect(),
    };
    ChatLogprobs { content: Some(tokens.iter().map(token).collect()) }
}

fn alternative(token: &TopToken) -> TopLogprob {
    let bytes = bytes(&token.text, &token.bytes);
    TopLogprob { token: token.text.clone(), logprob: finite(token.logprob), bytes }
}

/// A token's bytes; of its text where the backend does not say otherwise.
fn bytes(text: &str, known: &Option<Vec<u8>>) -> Option<Vec<u8>> {
    Some(known.clone().unwrap_or_else(|| text.as_bytes().to_vec()))
}

/// Lists of a completion's tokens; `offset` is where the first begins, and then where the last ends.
fn completion_logprobs(tokens: &[Token], top: usize, offset: &mut usize) -> CompletionLogprobs {
    let mut lists = CompletionLogprobs { top_logprobs: Some(Vec::new()), ..CompletionLogprobs::default() };
    for token in tokens {
        lists.text_offset.push(*offset);
        *offset += token.text.chars().count();
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
        if let Some(all) = &mut lists.top_logprobs {
            all.push(likeliest);
        }
    }
    lists
}
