//! A server with OpenAI's interface, over anything that answers.
//!
//! The model is a [`Backend`]: it works on threads of its own and sends what happens as [`Event`]s. Everything here moves
//! events only, on one thread, with axum and tokio; requests are parsed, and pictures looked at, on a few more.
//!
//! | route | |
//! |---|---|
//! | `GET /v1/models`, `/v1/models/{id}` | models and adapters |
//! | `POST /v1/chat/completions` | text and pictures, streamed or not |
//! | `POST /v1/completions` | prompts as text or token ids, with `echo` and `logprobs` as lm-evaluation-harness needs them |
//! | `POST /v1/embeddings` | the pooled last hidden state of texts, of length 1 |
//! | `POST /score`, `/v1/score` | for reward models |
//! | `POST /classify`, `/v1/classify` | for classifiers |
//! | `GET /health`, `GET /metrics` | for whoever watches; metrics in Prometheus' text form |
//! | `GET /` | a page to chat with |
//!
//! # What it does not let through
//! - Without another address it listens on this machine only, and there it wants to be addressed by this machine's name, so
//!   that no web page can reach it under a name of its own. A bearer token, where one is set, is compared in constant time;
//!   only `/` and `/health` answer without it.
//! - Bodies must be `application/json`, which a browser sends to another site only after asking; they are bounded in bytes,
//!   values and depth, one by one and all together.
//! - Pictures come as data URLs, or as files under [`ServeSettings::images_root`]; nothing is fetched. Their headers are
//!   checked before anything is decoded.
//! - The queue is bounded: where it is full, the answer is 429 with `Retry-After`. A client that leaves cancels its work,
//!   in the queue too.

mod admit;
mod backend;
mod body;
mod connections;
mod error;
mod gate;
mod images;
mod job;
mod metrics;
mod page;
mod prepare;
mod routes;
mod server;
mod settings;
mod shapes;
mod stream;
#[cfg(test)]
mod tests;

pub use backend::{Backend, Cancel, Classified, Embedding, Event, Events, Refused, Reply, Scored};
pub use error::ServeError;
pub use server::{Handle, Server};
pub use settings::{Limits, Secret, ServeSettings};
