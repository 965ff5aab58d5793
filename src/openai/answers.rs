//! The bodies of answers. Fields that some servers leave out have defaults, so that the client reads them all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::messages::WireToolCall;

/// The least log-probability that travels: JSON has no infinity, and clients add what they get.
const LEAST_LOGPROB: f32 = -9999.0;

/// A log-probability that JSON can carry.
pub fn finite(logprob: f32) -> f32 {
    if logprob.is_nan() { LEAST_LOGPROB } else { logprob.clamp(LEAST_LOGPROB, 0.0) }
}

/// The answer to a chat request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatAnswer {
    /// The answer's own name.
    #[serde(default)]
    pub id: String,
    /// `chat.completion`.
    #[serde(default)]
    pub object: String,
    /// Seconds since 1970.
    #[serde(default)]
    pub created: u64,
    /// Which model answered.
    #[serde(default)]
    pub model: String,
    /// The answers.
    pub choices: Vec<ChatChoice>,
    /// What it took.
    #[serde(default)]
    pub usage: Option<UsageAnswer>,
}

/// One of the answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatChoice {
    /// Which.
    pub index: usize,
    /// What the assistant says.
    pub message: ChatMessageAnswer,
    /// Its tokens' log-probabilities.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop`, `length` or `tool_calls`.
    pub finish_reason: Option<String>,
}

/// What the assistant says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatMessageAnswer {
    /// `assistant`.
    #[serde(default)]
    pub role: String,
    /// The words.
    pub content: Option<String>,
    /// Always nothing here; clients look for it.
    #[serde(default)]
    pub refusal: Option<String>,
    /// The functions that it calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<WireToolCall>>,
}

/// Log-probabilities of a chat's answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatLogprobs {
    /// One for each token.
    pub content: Option<Vec<TokenLogprob>>,
}

/// A token, what it is worth, and what else could have stood there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// Its text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its text's bytes: a token may be half a character.
    #[serde(default)]
    pub bytes: Option<Vec<u8>>,
    /// The likeliest tokens at its place.
    #[serde(default)]
    pub top_logprobs: Vec<TopLogprob>,
}

/// A token that could have stood there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopLogprob {
    /// Its text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f32,
    /// Its text's bytes.
    #[serde(default)]
    pub bytes: Option<Vec<u8>>,
}

/// A piece of a streamed chat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatChunk {
    /// The answer's own name, the same in all pieces.
    #[serde(default)]
    pub id: String,
    /// `chat.completion.chunk`.
    #[serde(default)]
    pub object: String,
    /// Seconds since 1970.
    #[serde(default)]
    pub created: u64,
    /// Which model answers.
    #[serde(default)]
    pub model: String,
    /// What is new; empty where the piece counts tokens.
    pub choices: Vec<ChunkChoice>,
    /// What it took, in the last piece, where it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageAnswer>,
}

/// What is new about one of the answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChunkChoice {
    /// Which.
    pub index: usize,
    /// What is added.
    #[serde(default)]
    pub delta: ChatDelta,
    /// The new tokens' log-probabilities.
    #[serde(default)]
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ends, in its last piece.
    #[serde(default)]
    pub finish_reason: Option<String>,
}

/// What is added to a message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ChatDelta {
    /// `assistant`, in the first piece.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// Calls, or pieces of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<WireToolCall>>,
}

/// The answer to a completion request; also each piece of a streamed one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Completion {
    /// The answer's own name.
    #[serde(default)]
    pub id: String,
    /// `text_completion`.
    #[serde(default)]
    pub object: String,
    /// Seconds since 1970.
    #[serde(default)]
    pub created: u64,
    /// Which model answered.
    #[serde(default)]
    pub model: String,
    /// `n` answers for the first prompt, then those for the second …
    pub choices: Vec<CompletionChoice>,
    /// What it took.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageAnswer>,
}

