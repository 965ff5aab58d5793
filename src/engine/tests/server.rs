//! A small server with OpenAI's interface on this machine, which misbehaves as it is told to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// What happens in place of the right answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, these headers, this body.
    Status(u16, Vec<(&'static str, String)>, String),
    /// The connection is closed without an answer.
    Reset,
    /// Nothing is answered.
    Silent,
    /// The right body ends after that many bytes.
    Cut(usize),
    /// As `Cut`, without a length in front, so that the end of the connection is the end of the body.
    CutWithoutLength(usize),
    /// Nothing comes after that many bytes of the right body.
    Stall(usize),
    /// This type and body, with status 200.
    Body(&'static str, String),
    /// The body never ends.
    Endless,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub path: String,
    pub headers: BTreeMap<String, String>,
    pub body: Value,
    pub at: Instant,
}

#[derive(Default)]
pub struct State {
    pub faults: Vec<Fault>,
    pub log: Vec<Seen>,
    /// How long a right answer takes.
    pub delay: Duration,
    /// Whether the list of models cannot be had.
    pub no_models: bool,
    pub busy: usize,
    /// Most requests that were answered at once.
    pub busiest: usize,
}

/// Answers until the test ends.
pub struct Server {
    pub url: String,
    state: Arc<Mutex<State>>,
}

impl Server {
    pub fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let server = Self { url, state: Arc::clone(&state) };
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                // A client that hangs up in the middle is part of the tests.
                thread::spawn(move || drop(serve(stream, &state)));
            }
        });
        server
    }

    /// A server that does these things first, one for each request.
    pub fn failing(faults: impl IntoIterator<Item = Fault>) -> Self {
        let server = Self::new();
        server.state().faults = faults.into_iter().collect();
        server
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The requests so far that were not for the list of models.
    pub fn seen(&self) -> Vec<Seen> {
        self.state().log.iter().filter(|seen| seen.path != "/v1/models").cloned().collect()
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let Some(seen) = request(&stream)? else { return Ok(()) };
    let (fault, delay) = {
        let mut state = state.lock().unwrap();
        state.log.push(seen.clone());
        let fault = match seen.path.as_str() {
            "/v1/models" if state.no_models => Some(Fault::Status(500, Vec::new(), "no models today".to_owned())),
            "/v1/models" => None,
            _ => (!state.faults.is_empty()).then(|| state.faults.remove(0)),
        };
        state.busy += 1;
        state.busiest = state.busiest.max(state.busy);
        (fault, state.delay)
    };
    thread::sleep(delay);
    state.lock().unwrap().busy -= 1;
    respond(&mut stream, &seen, fault)
}

fn request(stream: &TcpStream) -> std::io::Result<Option<Seen>> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    if reader.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Ok(Some(Seen { path, headers, body, at: Instant::now() }))
}

