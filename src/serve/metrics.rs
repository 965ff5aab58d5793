//! Numbers for whoever watches, in Prometheus' text form.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::admit::Queue;

/// Upper bounds of a histogram's buckets, in seconds.
const BOUNDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// The counters.
#[derive(Debug, Default)]
pub(super) struct Metrics(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    requests: BTreeMap<(&'static str, u16), u64>,
    durations: BTreeMap<&'static str, Histogram>,
    first_token: Histogram,
    queue_time: Histogram,
    prompt_tokens: u64,
    generated_tokens: u64,
    connections: u64,
}

#[derive(Debug, Default)]
struct Histogram {
    buckets: [u64; BOUNDS.len()],
    sum: f64,
    count: u64,
}

impl Histogram {
    fn add(&mut self, time: Duration) {
        let seconds = time.as_secs_f64();
        for (bucket, bound) in self.buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(seconds <= bound);
        }
        self.sum += seconds;
        self.count += 1;
    }

    fn write(&self, text: &mut String, name: &str, labels: &str) {
        let comma = if labels.is_empty() { "" } else { "," };
        for (bucket, bound) in self.buckets.iter().zip(BOUNDS) {
            let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {bucket}");
        }
        let braces = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
        let _ = writeln!(text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {}", self.count);
        let _ = writeln!(text, "{name}_sum{braces} {}\n{name}_count{braces} {}", self.sum, self.count);
    }
}

impl Metrics {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request was answered to its end; 499 where the client left before.
    pub fn request(&self, route: &'static str, status: u16, took: Duration) {
        let mut counts = self.counts();
        *counts.requests.entry((route, status)).or_default() += 1;
        counts.durations.entry(route).or_default().add(took);
    }

    /// A prompt has got its slot.
    pub fn queued(&self, waited: Duration) {
        self.counts().queue_time.add(waited);
    }

    /// The first token of an answer.
    pub fn first_token(&self, took: Duration) {
        self.counts().first_token.add(took);
    }

    /// Tokens read and written.
    pub fn tokens(&self, prompt: u64, generated: u64) {
        let mut counts = self.counts();
        counts.prompt_tokens += prompt;
        counts.generated_tokens += generated;
    }

    /// A connection was opened (+1) or closed (-1).
    pub fn connection(&self, opened: bool) {
        let mut counts = self.counts();
        counts.connections = if opened { counts.connections + 1 } else { counts.connections.saturating_sub(1) };
    }

    /// All numbers.
    pub fn text(&self, queue: &Queue) -> String {
        let counts = self.counts();
        let mut text = String::new();
        let head = |text: &mut String, name: &str, kind: &str, help: &str| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        head(
            &mut text,
            "firebrick_http_requests_total",
            "counter",
            "Requests by route and status; 499: the client left.",
        );
        for ((route, status), count) in &counts.requests {
            let _ = writeln!(text, "firebrick_http_requests_total{{route=\"{route}\",status=\"{status}\"}} {count}");
        }
        for (name, kind, help, value) in [
            ("firebrick_queue_length", "gauge", "Prompts that wait for a slot.", queue.waiting() as u64),
            ("firebrick_running", "gauge", "Prompts that have a slot.", queue.running() as u64),
            ("firebrick_connections", "gauge", "Open connections.", counts.connections),
            ("firebrick_prompt_tokens_total", "counter", "Tokens of prompts.", counts.prompt_tokens),
            ("firebrick_generated_tokens_total", "counter", "Tokens written.", counts.generated_tokens),
        ] {
            head(&mut text, name, kind, help);
            let _ = writeln!(text, "{name} {value}");
        }
        let name = "firebrick_request_duration_seconds";
        head(&mut text, name, "histogram", "From a request's head to the end of its answer.");
        for (route, histogram) in &counts.durations {
            histogram.write(&mut text, name, &format!("route=\"{route}\""));
        }
        for (name, help, histogram) in [
            ("firebrick_time_to_first_token_seconds", "From a request to its first token.", &counts.first_token),
            ("firebrick_queue_time_seconds", "From a request to its slot.", &counts.queue_time),
        ] {
            head(&mut text, name, "histogram", help);
            histogram.write(&mut text, name, "");
        }
        text
    }
}
