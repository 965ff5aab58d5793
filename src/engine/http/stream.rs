//! Answers as they come in pieces.

use serde_json::Value;

use super::super::{Answer, Request};
use super::client::{Gather, Wrong, passes};
use super::read;
use crate::openai::{
    ChatAnswer, ChatChoice, ChatChunk, ChatLogprobs, ChatMessageAnswer, Completion, CompletionChoice,
    CompletionLogprobs, UsageAnswer, WireToolCall, error_message,
};

/// The pieces of a chat's answer, put together.
pub(super) struct ChatPieces<'r> {
    request: &'r Request,
    model: String,
    choices: Vec<ChatChoice>,
    usage: Option<UsageAnswer>,
}

/// The pieces of a completion's answer, put together.
pub(super) struct CompletionPieces<'r> {
    request: &'r Request,
    model: String,
    choices: Vec<CompletionChoice>,
    usage: Option<UsageAnswer>,
}

pub(super) fn chat(request: &Request) -> ChatPieces<'_> {
    let choice = |index| ChatChoice {
        index,
        message: ChatMessageAnswer::default(),
        logprobs: request.logprobs.map(|_| ChatLogprobs { content: Some(Vec::new()) }),
        finish_reason: None,
    };
    ChatPieces { request, model: String::new(), choices: (0..request.n).map(choice).collect(), usage: None }
}

pub(super) fn completion(request: &Request) -> CompletionPieces<'_> {
    let choice = |index| CompletionChoice { index, text: String::new(), logprobs: None, finish_reason: None };
    CompletionPieces { request, model: String::new(), choices: (0..request.n).map(choice).collect(), usage: None }
}

impl Gather for ChatPieces<'_> {
    type Whole = Answer;

    fn piece(&mut self, data: &str) -> Result<(), Wrong> {
        let chunk: ChatChunk = parse(data)?;
        self.usage = chunk.usage.or(self.usage);
        if !chunk.model.is_empty() {
            self.model = chunk.model;
        }
        for new in chunk.choices {
            let n = self.request.n;
            let choice = self.choices.get_mut(new.index).ok_or_else(|| too_many(new.index, n))?;
            if let Some(content) = new.delta.content {
                choice.message.content.get_or_insert_default().push_str(&content);
            }
            for call in new.delta.tool_calls.unwrap_or_default() {
                add_call(choice.message.tool_calls.get_or_insert_default(), call);
            }
            if let (Some(all), Some(more)) = (&mut choice.logprobs, new.logprobs) {
                all.content.get_or_insert_default().extend(more.content.unwrap_or_default());
            }
            choice.finish_reason = new.finish_reason.or(choice.finish_reason.take());
        }
        Ok(())
    }

    fn whole(self) -> Result<Answer, String> {
        ended(self.choices.iter().map(|choice| choice.finish_reason.is_some()))?;
        let Self { request, model, choices, usage } = self;
        let answer = ChatAnswer { id: String::new(), object: String::new(), created: 0, model, choices, usage };
        read::chat(request, answer)
    }
}

impl Gather for CompletionPieces<'_> {
    type Whole = Answer;

    fn piece(&mut self, data: &str) -> Result<(), Wrong> {
        let chunk: Completion = parse(data)?;
        self.usage = chunk.usage.or(self.usage);
        if !chunk.model.is_empty() {
            self.model = chunk.model;
        }
        for new in chunk.choices {
            let n = self.request.n;
            let choice = self.choices.get_mut(new.index).ok_or_else(|| too_many(new.index, n))?;
            choice.text.push_str(&new.text);
            if let Some(more) = new.logprobs {
                add_logprobs(choice.logprobs.get_or_insert_default(), more);
            }
            choice.finish_reason = new.finish_reason.or(choice.finish_reason.take());
        }
        Ok(())
    }

    fn whole(self) -> Result<Answer, String> {
        ended(self.choices.iter().map(|choice| choice.finish_reason.is_some()))?;
        let Self { request, model, choices, usage } = self;
        let answer = Completion { id: String::new(), object: String::new(), created: 0, model, choices, usage };
        read::completion(request, answer)
    }
}

fn parse<T: serde::de::DeserializeOwned>(data: &str) -> Result<T, Wrong> {
    let value: Value =
        serde_json::from_str(data).map_err(|error| format!("a piece of the stream is no JSON ({error})"))?;
    if !value["error"].is_null() {
        let message = error_message(data).unwrap_or_else(|| value["error"].to_string());
        let reason = format!("the server reports an error in the stream: {message}");
        return Err(Wrong { reason, passes: may_pass(&value["error"]) });
    }
    let wrong = |error| format!("a piece of the stream is not the expected JSON ({error})");
    Ok(serde_json::from_value(value).map_err(wrong)?)
}

/// Whether the same request may succeed later: as if the error's code were the answer's status, and where it is none, unless the
/// request itself is to blame.
fn may_pass(error: &Value) -> bool {
    let code = &error["code"];
    let status = code.as_u64().or_else(|| code.as_str()?.parse().ok()).and_then(|code| u16::try_from(code).ok());
    match status.filter(|status| (400..600).contains(status)) {
        Some(status) => passes(status),
        None => error["type"] != "invalid_request_error",
    }
}

fn too_many(index: usize, n: usize) -> String {
    format!("a piece belongs to choice {index}, but {n} were asked for")
}

fn ended(mut choices: impl Iterator<Item = bool>) -> Result<(), String> {
    match choices.position(|ended| !ended) {
        None => Ok(()),
        Some(index) => Err(format!("the stream ended before choice {index} had a finish_reason")),
    }
}

/// A call's name comes in its first piece, its arguments in all of them.
fn add_call(calls: &mut Vec<WireToolCall>, piece: WireToolCall) {
    match calls.iter_mut().find(|call| piece.index.is_some() && call.index == piece.index) {
        None => calls.push(piece),
        Some(call) => {
            call.function.name.push_str(&piece.function.name);
            call.function.arguments.push_str(&piece.function.arguments);
        }
    }
}

fn add_logprobs(all: &mut CompletionLogprobs, more: CompletionLogprobs) {
    let known = all.tokens.len();
    all.tokens.extend(more.tokens);
    all.token_logprobs.extend(more.token_logprobs);
    all.text_offset.extend(more.text_offset);
    if let Some(top) = more.top_logprobs {
        all.top_logprobs.get_or_insert_with(|| vec![None; known]).extend(top);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn errors_of_the_request_itself_do_not_pass() {
        for (error, expected) in [
            (json!("out of memory"), true),
            (json!({"message": "m", "type": "server_error", "code": null}), true),
            (json!({"message": "m", "type": "invalid_request_error", "code": null}), false),
            (json!({"message": "m", "type": "BadRequestError", "code": 400}), false),
            (json!({"message": "m", "type": "x", "code": "404"}), false),
            (json!({"message": "m", "type": "x", "code": 429}), true),
            (json!({"message": "m", "type": "InternalServerError", "code": 500}), true),
            (json!({"message": "m", "type": "x", "code": "context_length_exceeded"}), true),
        ] {
            assert_eq!(may_pass(&error), expected, "{error}");
        }
    }
}
