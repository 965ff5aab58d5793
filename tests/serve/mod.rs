//! The server, over a backend without a model and over tiny ones: by sockets, so that clients can be as hostile as they like.

mod answers;
mod clients;
mod crowd;
mod echo;
mod engine;
mod hostile;
mod http;
mod images;
mod leaving;
mod local;
mod refusals;
mod shutdown;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use echo::{Counts, Echo};
use firebrick::serve::{Backend, Handle, ServeSettings, Server};
use http::{Answer, Open, get, post};
use serde_json::{Value, json};

/// A server that runs until the test ends.
struct Running {
    address: SocketAddr,
    handle: Handle,
    counts: Arc<Counts>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    fn new() -> Self {
        Self::with(ServeSettings::default(), Echo::default())
    }

    fn with(settings: ServeSettings, echo: Echo) -> Self {
        let counts = Arc::clone(&echo.counts);
        let mut running = Self::over(settings, Arc::new(echo));
        running.counts = counts;
        running
    }

    /// Over whatever answers.
    fn over(settings: ServeSettings, backend: Arc<dyn Backend>) -> Self {
        let settings = ServeSettings { address: SocketAddr::from(([127, 0, 0, 1], 0)), ..settings };
        let server = Server::bind(settings, backend).unwrap();
        let (address, handle) = (server.address(), server.handle());
        let thread = std::thread::spawn(move || server.run().unwrap());
        Self { address, handle, counts: Arc::default(), thread: Some(thread) }
    }

    fn get(&self, path: &str) -> Answer {
        Open::send(self.address, &get(path, "")).answer().unwrap()
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        Open::post(self.address, path, body).answer().unwrap()
    }

    fn send(&self, bytes: &[u8]) -> Option<Answer> {
        Open::send(self.address, bytes).answer()
    }

    /// A number of `/metrics`.
    fn metric(&self, name: &str) -> f64 {
        let metrics = self.get("/metrics");
        let line =
            metrics.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
        line.unwrap_or_else(|| panic!("no {name} in\n{}", metrics.text())).parse().unwrap()
    }

    /// The server still answers, and nothing is left of what was asked before.
    fn is_well(&self) {
        assert_eq!(self.get("/health").status, 200);
        until("everything is done", || self.metric("firebrick_running") + self.metric("firebrick_queue_length") == 0.0);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.shut_down();
        self.handle.shut_down();
        if let Some(thread) = self.thread.take() {
            // A failed test has its own message.
            let _ = thread.join();
        }
    }
}

/// Waits for something that must come.
fn until(what: &str, mut reached: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < Duration::from_secs(20), "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

fn chat(words: &str) -> Value {
    json!({"model": "echo", "messages": [{"role": "user", "content": words}]})
}

fn with(mut body: Value, key: &str, value: impl Into<Value>) -> Value {
    body[key] = value.into();
    body
}
