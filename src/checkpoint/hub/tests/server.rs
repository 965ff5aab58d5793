//! A small Hugging Face hub on this machine, which fails as it is told to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

/// What happens in place of the right answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status with these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// The connection is closed without an answer.
    Reset,
    /// Nothing is answered.
    Silent,
    /// The body ends after that many bytes.
    Cut(usize),
    /// Nothing comes after that many bytes of the body.
    Stall(usize),
    /// The first byte of the body is another one.
    Damage,
    /// The range is ignored.
    Whole,
    /// The range is ignored, and the body ends after that many bytes.
    WholeCut(usize),
    /// This header takes the place of the right one.
    Header(&'static str, String),
    /// The body is longer than it should be, without a length in front.
    Longer,
    /// This is the body.
    Body(String),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

struct Rule {
    method: &'static str,
    path: String,
    times: usize,
    fault: Fault,
}

#[derive(Default)]
pub struct State {
    /// Files by commit.
    pub commits: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// Branches and tags.
    pub refs: BTreeMap<String, String>,
    /// Where large files are redirected to.
    pub cdn: Option<String>,
    /// Who may read; `None` is anyone.
    pub token: Option<String>,
    /// Whether sizes and sums are left out of the listing.
    pub terse: bool,
    rules: Vec<Rule>,
    pub log: Vec<Seen>,
}

/// Serves `a/b` until the test ends.
pub struct Server {
    pub url: String,
    state: Arc<Mutex<State>>,
}

/// A commit's name.
pub fn commit(n: u8) -> String {
    format!("{n:02x}").repeat(20)
}

pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub fn git(bytes: &[u8]) -> String {
    hex(&Sha1::new_with_prefix(format!("blob {}\0", bytes.len())).chain_update(bytes).finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".bin")
}

impl Server {
    /// A hub with these files in the first commit, to which `main` points.
    pub fn new(files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let server = Self { url, state: Arc::clone(&state) };
        server.set(1, files);
        server.state().refs.insert("main".to_owned(), commit(1));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&state);
                // A client that hangs up in the middle is part of the tests.
                thread::spawn(move || drop(serve(stream, &state)));
            }
        });
        server
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// The files of a commit.
    pub fn set(&self, n: u8, files: &[(&str, &[u8])]) {
        let files = files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect();
        self.state().commits.insert(commit(n), files);
    }

    /// Fails the next `times` requests whose path contains `path`.
    pub fn fail(&self, method: &'static str, path: &str, times: usize, fault: Fault) {
        self.state().rules.push(Rule { method, path: path.to_owned(), times, fault });
    }

    /// The requests since the last call, as `GET file` or `HEAD file`; the listing is `GET list`.
    pub fn requests(&self) -> Vec<String> {
        let name = |seen: &Seen| match seen.path.starts_with("/api/") {
            true => "list".to_owned(),
            false => seen.path.rsplit('/').next().unwrap_or_default().to_owned(),
        };
        self.take_log().iter().map(|seen| format!("{} {}", seen.method, name(seen))).collect()
    }

    pub fn take_log(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state().log)
    }
}