/// Says the last user's words, or the prompt, backwards; as many times as asked for.
fn answer(seen: &Seen) -> (&'static str, String) {
    let body = &seen.body;
    let n = body["n"].as_u64().unwrap_or(1) as usize;
    let usage = json!({"prompt_tokens": 3, "completion_tokens": 2 * n, "total_tokens": 3 + 2 * n});
    let stream = body["stream"] == true;
    match seen.path.as_str() {
        "/v1/models" => {
            ("application/json", json!({"data": [{"id": "base"}, {"id": "a", "parent": "base"}]}).to_string())
        }
        "/v1/score" => ("application/json", json!({"data": [{"index": 0, "score": 1.25}]}).to_string()),
        "/classify" => {
            let probs = json!({"index": 0, "label": "b", "probs": [0.25, 0.75], "num_classes": 2});
            ("application/json", json!({"object": "list", "data": [probs], "usage": usage}).to_string())
        }
        "/v1/chat/completions" => {
            let content = &body["messages"].as_array().unwrap().last().unwrap()["content"];
            let words: String = content.as_str().unwrap_or("picture").chars().rev().collect();
            let (front, back) = words.split_at(words.len() / 2);
            let logprob = |token: &str, value: f64| {
                json!({"token": token, "logprob": value, "bytes": token.as_bytes(), "top_logprobs": [
                    {"token": "x", "logprob": value - 1.0, "bytes": null}, {"token": token, "logprob": value, "bytes": null}]})
            };
            if !stream {
                let choice = |index| {
                    json!({"index": index, "message": {"role": "assistant", "content": words}, "finish_reason": "stop",
                        "logprobs": {"content": [logprob(front, -0.5), logprob(back, -0.25)]}})
                };
                // In no particular order.
                let choices: Vec<Value> = (0..n).rev().map(choice).collect();
                return (
                    "application/json",
                    json!({"model": body["model"], "choices": choices, "usage": usage}).to_string(),
                );
            }
            let piece = |index: usize, delta: Value, logprobs: Value, end: Value| {
                json!({"model": body["model"], "choices": [
                    {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": end}]})
            };
            let mut pieces = Vec::new();
            for index in 0..n {
                pieces.push(piece(index, json!({"role": "assistant", "content": ""}), Value::Null, Value::Null));
            }
            for (part, value) in [(front, -0.5), (back, -0.25)] {
                for index in 0..n {
                    let logprobs = json!({"content": [logprob(part, value)]});
                    pieces.push(piece(index, json!({"content": part}), logprobs, Value::Null));
                }
            }
            for index in 0..n {
                pieces.push(piece(index, json!({}), Value::Null, json!("stop")));
            }
            pieces.push(json!({"choices": [], "usage": usage}));
            let events: String = pieces.iter().map(|piece| crate::openai::event(&piece.to_string())).collect();
            ("text/event-stream; charset=utf-8", events + "data: [DONE]\n\n")
        }
        "/v1/completions" => {
            // One token per character of "abc", then two more.
            let echo = body["echo"] == true;
            let prompt = if echo { "abc" } else { "" };
            let mut tokens: Vec<&str> = if echo { vec!["a", "b", "c"] } else { Vec::new() };
            tokens.extend(["de", "f"]);
            let values: Vec<Value> =
                (0..tokens.len()).map(|i| if echo && i == 0 { Value::Null } else { json!(-(i as f64)) }).collect();
            let top: Vec<Value> = values
                .iter()
                .zip(&tokens)
                .map(|(value, token)| if value.is_null() { Value::Null } else { json!({*token: value}) })
                .collect();
            let logprobs = match body["logprobs"].is_null() {
                true => Value::Null,
                false => json!({"tokens": tokens, "token_logprobs": values, "top_logprobs": top, "text_offset": []}),
            };
            let choice = |index, end: &str| json!({"index": index, "text": format!("{prompt}def"), "logprobs": logprobs, "finish_reason": end});
            let choices: Vec<Value> = (0..n).map(|index| choice(index, "length")).collect();
            let whole = json!({"model": body["model"], "choices": choices, "usage": usage}).to_string();
            match stream {
                false => ("application/json", whole),
                true => ("text/event-stream", crate::openai::event(&whole) + "data: [DONE]\n\n"),
            }
        }
        other => panic!("{other}"),
    }
}

fn respond(stream: &mut TcpStream, seen: &Seen, fault: Option<Fault>) -> std::io::Result<()> {
    let (kind, body) = match &fault {
        Some(Fault::Status(_, _, body)) => ("application/json", body.clone()),
        Some(Fault::Body(kind, body)) => (*kind, body.clone()),
        Some(Fault::Endless) => ("application/json", String::new()),
        _ => answer(seen),
    };
    let status = if let Some(Fault::Status(status, ..)) = fault { status } else { 200 };
    let mut head = format!("HTTP/1.1 {status} Whatever\r\nConnection: close\r\nContent-Type: {kind}\r\n");
    if !matches!(fault, Some(Fault::CutWithoutLength(_) | Fault::Endless)) {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    if let Some(Fault::Status(_, headers, _)) = &fault {
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    }
    let shown = match fault {
        Some(Fault::Reset) => return Ok(()),
        Some(Fault::Silent) => return wait(stream),
        Some(Fault::Cut(bytes) | Fault::CutWithoutLength(bytes) | Fault::Stall(bytes)) => bytes,
        _ => body.len(),
    };
    stream.write_all(format!("{head}\r\n{}", &body[..shown]).as_bytes())?;
    match fault {
        Some(Fault::Stall(_)) => wait(stream),
        Some(Fault::Endless) => loop {
            stream.write_all(&[b' '; 4096])?;
        },
        _ => Ok(()),
    }
}

/// Until the client hangs up, and no longer than any test waits.
fn wait(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.read(&mut [0]).map(drop)
}
