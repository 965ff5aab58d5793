//! The engine behind the HTTP server.

use super::reading::{Read, Reader, Reading, Wanted};
use super::{Failure, Job, Listener, LocalEngine, Work};
use crate::engine::{EmbedRequest, Finish, ModelInfo, Prompt, Request, ScoreRequest, Token, Usage};
use crate::serve::{Backend, Classified, Embedding, Event, Events, Refused, Reply, Scored};

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

    fn is_alive(&self) -> bool {
        self.engine.is_alive()
    }

    fn generate(&self, mut request: Request, events: Events) -> Result<(), Refused> {
        if request.sampling.seed.is_none() {
            // Two clients that name no seed are not to get the same words.
            request.sampling.seed = Some(rand::random::<u64>() >> 1);
        }
        // One key for all: the same seed gives the same answer.
        self.engine.send(vec![Work::Write(Box::new(Job { request, key: 0, listener: Box::new(Streamed(events)) }))]);
        Ok(())
    }

    fn embed(&self, request: EmbedRequest, reply: Reply<Embedding>) -> Result<(), Refused> {
        let EmbedRequest { model, prompt, pooling, dimensions, .. } = request;
        let take = |Read { values, tokens, .. }| Embedding {
            values: values.into_iter().map(|value| value as f32).collect(),
            tokens,
        };
        self.read(model, prompt, Wanted::Embedding { pooling, dimensions }, reply, take);
        Ok(())
    }

    fn score(&self, request: ScoreRequest, reply: Reply<Scored>) -> Result<(), Refused> {
        // A head of one output was looked for.
        let take = |Read { values, tokens, .. }| Scored { score: values.first().copied().unwrap_or(f64::NAN), tokens };
        self.read(request.model, request.prompt, Wanted::Score, reply, take);
        Ok(())
    }

    fn classify(&self, request: ScoreRequest, reply: Reply<Classified>) -> Result<(), Refused> {
        let take = |Read { values, labels, tokens }| Classified { probabilities: values, labels, tokens };
        self.read(request.model, request.prompt, Wanted::Classes, reply, take);
        Ok(())
    }
}

impl LocalBackend {
    fn read<T: Send + 'static>(
        &self,
        model: Option<String>,
        prompt: Prompt,
        wanted: Wanted,
        reply: Reply<T>,
        take: fn(Read) -> T,
    ) {
        let reader = Box::new(Answered { reply, take });
        self.engine.send(vec![Work::Read(Reading { model, prompt, wanted, reader })]);
    }
}

struct Answered<T> {
    reply: Reply<T>,
    take: fn(Read) -> T,
}

impl<T: Send> Reader for Answered<T> {
    fn done(self: Box<Self>, result: Result<Read, Failure>) {
        let Self { reply, take } = *self;
        reply.send(result.map(take).map_err(refused));
    }

    fn is_cancelled(&self) -> bool {
        self.reply.is_cancelled()
    }
}

fn refused(failure: Failure) -> Refused {
    match failure {
        Failure::Invalid(words) => Refused::Invalid(words),
        Failure::Broken(words) => Refused::Failed(words),
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
        self.0.send(Event::Failed(refused(failure)));
    }

    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }
}