struct Answer {
    status: u16,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn empty(status: u16, headers: &[(&'static str, &str)]) -> Self {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self { status, headers, body: Vec::new() }
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let Some(seen) = request(&stream)? else { return Ok(()) };
    let (answer, fault) = {
        let mut state = state.lock().unwrap();
        state.log.push(seen.clone());
        let fault = fault(&mut state, &seen);
        (answer(&state, &seen, &fault), fault)
    };
    respond(&mut stream, &seen, answer, fault)
}

fn request(stream: &TcpStream) -> std::io::Result<Option<Seen>> {
    let mut lines = BufReader::new(stream).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(None) };
    let mut words = first.split(' ');
    let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    Ok(Some(Seen { method, path, headers }))
}

fn fault(state: &mut State, seen: &Seen) -> Option<Fault> {
    let fits = |rule: &Rule| rule.times > 0 && rule.method == seen.method && seen.path.contains(&rule.path);
    let rule = state.rules.iter_mut().find(|rule| fits(rule))?;
    rule.times -= 1;
    Some(rule.fault.clone())
}

fn answer(state: &State, seen: &Seen, fault: &Option<Fault>) -> Answer {
    if let Some(Fault::Status(status, headers)) = fault {
        return Answer { status: *status, headers: headers.clone(), body: b"{}".to_vec() };
    }
    let path = seen.path.split('?').next().unwrap_or_default();
    if let Some(sum) = path.strip_prefix("/cdn/") {
        let found = state.commits.values().flat_map(BTreeMap::values).find(|bytes| sha256(bytes) == sum);
        return found.map_or_else(|| Answer::empty(404, &[]), |bytes| contents(bytes, seen, fault, Vec::new()));
    }
    if let Some(token) = &state.token {
        let sent = seen.header("authorization").unwrap_or_default();
        if sent != format!("Bearer {token}") {
            return Answer::empty(401, &[("X-Error-Message", "Invalid username or password.")]);
        }
    }
    if let Some(rest) = path.strip_prefix("/api/models/") {
        let Some(revision) = rest.strip_prefix("a/b/revision/") else {
            return Answer::empty(
                404,
                &[("X-Error-Code", "RepoNotFound"), ("X-Error-Message", "Repository not found")],
            );
        };
        return listing(state, &revision.replace("%2F", "/"));
    }
    let file = path.strip_prefix("/a/b/resolve/").and_then(|rest| rest.split_once('/'));
    let Some((commit, name)) = file else { return Answer::empty(404, &[("X-Error-Code", "RepoNotFound")]) };
    let Some(bytes) = state.commits.get(commit).and_then(|files| files.get(name)) else {
        return Answer::empty(404, &[("X-Error-Code", "EntryNotFound"), ("X-Error-Message", "Entry not found")]);
    };
    let mut headers = vec![("X-Repo-Commit", commit.to_owned())];
    if !is_large(name) {
        headers.push(("ETag", format!("\"{}\"", git(bytes))));
        return contents(bytes, seen, fault, headers);
    }
    headers.push(("X-Linked-Etag", format!("\"{}\"", sha256(bytes))));
    headers.push(("X-Linked-Size", bytes.len().to_string()));
    headers.push(("ETag", "\"of-the-redirect\"".to_owned()));
    match &state.cdn {
        None => contents(bytes, seen, fault, headers),
        Some(cdn) => {
            headers.push(("Location", format!("{cdn}/cdn/{}?signature=secret", sha256(bytes))));
            Answer { status: 302, headers, body: Vec::new() }
        }
    }
}

fn listing(state: &State, revision: &str) -> Answer {
    let commit = state.refs.get(revision).map_or(revision, String::as_str);
    let Some(files) = state.commits.get(commit) else {
        return Answer::empty(404, &[("X-Error-Code", "RevisionNotFound"), ("X-Error-Message", "Invalid rev id")]);
    };
    let sibling = |(name, bytes): (&String, &Vec<u8>)| match (state.terse, is_large(name)) {
        (true, _) => json!({"rfilename": name}),
        (false, false) => json!({"rfilename": name, "size": bytes.len(), "blobId": git(bytes)}),
        (false, true) => json!({"rfilename": name, "size": bytes.len(), "blobId": git(b"pointer"),
            "lfs": {"sha256": sha256(bytes), "size": bytes.len(), "pointerSize": 130}}),
    };
    let siblings: Vec<Value> = files.iter().map(sibling).collect();
    let body = json!({"id": "a/b", "sha": commit, "siblings": siblings}).to_string().into_bytes();
    Answer { status: 200, headers: Vec::new(), body }
}

fn contents(bytes: &[u8], seen: &Seen, fault: &Option<Fault>, mut headers: Vec<(&'static str, String)>) -> Answer {
    let range = seen.header("range").filter(|_| !matches!(fault, Some(Fault::Whole | Fault::WholeCut(_))));
    let start = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    match start {
        None => Answer { status: 200, headers, body: bytes.to_vec() },
        Some(start) if start >= bytes.len() => Answer { status: 416, headers, body: Vec::new() },
        Some(start) => {
            headers.push(("Content-Range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())));
            Answer { status: 206, headers, body: bytes[start..].to_vec() }
        }
    }
}

fn respond(stream: &mut TcpStream, seen: &Seen, answer: Answer, fault: Option<Fault>) -> std::io::Result<()> {
    let Answer { status, mut headers, mut body } = answer;
    let mut length = Some(body.len());
    let mut shown = body.len();
    match fault {
        Some(Fault::Reset) => return Ok(()),
        Some(Fault::Silent) => return wait(stream),
        Some(Fault::Cut(bytes) | Fault::Stall(bytes) | Fault::WholeCut(bytes)) => shown = shown.min(bytes),
        Some(Fault::Damage) => body[0] ^= 1,
        Some(Fault::Header(name, ref value)) => {
            headers.retain(|(other, _)| *other != name);
            headers.push((name, value.clone()));
            if name == "Content-Length" {
                length = None;
            }
        }
        Some(Fault::Longer) => {
            body.extend_from_slice(b"more");
            (length, shown) = (None, body.len());
        }
        Some(Fault::Body(ref text)) => {
            body = text.clone().into_bytes();
            (length, shown) = (Some(body.len()), body.len());
        }
        Some(Fault::Status(..) | Fault::Whole) | None => {}
    }
    let mut head = format!("HTTP/1.1 {status} Whatever\r\nConnection: close\r\n");
    if let Some(length) = length {
        head.push_str(&format!("Content-Length: {length}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if seen.method != "HEAD" {
        stream.write_all(&body[..shown])?;
    }
    if let Some(Fault::Stall(_)) = fault {
        return wait(stream);
    }
    Ok(())
}

/// Until the client hangs up, and no longer than any test waits.
fn wait(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.read(&mut [0]).map(drop)
}