/// One of the answers, or what is new about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CompletionChoice {
    /// Which.
    pub index: usize,
    /// The words, behind the prompt's where that was asked for.
    pub text: String,
    /// The tokens' log-probabilities.
    #[serde(default)]
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`.
    #[serde(default)]
    pub finish_reason: Option<String>,
}

/// Log-probabilities of a completion: lists of one entry per token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CompletionLogprobs {
    /// Where each token begins in the text, in characters.
    #[serde(default)]
    pub text_offset: Vec<usize>,
    /// Natural logarithms; nothing for the first token of a prompt.
    pub token_logprobs: Vec<Option<f32>>,
    /// Their texts.
    pub tokens: Vec<String>,
    /// The likeliest tokens at each place, with the token itself; nothing for the first token of a prompt.
    #[serde(default)]
    pub top_logprobs: Option<Vec<Option<BTreeMap<String, f32>>>>,
}

/// What an answer took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageAnswer {
    /// Tokens of the prompt.
    #[serde(default)]
    pub prompt_tokens: u64,
    /// Tokens written.
    #[serde(default)]
    pub completion_tokens: u64,
    /// Both.
    #[serde(default)]
    pub total_tokens: u64,
    /// More about the prompt's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
}

/// More about a prompt's tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTokensDetails {
    /// Those that were not read, because an earlier prompt began with them. Some servers write `null`.
    #[serde(default)]
    pub cached_tokens: Option<u64>,
}

/// The answer to a request for embeddings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingAnswer {
    /// `list`.
    pub object: String,
    /// One per text, in order.
    pub data: Vec<EmbeddingItem>,
    /// Which model answered.
    pub model: String,
    /// What it took.
    pub usage: UsageAnswer,
}

/// One text's embedding.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EmbeddingItem {
    /// `embedding`.
    pub object: String,
    /// Which text.
    pub index: usize,
    /// The numbers.
    pub embedding: EmbeddingValues,
}

/// An embedding's numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EmbeddingValues {
    /// As JSON numbers.
    Float(Vec<f32>),
    /// As base64 of little-endian 32-bit floats.
    Base64(String),
}

/// The answer to a request for scores.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreAnswer {
    /// The answer's own name.
    #[serde(default)]
    pub id: String,
    /// `list`.
    #[serde(default)]
    pub object: String,
    /// Seconds since 1970.
    #[serde(default)]
    pub created: u64,
    /// Which model answered.
    #[serde(default)]
    pub model: String,
    /// One per conversation or text, in order.
    pub data: Vec<ScoreItem>,
    /// What it took.
    #[serde(default)]
    pub usage: UsageAnswer,
}

/// One score.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ScoreItem {
    /// Which conversation or text.
    pub index: usize,
    /// `score`.
    #[serde(default)]
    pub object: String,
    /// Higher is better.
    pub score: f64,
}

/// The answer to a request for classes, as vLLM gives it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassifyAnswer {
    /// The answer's own name.
    #[serde(default)]
    pub id: String,
    /// `list`.
    #[serde(default)]
    pub object: String,
    /// Seconds since 1970.
    #[serde(default)]
    pub created: u64,
    /// Which model answered.
    #[serde(default)]
    pub model: String,
    /// One per conversation or text, in order.
    pub data: Vec<ClassifyItem>,
    /// What it took.
    #[serde(default)]
    pub usage: UsageAnswer,
}

/// The classes of one text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClassifyItem {
    /// Which conversation or text.
    pub index: usize,
    /// The name of the likeliest class.
    #[serde(default)]
    pub label: Option<String>,
    /// The probability of each class.
    pub probs: Vec<f64>,
    /// How many there are.
    #[serde(default)]
    pub num_classes: usize,
}

/// The models that a server has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelList {
    /// `list`.
    #[serde(default)]
    pub object: String,
    /// Base models and adapters.
    pub data: Vec<ModelCard>,
}

/// A model, or an adapter on one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard {
    /// What requests call it.
    pub id: String,
    /// `model`.
    #[serde(default)]
    pub object: String,
    /// Seconds since 1970.
    #[serde(default)]
    pub created: u64,
    /// Who serves it.
    #[serde(default)]
    pub owned_by: String,
    /// The base model, of an adapter.
    #[serde(default)]
    pub parent: Option<String>,
}
