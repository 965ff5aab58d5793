//! Answers as they come in one piece.

use serde_json::Value;

use super::super::{Answer, Choice, Finish, Prompt, Request, Token, TopToken, Usage};
use crate::openai::{
    ChatAnswer, ClassifyAnswer, Completion, CompletionLogprobs, FunctionCall, ScoreAnswer, TokenLogprob, TopLogprob,
    UsageAnswer, WireToolCall,
};
use crate::text::ToolCall;

/// A chat's answer. The error says what is wrong with it.
pub(super) fn chat(request: &Request, answer: ChatAnswer) -> Result<Answer, String> {
    let mut choices = answer.choices;
    choices.sort_by_key(|choice| choice.index);
    check_count(request, choices.len())?;
    let choices = choices.into_iter().map(|choice| {
        let tokens = choice.logprobs.and_then(|logprobs| logprobs.content).unwrap_or_default();
        let calls = choice.message.tool_calls.unwrap_or_default();
        Choice {
            text: choice.message.content.unwrap_or_default(),
            tokens: chat_tokens(request, tokens),
            score: None,
            tool_calls: calls.into_iter().map(tool_call).collect(),
            finish: choice.finish_reason.as_deref().map_or(Finish::Stop, Finish::from_word),
        }
    });
    let choices = choices.collect();
    Ok(Answer { model: answer.model, choices, prompt: Vec::new(), usage: usage(answer.usage) })
}

/// A completion's answer. The error says what is wrong with it.
pub(super) fn completion(request: &Request, answer: Completion) -> Result<Answer, String> {
    let mut read = answer.choices;
    read.sort_by_key(|choice| choice.index);
    check_count(request, read.len())?;
    let used = usage(answer.usage);
    let (mut choices, mut prompt) = (Vec::new(), Vec::new());
    for choice in read {
        let mut tokens =
            choice.logprobs.map_or_else(|| Ok(Vec::new()), |logprobs| completion_tokens(request, logprobs))?;
        if request.logprobs.is_some() && tokens.is_empty() && !choice.text.is_empty() {
            return Err("the answer has no `logprobs`, though they were asked for".to_owned());
        }
        let mut text = choice.text;
        if request.echo {
            let count = used.prompt_tokens as usize;
            if count == 0 || count > tokens.len() {
                let found = tokens.len();
                return Err(format!(
                    "`usage.prompt_tokens` is {count}, but `logprobs` has {found} tokens with the prompt's"
                ));
            }
            let rest = tokens.split_off(count);
            prompt = std::mem::replace(&mut tokens, rest);
            text = without_prompt(request, &prompt, text)?;
        }
        if request.logprobs.is_none() {
            // They came with the echo.
            tokens.clear();
            prompt.iter_mut().for_each(|token| (token.logprob, token.top) = (None, Vec::new()));
        }
        let finish = choice.finish_reason.as_deref().map_or(Finish::Stop, Finish::from_word);
        choices.push(Choice { text, tokens, score: None, tool_calls: Vec::new(), finish });
    }
    Ok(Answer { model: answer.model, choices, prompt, usage: used })
}

/// The only score of an answer.
pub(super) fn score(answer: ScoreAnswer) -> Result<f64, String> {
    match answer.data.as_slice() {
        [one] => Ok(one.score),
        other => Err(format!("{} scores came for one request", other.len())),
    }
}

/// The only probabilities of an answer.
pub(super) fn classes(mut answer: ClassifyAnswer) -> Result<Vec<f64>, String> {
    match (answer.data.pop(), answer.data.len()) {
        (Some(one), 0) if one.probs.is_empty() => Err("the answer has no `probs`".to_owned()),
        (Some(one), 0) => Ok(one.probs),
        (None, _) => Err("no probabilities came".to_owned()),
        (Some(_), others) => Err(format!("{} lists of probabilities came for one request", others + 1)),
    }
}

/// An answer's words behind the echoed prompt.
fn without_prompt(request: &Request, prompt: &[Token], text: String) -> Result<String, String> {
    let echoed: String = match &request.prompt {
        Prompt::Text(text) => text.clone(),
        _ => prompt.iter().map(|token| token.text.as_str()).collect(),
    };
    match text.strip_prefix(&echoed) {
        Some(rest) => Ok(rest.to_owned()),
        None => Err("the answer does not begin with the prompt, though `echo` was asked for".to_owned()),
    }
}

fn check_count(request: &Request, found: usize) -> Result<(), String> {
    match found == request.n {
        true => Ok(()),
        false => Err(format!("{found} choices came where {} were asked for", request.n)),
    }
}

/// Tokens of a chat's answer.
fn chat_tokens(request: &Request, tokens: Vec<TokenLogprob>) -> Vec<Token> {
    let Some(top) = request.logprobs else { return Vec::new() };
    let token = |token: TokenLogprob| {
        let alternatives = token.top_logprobs.into_iter();
        let mut alternatives: Vec<TopToken> =
            alternatives.map(|TopLogprob { token, logprob, bytes }| TopToken { text: token, bytes, logprob }).collect();
        sort(&mut alternatives, top);
        Token { text: token.token, bytes: token.bytes, logprob: Some(token.logprob), top: alternatives }
    };
    tokens.into_iter().map(token).collect()
}

/// Tokens of a completion's answer.
fn completion_tokens(request: &Request, logprobs: CompletionLogprobs) -> Result<Vec<Token>, String> {
    let CompletionLogprobs { tokens, token_logprobs, top_logprobs, .. } = logprobs;
    let count = tokens.len();
    let mut tops = top_logprobs.unwrap_or_else(|| vec![None; count]).into_iter();
    if token_logprobs.len() != count || tops.len() != count {
        let (own, tops) = (token_logprobs.len(), tops.len());
        return Err(format!("`logprobs` has {count} tokens, {own} token_logprobs and {tops} top_logprobs"));
    }
    let token = |(text, logprob): (String, Option<f32>)| {
        let top = tops.next().flatten().unwrap_or_default().into_iter();
        let mut top: Vec<TopToken> = top.map(|(text, logprob)| TopToken { text, bytes: None, logprob }).collect();
        sort(&mut top, request.logprobs.unwrap_or_default());
        Token { text, bytes: None, logprob, top }
    };
    Ok(tokens.into_iter().zip(token_logprobs).map(token).collect())
}

/// The likeliest first, and no more than were asked for: completions list the written token as well.
fn sort(top: &mut Vec<TopToken>, count: usize) {
    top.sort_by(|a, b| b.logprob.total_cmp(&a.logprob));
    top.truncate(count);
}

/// A call whose arguments are read where they are JSON; a model may have written something else.
fn tool_call(call: WireToolCall) -> ToolCall {
    let FunctionCall { name, arguments } = call.function;
    let arguments = serde_json::from_str(&arguments).unwrap_or(Value::String(arguments));
    ToolCall { id: Some(call.id).filter(|id| !id.is_empty()), name, arguments }
}

fn usage(usage: Option<UsageAnswer>) -> Usage {
    let usage = usage.unwrap_or_default();
    let cached_tokens = usage.prompt_tokens_details.and_then(|details| details.cached_tokens).unwrap_or_default();
    let UsageAnswer { prompt_tokens, completion_tokens, .. } = usage;
    Usage { prompt_tokens, cached_tokens, completion_tokens }
}
