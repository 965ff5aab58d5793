//! The engine behind the HTTP server.

use super::{Failure, Job, Listener, LocalEngine};
use crate::engine::{Finish, ModelInfo, Request, Token, Usage};
use crate::serve::{Backend, Event, Events, Refused};

/// A [`LocalEngine`] as a server asks it.
#[derive(Debug)]
pub struct LocalBackend {
    models: Vec<ModelInfo>,
    engine: LocalEngine,
}

impl LocalBackend {
    /// Takes the engine.
    pub fn new(engine: LocalEngine) -> Self {
        Self { models: engine.models.clone(), engine }
    }
}

impl Backend for LocalBackend {
    fn models(&self) -> Vec<ModelInfo> {
        self.models.clone()
    }

    fn generate(&self, mut request: Request, events: Events) -> Result<(), Refused> {
        if request.sampling.seed.is_none() {
            // Two clients that name no seed are not to get the same words.
            request.sampling.seed = Some(rand::random::<u64>() >> 1);
        }
        // One key for all: the same seed gives the same answer.
        self.engine.send(vec![Job { request, key: 0, listener: Box::new(Streamed(events)) }]);
        Ok(())
    }
}

struct Streamed(Events);

impl Listener for Streamed {
    fn prompt(&mut self, tokens: Vec<Token>) {
        self.0.send(Event::Prompt(tokens));
    }

    fn text(&mut self, choice: usize, text: String, token: Option<Token>) -> bool {
        self.0.send(Event::Text { choice, text, token })
    }

    fn finished(&mut self, choice: usize, finish: Finish) {
        self.0.send(Event::Finished { choice, finish, tool_calls: Vec::new() });
    }

    fn done(self: Box<Self>, usage: Usage) {
        self.0.send(Event::Done(usage));
    }

    fn failed(self: Box<Self>, failure: Failure) {
        self.0.send(Event::Failed(match failure {
            Failure::Invalid(words) => Refused::Invalid(words),
            Failure::Broken(words) => Refused::Failed(words),
        }));
    }

    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}
