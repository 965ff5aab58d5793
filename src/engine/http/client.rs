//! Connections: which go out, who asks, and what the answers' statuses mean.

use std::io::Read;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use ureq::http::{HeaderMap, Response};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Timeout};

use super::super::{EngineError, ModelInfo};
use super::retry::{Failure, retry_after, with_retries};
use super::settings::HttpSettings;
use super::write::CLASSIFY;
use crate::openai::{ModelList, error_message};

/// Characters of a wrong answer that an error shows.
const SHOWN: usize = 200;
/// Bytes of a refusal that are read.
const LARGEST_REFUSAL: u64 = 64 << 10;

/// Speaks with one server.
#[derive(Debug)]
pub(super) struct Client {
    base: String,
    key: Option<String>,
    agent: Agent,
    settings: HttpSettings,
}

/// What is sent, as often as it must be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt<'a> {
    /// The request's id.
    pub request: &'a str,
    /// Behind the base address.
    pub path: &'static str,
    /// JSON.
    pub body: &'a [u8],
}

/// What is wrong with a piece of a streamed answer.
#[derive(Debug)]
pub(super) struct Wrong {
    pub reason: String,
    /// Whether another attempt may succeed.
    pub passes: bool,
}

impl From<String> for Wrong {
    fn from(reason: String) -> Self {
        Self { reason, passes: false }
    }
}

/// Gathers the pieces of a streamed answer.
pub(super) trait Gather {
    type Whole;

    /// Takes a piece.
    fn piece(&mut self, data: &str) -> Result<(), Wrong>;

    /// The answer, where it is whole.
    fn whole(self) -> Result<Self::Whole, String>;
}

impl Client {
    pub fn new(settings: HttpSettings) -> Result<Self, EngineError> {
        let (base, uri) = settings.address()?;
        let mut config = Agent::config_builder()
            .user_agent(concat!("firebrick/", env!("CARGO_PKG_VERSION")))
            .accept_encoding("identity")
            .http_status_as_error(false)
            // A request that is sent on elsewhere would take the key along.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .max_idle_connections(settings.concurrency)
            .max_idle_connections_per_host(settings.concurrency)
            .timeout_resolve(Some(settings.connect_timeout))
            .timeout_connect(Some(settings.connect_timeout))
            .timeout_recv_response(Some(settings.answer_timeout))
            .timeout_per_read(Some(settings.read_timeout))
            .tls_config(tls(&settings)?);
        if uri.host().is_some_and(is_loopback) {
            // No proxy can reach this machine under that name.
            config = config.proxy(None);
        }
        let (key, agent) = (settings.key()?, config.build().into());
        Ok(Self { base, key, agent, settings })
    }

    pub fn base(&self) -> &str {
        &self.base
    }

    pub fn settings(&self) -> &HttpSettings {
        &self.settings
    }

    /// Repeats an attempt; `None` where it was stopped.
    pub fn repeat<T>(
        &self,
        stop: &AtomicBool,
        attempt: impl FnMut() -> Result<T, Failure>,
    ) -> Option<Result<T, EngineError>> {
        with_retries(&self.settings.retries, stop, attempt)
    }

    /// The server's models and adapters.
    pub fn models(&self) -> Result<Vec<ModelInfo>, EngineError> {
        let attempt = Attempt { request: "the list of models", path: "/models", body: &[] };
        let list = self.repeat(&AtomicBool::new(false), || self.whole(&attempt, |list: ModelList| Ok(list.data)));
        // Nobody stops it.
        let list = list.transpose()?.unwrap_or_default();
        Ok(list.into_iter().map(|card| ModelInfo { id: card.id, parent: card.parent }).collect())
    }

