//! What an engine answers.

use crate::text::ToolCall;

/// All answers to one request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The model that answered.
    pub model: String,
    /// `n` answers.
    pub choices: Vec<Choice>,
    /// The prompt's tokens, where they were asked for.
    pub prompt: Vec<Token>,
    /// What it took.
    pub usage: Usage,
}

/// One answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The words.
    pub text: String,
    /// Its tokens, where their log-probabilities were asked for; with the token that ended it, where one did.
    pub tokens: Vec<Token>,
    /// What the search thought of it, where it says so: the log-probability of all its tokens in nats, with beams divided by
    /// the length to the power of the length penalty.
    pub score: Option<f64>,
    /// The functions that it calls.
    pub tool_calls: Vec<ToolCall>,
    /// Why it ended.
    pub finish: Finish,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finish {
    /// The model ended it, or a stop text or token did.
    Stop,
    /// It has as many tokens as were allowed.
    Length,
    /// The model calls functions.
    ToolCalls,
}

impl Finish {
    /// OpenAI's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::ToolCalls => "tool_calls",
        }
    }

    /// What a server's word means; words of its own (`eos_token`, `content_filter`) are [`Stop`](Self::Stop).
    pub fn from_word(word: &str) -> Self {
        match word {
            "length" => Self::Length,
            "tool_calls" | "function_call" => Self::ToolCalls,
            _ => Self::Stop,
        }
    }
}

/// A token of a prompt or an answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// Its text; replacement characters where it is a part of a character.
    pub text: String,
    /// Its text's bytes, where they are known.
    pub bytes: Option<Vec<u8>>,
    /// Natural logarithm of its probability; nothing for the first token of a prompt, and where it was not asked for.
    pub logprob: Option<f32>,
    /// The likeliest tokens at its place, likeliest first.
    pub top: Vec<TopToken>,
}

/// A token that could have stood there.
#[derive(Clone, Debug, PartialEq)]
pub struct TopToken {
    /// Its text.
    pub text: String,
    /// Its text's bytes, where they are known.
    pub bytes: Option<Vec<u8>>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// What an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompt, images included.
    pub prompt_tokens: u64,
    /// Those of them that were not read, because an earlier prompt began with them.
    pub cached_tokens: u64,
    /// Tokens written, over all choices.
    pub completion_tokens: u64,
}
