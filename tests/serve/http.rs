//! A client that can misbehave: HTTP by hand, over a socket.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Longer than any answer of a test takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The message of an answer that is an error.
    pub fn error(&self) -> String {
        let body = self.json();
        assert!(body["error"]["type"].is_string() && self.status >= 400, "{} {body}", self.status);
        body["error"]["message"].as_str().unwrap().to_owned()
    }
}

/// A connection with an answer under way.
pub struct Open {
    reader: BufReader<TcpStream>,
}

impl Open {
    pub fn send(address: SocketAddr, bytes: &[u8]) -> Self {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        // A server that refuses early closes while it is still being written to.
        let _ = stream.write_all(bytes);
        Self { reader: BufReader::new(stream) }
    }

    pub fn post(address: SocketAddr, path: &str, body: &Value) -> Self {
        Self::send(address, &post(path, body.to_string().as_bytes(), ""))
    }

    /// The answer's head.
    pub fn head(&mut self) -> Option<(u16, Vec<(String, String)>)> {
        let first = self.line()?;
        let status = first.split(' ').nth(1)?.parse().ok()?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            let Some((name, value)) = line.split_once(':') else { return Some((status, headers)) };
            headers.push((name.to_lowercase(), value.trim().to_owned()));
        }
    }

    /// The next line, of a head or of a stream; nothing at the end.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let count = self.reader.read_line(&mut line).unwrap_or(0);
        (count > 0).then(|| line.trim_end().to_owned())
    }

    /// The data of a stream's next event.
    pub fn event(&mut self) -> Option<String> {
        loop {
            if let Some(data) = self.line()?.strip_prefix("data: ") {
                return Some(data.to_owned());
            }
        }
    }

    /// The whole answer; nothing where the server closed without one.
    pub fn answer(mut self) -> Option<Answer> {
        let (status, headers) = self.head()?;
        let named = |name: &str| headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
        let mut body = Vec::new();
        if named("transfer-encoding").is_some() {
            loop {
                let size = usize::from_str_radix(&self.line()?, 16).ok()?;
                let mut chunk = vec![0; size + 2];
                self.reader.read_exact(&mut chunk).ok()?;
                if size == 0 {
                    break;
                }
                body.extend_from_slice(&chunk[..size]);
            }
        } else {
            body = vec![0; named("content-length")?.parse().ok()?];
            self.reader.read_exact(&mut body).ok()?;
        }
        Some(Answer { status, headers, body })
    }

    /// Leaves, as a client does that is killed.
    pub fn leave(self) {
        let _ = self.reader.get_ref().shutdown(Shutdown::Both);
    }

    pub fn write(&mut self, bytes: &[u8]) -> bool {
        self.reader.get_mut().write_all(bytes).is_ok()
    }

    /// Whether the server closes the connection within `wait`, whatever it says before.
    pub fn is_closed_within(&mut self, wait: Duration) -> bool {
        self.reader.get_mut().set_read_timeout(Some(wait)).unwrap();
        loop {
            match self.reader.fill_buf() {
                Ok([]) => return true,
                Ok(bytes) => {
                    let count = bytes.len();
                    self.reader.consume(count);
                }
                Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
            }
        }
    }
}

/// A POST of JSON; `headers` are further ones, each with its line end.
pub fn post(path: &str, body: &[u8], headers: &str) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

pub fn get(path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").into_bytes()
}
