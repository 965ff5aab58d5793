//! The engine at the other end of an HTTP connection.

mod client;
mod read;
mod retry;
mod settings;
mod settings_sent;
mod stream;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;

use client::{Attempt, Client};
pub use settings::{HttpSettings, Retries};

use super::{Answer, Engine, EngineError, Finished, ModelInfo, Request, ScoreRequest};

/// Any server with OpenAI's interface.
///
/// A request's `model` is sent as it is, so an adapter is chosen by the name that the server knows it by; without one, the
/// first model that the server lists is asked for. Of further settings those go out that OpenAI's interface or vLLM's has a
/// field for, and a key is mixed into the seed, so that equal prompts of one seed are drawn apart; `eos_token_id` is sent
/// as `stop_token_ids` with `ignore_eos`, and `do_sample: false` as a temperature of 0. Failed connections, answers that are cut off, and the statuses 408, 429
/// and 5xx are tried again, as [`Retries`] says; everything else is final.
#[derive(Debug)]
pub struct HttpEngine {
    client: Arc<Client>,
    concurrency: usize,
}

impl HttpEngine {
    /// An engine; nothing is sent yet.
    ///
    /// # Errors
    /// [`EngineError::Setting`] for an address, a key or certificates that cannot be used.
    pub fn new(settings: HttpSettings) -> Result<Self, EngineError> {
        let concurrency = settings.concurrency;
        if concurrency == 0 || settings.retries.attempts == 0 {
            let setting = if concurrency == 0 { "concurrency" } else { "retries.attempts" };
            return Err(EngineError::Setting { setting, value: "0".into(), expected: "at least 1".into() });
        }
        Ok(Self { client: Arc::new(Client::new(settings)?), concurrency })
    }

    /// Whether the request can be sent at all; nothing is sent.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] with what OpenAI's interface has no field for, [`EngineError::Image`].
    pub fn accepts(&self, request: &Request) -> Result<(), EngineError> {
        write::generation(request, false).map(drop)
    }

    /// The requests with a model each: where one names none, the first that the server lists. Where that cannot be had, every
    /// request has failed; asking once spares a thousand of them a thousand waits.
    fn named<R: Clone, T>(
        &self,
        requests: &[R],
        model: fn(&mut R) -> &mut Option<String>,
        id: fn(&R) -> &str,
        finished: &mut Finished<'_, T>,
    ) -> Option<Vec<R>> {
        let mut named = requests.to_vec();
        if named.iter_mut().all(|request| model(request).is_some()) {
            return Some(named);
        }
        let first = match self.client.models() {
            Ok(models) => models.into_iter().next().ok_or_else(|| format!("{} lists no model; name one", self.name())),
            Err(error) => Err(error.to_string()),
        };
        match first {
            Ok(first) => {
                for request in &mut named {
                    model(request).get_or_insert_with(|| first.id.clone());
                }
                Some(named)
            }
            Err(reason) => {
                for (index, request) in requests.iter().enumerate() {
                    let error = EngineError::Failed { request: id(request).to_owned(), reason: reason.clone() };
                    if finished(index, Err(error)).is_break() {
                        break;
                    }
                }
                None
            }
        }
    }

    /// Does `work` on every item, several at once.
    ///
    /// The threads own what they work on: where the caller stops, they end by themselves when their answer comes, and the
    /// caller need not wait for a slow server.
    fn each<I, T>(&self, items: &[I], id: fn(&I) -> &str, work: Work<I, T>, finished: &mut Finished<'_, T>)
    where
        I: Clone + Send + Sync + 'static,
        T: Send + 'static,
    {
        let items: Arc<[I]> = items.into();
        let (next, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (done, results) = channel();
        for _ in 0..self.concurrency.min(items.len()) {
            let (items, next, stop) = (Arc::clone(&items), Arc::clone(&next), Arc::clone(&stop));
            let (client, done) = (Arc::clone(&self.client), done.clone());
            std::thread::spawn(move || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    let Some(result) = work(&client, item, &stop) else { return };
                    if done.send((index, result)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        let mut missing: Vec<bool> = vec![true; items.len()];
        for (index, result) in results {
            missing[index] = false;
            if finished(index, result).is_break() {
                stop.store(true, Ordering::Relaxed);
                return;
            }
        }
        // Only where a thread died.
        for (index, item) in items.iter().enumerate().filter(|(index, _)| missing[*index]) {
            let (request, reason) = (id(item).to_owned(), "the thread that sent it died".to_owned());
            if finished(index, Err(EngineError::Failed { request, reason })).is_break() {
                return;
            }
        }
    }
}

/// One item's work; `None` where it was stopped.
type Work<I, T> = fn(&Client, &I, &AtomicBool) -> Option<Result<T, EngineError>>;

impl Engine for HttpEngine {
    fn name(&self) -> String {
        self.client.base().to_owned()
    }

    fn models(&self) -> Result<Vec<ModelInfo>, EngineError> {
        self.client.models()
    }

    fn generate(&self, requests: &[Request], finished: &mut Finished<'_, Answer>) {
        let id: fn(&Request) -> &str = |request| &request.id;
        if let Some(named) = self.named(requests, |request| &mut request.model, id, finished) {
            self.each(&named, id, Client::generate, finished);
        }
    }

    fn score(&self, requests: &[ScoreRequest], finished: &mut Finished<'_, f64>) {
        let id: fn(&ScoreRequest) -> &str = |request| &request.id;
        if let Some(named) = self.named(requests, |request| &mut request.model, id, finished) {
            self.each(&named, id, Client::score, finished);
        }
    }

    /// By vLLM's `/classify`, which stands beside its `/v1`.
    fn classify(&self, requests: &[ScoreRequest], finished: &mut Finished<'_, Vec<f64>>) {
        let id: fn(&ScoreRequest) -> &str = |request| &request.id;
        if let Some(named) = self.named(requests, |request| &mut request.model, id, finished) {
            self.each(&named, id, Client::classify, finished);
        }
    }
}

impl Client {
    fn generate(&self, request: &Request, stop: &AtomicBool) -> Option<Result<Answer, EngineError>> {
        let (path, body) = match write::generation(request, self.settings().stream) {
            Ok(prepared) => prepared,
            Err(error) => return Some(Err(error)),
        };
        let attempt = Attempt { request: &request.id, path, body: &body };
        self.repeat(stop, || match (path, self.settings().stream) {
            (write::CHAT, true) => self.stream(&attempt, stream::chat(request)),
            (write::CHAT, false) => self.whole(&attempt, |answer| read::chat(request, answer)),
            (_, true) => self.stream(&attempt, stream::completion(request)),
            (_, false) => self.whole(&attempt, |answer| read::completion(request, answer)),
        })
    }

    fn score(&self, request: &ScoreRequest, stop: &AtomicBool) -> Option<Result<f64, EngineError>> {
        let (path, body) = match write::score(request) {
            Ok(prepared) => prepared,
            Err(error) => return Some(Err(error)),
        };
        let attempt = Attempt { request: &request.id, path, body: &body };
        self.repeat(stop, || self.whole(&attempt, read::score))
    }

    fn classify(&self, request: &ScoreRequest, stop: &AtomicBool) -> Option<Result<Vec<f64>, EngineError>> {
        let (path, body) = match write::classify(request) {
            Ok(prepared) => prepared,
            Err(error) => return Some(Err(error)),
        };
        let attempt = Attempt { request: &request.id, path, body: &body };
        self.repeat(stop, || self.whole(&attempt, read::classes))
    }
}