    /// Sends a request and reads the whole answer. `read`'s error says what is wrong with it.
    pub fn whole<A: DeserializeOwned, T>(
        &self,
        attempt: &Attempt<'_>,
        read: impl FnOnce(A) -> Result<T, String>,
    ) -> Result<T, Failure> {
        let answer = self.send(attempt)?;
        let kind = header(answer.headers(), "content-type").unwrap_or_default().to_owned();
        let mut body = Vec::new();
        self.pour(attempt, answer, |bytes| {
            body.extend_from_slice(bytes);
            Ok(ControlFlow::Continue(()))
        })?;
        if !kind.is_empty() && !kind.contains("json") {
            let reason = format!("the answer's type is {kind:?}, not application/json");
            return Err(self.malformed(attempt, reason, &body).into());
        }
        let parsed: A = serde_json::from_slice(&body).map_err(|error| {
            // Without a length in front, a broken connection looks like an end.
            if error.is_eof() {
                let reason = format!("its JSON ends too early: {error}");
                return Failure::again(self.cut_off(attempt, body.len() as u64, reason));
            }
            self.malformed(attempt, format!("the answer is not the expected JSON ({error})"), &body).into()
        })?;
        read(parsed).map_err(|reason| self.malformed(attempt, reason, &body).into())
    }

    /// Sends a request and gathers the pieces of its answer.
    pub fn stream<G: Gather>(&self, attempt: &Attempt<'_>, mut gather: G) -> Result<G::Whole, Failure> {
        let answer = self.send(attempt)?;
        let kind = header(answer.headers(), "content-type").unwrap_or_default().to_owned();
        if !kind.contains("event-stream") {
            let mut body = Vec::new();
            self.pour(attempt, answer, |bytes| {
                body.extend_from_slice(bytes);
                Ok(ControlFlow::Continue(()))
            })?;
            let reason = format!("the answer's type is {kind:?}, not text/event-stream");
            return Err(self.malformed(attempt, reason, &body).into());
        }
        let limit = usize::try_from(self.settings.largest_answer).unwrap_or(usize::MAX);
        let mut events = crate::openai::EventReader::new(limit);
        let (mut bytes_read, mut done) = (0, false);
        self.pour(attempt, answer, |bytes| {
            bytes_read += bytes.len() as u64;
            let mut wrong = None;
            let read = events.push(bytes, |data| {
                if data == crate::openai::DONE {
                    done = true;
                } else if wrong.is_none()
                    && !done
                    && let Err(why) = gather.piece(&data)
                {
                    wrong = Some((why, data));
                }
            });
            match (wrong, read) {
                (Some((Wrong { reason, passes }, data)), _) => {
                    let error = self.malformed(attempt, reason, data.as_bytes());
                    Err(if passes { Failure::again(error) } else { error.into() })
                }
                // Whatever follows is not the answer's.
                _ if done => Ok(ControlFlow::Break(())),
                (None, Err(error)) => Err(self.malformed(attempt, error.to_string(), bytes).into()),
                (None, Ok(())) => Ok(ControlFlow::Continue(())),
            }
        })?;
        gather.whole().map_err(|reason| match done {
            true => self.malformed(attempt, reason, b"[DONE]").into(),
            false => Failure::again(self.cut_off(attempt, bytes_read, reason)),
        })
    }

    fn send(&self, attempt: &Attempt<'_>) -> Result<Response<Body>, Failure> {
        let url = self.url(attempt);
        let key = self.key.as_ref().map(|key| format!("Bearer {key}"));
        let answer = if attempt.body.is_empty() {
            let mut get = self.agent.get(&url);
            if let Some(key) = key {
                get = get.header("Authorization", key);
            }
            get.call()
        } else {
            let mut post = self.agent.post(&url).header("Content-Type", "application/json");
            if let Some(key) = key {
                post = post.header("Authorization", key);
            }
            post.send(attempt.body)
        };
        let answer = answer.map_err(|error| self.no_answer(attempt, &error))?;
        let status = answer.status().as_u16();
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let wait = header(answer.headers(), "retry-after").and_then(|value| retry_after(value, SystemTime::now()));
        let mut body = Vec::new();
        // What cannot be read of a refusal is not missed.
        let _ = answer.into_body().into_reader().take(LARGEST_REFUSAL).read_to_end(&mut body);
        let body = String::from_utf8_lossy(&body);
        let message = shorten(&error_message(&body).unwrap_or_else(|| body.into_owned()));
        let error = EngineError::Status { request: attempt.request.to_owned(), url, status, message };
        Err(if passes(status) { Failure::Again { error, wait } } else { Failure::Final(error) })
    }

