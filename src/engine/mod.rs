//! Whoever answers: the trait [`Engine`], what it is asked and what it answers, and the engine at the other end of an HTTP
//! connection.
//!
//! A [`Request`] says nothing about how it travels. [`HttpEngine`] sends it to any server with OpenAI's interface (vLLM,
//! SGLang, mistral.rs, llama.cpp, or [`serve`](crate::serve)); an engine of another crate implements the trait.

mod answer;
mod error;
mod http;
mod request;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

pub use answer::{Answer, Choice, Finish, Token, TopToken, Usage};
pub use error::EngineError;
pub use http::{HttpEngine, HttpSettings, Retries};
pub use request::{EmbedRequest, ImageSource, ModelInfo, Prompt, Request, Sampling, ScoreRequest};

/// Takes what came of the request with this index; `Break` asks the engine to stop.
pub type Finished<'a, T> = dyn FnMut(usize, Result<T, EngineError>) -> ControlFlow<()> + 'a;

/// Something that answers.
pub trait Engine: Send + Sync {
    /// What messages call it: a folder or an address.
    fn name(&self) -> String;

    /// The models and adapters that requests may name, the default first.
    ///
    /// # Errors
    /// [`EngineError`] where it cannot be asked.
    fn models(&self) -> Result<Vec<ModelInfo>, EngineError>;

    /// Answers all requests. `finished` is called once for each, on the caller's thread, in the order in which they are
    /// finished; a request that fails does not stop the others. After `Break` nothing further is called or begun.
    fn generate(&self, requests: &[Request], finished: &mut Finished<'_, Answer>);

    /// Scores all requests by a reward model, higher is better; `finished` as in [`generate`](Self::generate).
    fn score(&self, requests: &[ScoreRequest], finished: &mut Finished<'_, f64>);

    /// Classifies all requests: the probability of each class, in the order of the classes; `finished` as in
    /// [`generate`](Self::generate).
    fn classify(&self, requests: &[ScoreRequest], finished: &mut Finished<'_, Vec<f64>>);
}
