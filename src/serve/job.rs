//! Work that was handed to the backend, and what comes of it.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::backend::{Cancel, Event, Events, Refused, Reply};
use super::error::ApiError;
use super::routes::App;
use crate::engine::{Request, Usage};

/// Prompts that are being answered, or wait to be. Dropped, it cancels them.
#[derive(Debug)]
pub(super) struct Job {
    app: Arc<App>,
    events: UnboundedReceiver<(usize, Event)>,
    stop: CancelOnDrop,
    since: Instant,
    first_token: bool,
    open: usize,
    usage: Usage,
    /// The body's bytes are in use until the job ends: pictures are part of it.
    _share: OwnedSemaphorePermit,
}

/// Cancels what is left to do.
#[derive(Debug, Default)]
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

impl Job {
    /// Puts prompts of `choices` answers each into the queue.
    pub fn start(
        app: &Arc<App>,
        requests: Vec<Request>,
        choices: usize,
        share: OwnedSemaphorePermit,
    ) -> Result<Self, ApiError> {
        let tickets = app.queue.enter(requests.len(), choices)?;
        let (sender, events) = unbounded_channel();
        let stop = CancelOnDrop::default();
        let (since, open) = (Instant::now(), requests.len());
        for (prompt, (request, ticket)) in requests.into_iter().zip(tickets).enumerate() {
            let (app, sender, cancel) = (Arc::clone(app), sender.clone(), stop.0.clone());
            tokio::spawn(async move {
                let slot = tokio::select! {
                    slot = ticket.slot() => slot,
                    () = sender.closed() => return,
                };
                app.metrics.queued(since.elapsed());
                let events = Events { prompt, sender: sender.clone(), cancel, slot };
                if let Err(refused) = app.backend.generate(request, events) {
                    // Nobody may be there to hear it.
                    let _ = sender.send((prompt, Event::Failed(refused)));
                }
            });
        }
        let app = Arc::clone(app);
        Ok(Self { app, events, stop, since, first_token: false, open, usage: Usage::default(), _share: share })
    }

    /// The next event and its prompt; nothing once all prompts are answered.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<(usize, Event), ApiError>>> {
        while self.open > 0 {
            let Some((prompt, event)) = ready!(self.events.poll_recv(context)) else {
                self.open = 0;
                let words = "the model stopped in the middle of the answer".to_owned();
                return Poll::Ready(Some(Err(Refused::Failed(words).into())));
            };
            match event {
                Event::Done(usage) => {
                    self.open -= 1;
                    self.usage.prompt_tokens += usage.prompt_tokens;
                    self.usage.cached_tokens += usage.cached_tokens;
                    self.usage.completion_tokens += usage.completion_tokens;
                    self.app.metrics.tokens(usage.prompt_tokens, usage.completion_tokens);
                }
                Event::Failed(refused) => {
                    self.open = 0;
                    self.stop.0.cancel();
                    return Poll::Ready(Some(Err(refused.into())));
                }
                event => {
                    if matches!(event, Event::Text { .. }) && !std::mem::replace(&mut self.first_token, true) {
                        self.app.metrics.first_token(self.since.elapsed());
                    }
                    return Poll::Ready(Some(Ok((prompt, event))));
                }
            }
        }
        Poll::Ready(None)
    }

    /// As [`poll`](Self::poll), to be awaited.
    pub async fn next(&mut self) -> Option<Result<(usize, Event), ApiError>> {
        std::future::poll_fn(|context| self.poll(context)).await
    }

    /// What it took so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }
}

/// Asks the backend for a result of one piece per request, in order.
pub(super) async fn ask<R: Send + 'static, T: Send + 'static>(
    app: &Arc<App>,
    requests: Vec<R>,
    submit: fn(&App, R, Reply<T>) -> Result<(), Refused>,
) -> Result<Vec<T>, ApiError> {
    let tickets = app.queue.enter(requests.len(), 1)?;
    let stop = CancelOnDrop::default();
    let mut waiting = Vec::new();
    for (request, ticket) in requests.into_iter().zip(tickets) {
        let (sender, receiver) = oneshot::channel();
        waiting.push(receiver);
        let (app, cancel, since) = (Arc::clone(app), stop.0.clone(), Instant::now());
        tokio::spawn(async move {
            let mut sender = sender;
            let slot = tokio::select! {
                slot = ticket.slot() => slot,
                () = sender.closed() => return,
            };
            app.metrics.queued(since.elapsed());
            // What is refused at once takes the sender with it: the words travel beside.
            let (inner, outcome) = oneshot::channel();
            let result = match submit(&app, request, Reply { sender: inner, cancel, slot }) {
                Err(refused) => Err(refused),
                Ok(()) => match outcome.await {
                    Ok(result) => result,
                    Err(_) => Err(Refused::Failed("the model stopped before it had a result".to_owned())),
                },
            };
            let _ = sender.send(result);
        });
    }
    let mut results = Vec::new();
    for receiver in waiting {
        let stopped = |_| Refused::Failed("the server is stopping".to_owned());
        results.push(receiver.await.map_err(stopped)??);
    }
    Ok(results)
}