    /// Hands an answer's bytes to `take` as they come, until it breaks off.
    fn pour(
        &self,
        attempt: &Attempt<'_>,
        answer: Response<Body>,
        mut take: impl FnMut(&[u8]) -> Result<ControlFlow<()>, Failure>,
    ) -> Result<(), Failure> {
        let limit = self.settings.largest_answer;
        let too_long = || EngineError::TooLong { request: attempt.request.to_owned(), url: self.url(attempt), limit };
        let mut reader = answer.into_body().into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; 16 << 10];
        let mut total = 0;
        loop {
            let count = match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) if is_timeout(&error) => {
                    let what = format!("the next bytes of the answer, {total} had come");
                    return Err(Failure::again(self.timeout(attempt, what, self.settings.read_timeout)));
                }
                Err(error) => return Err(Failure::again(self.cut_off(attempt, total, printable(&error.to_string())))),
            };
            total += count as u64;
            if total > limit {
                return Err(too_long().into());
            }
            if take(&buffer[..count])?.is_break() {
                return Ok(());
            }
        }
    }

    /// What a request that got no answer means.
    fn no_answer(&self, attempt: &Attempt<'_>, error: &ureq::Error) -> Failure {
        let network = |reason: String| EngineError::Network {
            request: attempt.request.to_owned(),
            url: self.url(attempt),
            reason,
        };
        let reason = printable(&error.to_string());
        match error {
            ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => {
                Failure::again(self.timeout(attempt, "a connection".to_owned(), self.settings.connect_timeout))
            }
            ureq::Error::Timeout(_) => {
                let what = "the beginning of the answer".to_owned();
                Failure::again(self.timeout(attempt, what, self.settings.answer_timeout))
            }
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => {
                network(format!("{reason}; set SSL_CERT_FILE to the server's certificates")).into()
            }
            ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => network(reason).into(),
            _ => Failure::again(network(reason)),
        }
    }

    fn url(&self, attempt: &Attempt<'_>) -> String {
        let base = match attempt.path {
            CLASSIFY => self.base.strip_suffix("/v1").unwrap_or(&self.base),
            _ => &self.base,
        };
        format!("{base}{}", attempt.path)
    }

    fn timeout(&self, attempt: &Attempt<'_>, what: String, waited: Duration) -> EngineError {
        EngineError::Timeout { request: attempt.request.to_owned(), url: self.url(attempt), what, waited }
    }

    fn cut_off(&self, attempt: &Attempt<'_>, bytes: u64, reason: String) -> EngineError {
        EngineError::CutOff { request: attempt.request.to_owned(), url: self.url(attempt), bytes, reason }
    }

    fn malformed(&self, attempt: &Attempt<'_>, reason: String, body: &[u8]) -> EngineError {
        let start = shorten(&String::from_utf8_lossy(body));
        EngineError::Malformed { request: attempt.request.to_owned(), url: self.url(attempt), reason, start }
    }
}

/// Whether what a server answers with this status may be gone at another attempt.
pub(super) fn passes(status: u16) -> bool {
    matches!(status, 408 | 429 | 500 | 502..=504 | 506..)
}

fn tls(settings: &HttpSettings) -> Result<TlsConfig, EngineError> {
    let Some(path) = &settings.certificates else {
        return Ok(TlsConfig::builder().root_certs(RootCerts::WebPki).build());
    };
    let wrong = |reason: String| EngineError::Setting {
        setting: "certificates",
        value: path.display().to_string(),
        expected: format!("a file of certificates in PEM form ({reason})"),
    };
    let pem = std::fs::read(path).map_err(|error| wrong(error.to_string()))?;
    let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(wrong("there is none in it".to_owned()));
    }
    Ok(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates)).build())
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn is_timeout(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<ureq::Error>());
    error.kind() == std::io::ErrorKind::TimedOut || matches!(inner, Some(ureq::Error::Timeout(_)))
}

fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// The first characters of an answer, fit for a terminal.
fn shorten(text: &str) -> String {
    let text = printable(text.trim());
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}…", &text[..cut]),
        None => text,
    }
}

/// Without characters that a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
