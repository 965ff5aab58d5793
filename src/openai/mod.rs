//! The words of OpenAI's HTTP interface: what clients send, what servers answer.
//!
//! Both sides use them: [`serve`](crate::serve) reads requests and writes answers, and
//! [`HttpEngine`](crate::engine::HttpEngine) writes requests and reads answers. Nothing here opens a connection.
//!
//! # Fields of a request
//! A field is obeyed, or it is refused by its name; `null` is as good as absent. Three lists say which is which:
//! - obeyed: the fields of [`ChatRequest`], [`CompletionRequest`], [`EmbeddingRequest`] and [`ScoreRequest`];
//! - [`HARMLESS`]: accepted and not looked at, because no answer depends on them;
//! - [`NEUTRAL`]: accepted with the one value that asks for what happens anyway, refused with any other.
//!
//! Everything else is [`RequestError::Unknown`].

mod answers;
mod error;
mod fields;
mod messages;
mod requests;
mod sampling;
mod sse;
#[cfg(test)]
mod tests;

pub use answers::{
    ChatAnswer, ChatChoice, ChatChunk, ChatDelta, ChatLogprobs, ChatMessageAnswer, ChunkChoice, ClassifyAnswer,
    ClassifyItem, Completion, CompletionChoice, CompletionLogprobs, EmbeddingAnswer, EmbeddingItem, EmbeddingValues,
    ModelCard, ModelList, PromptTokensDetails, ScoreAnswer, ScoreItem, TokenLogprob, TopLogprob, UsageAnswer, finite,
};
pub use error::{ErrorAnswer, ErrorObject, RequestError, error_message};
pub use fields::{HARMLESS, NEUTRAL};
pub use messages::{ChatMessage, Content, ContentPart, FunctionCall, ImageUrl, WireToolCall};
pub use requests::{
    ChatRequest, CompletionRequest, EmbeddingPooling, EmbeddingRequest, Encoding, Input, ScoreInput, ScoreRequest,
    StreamOptions,
};
pub use sampling::SamplingFields;
pub use sse::{DONE, EventReader, SseError, event};
