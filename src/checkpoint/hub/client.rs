//! Requests to the hub: which go out, whom the token goes to, and what the answers mean.

use std::io::Read;
use std::time::Duration;

use serde_json::Value;
use ureq::http::{HeaderMap, Response, Uri};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::error::HubError;
use super::id::HubId;
use super::listing::Listing;
use super::names;
use super::retry::Failure;
use super::settings::{HubSettings, Token};
use crate::checkpoint::CheckpointError;

/// More redirects than this go in circles.
const REDIRECTS: usize = 10;
/// A listing of a hundred thousand files has a fifth of this.
const LARGEST_LISTING: u64 = 64 << 20;

/// What the hub says about a file before it sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    /// Names the contents: SHA-256 of large files, git's hash of small ones.
    pub etag: String,
    /// Bytes, where the hub says.
    pub size: Option<u64>,
}

/// Speaks with one hub about one repository.
#[derive(Debug)]
pub(super) struct Client<'a> {
    id: &'a HubId,
    endpoint: &'a str,
    home: Uri,
    token: Option<&'a Token>,
    agent: Agent,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    Get,
    Head,
}

impl<'a> Client<'a> {
    /// # Errors
    /// [`HubError::File`] for certificates that cannot be read, [`HubError::Variable`].
    pub fn new(settings: &'a HubSettings, id: &'a HubId) -> Result<Self, HubError> {
        let home: Uri = settings.endpoint.parse().map_err(|_| HubError::Variable {
            variable: "HF_ENDPOINT",
            value: settings.endpoint.clone(),
            expected: "an address such as https://host",
        })?;
        let mut config = Agent::config_builder()
            .user_agent(concat!("firebrick/", env!("CARGO_PKG_VERSION")))
            // Lengths and sums are those of the file itself.
            .accept_encoding("identity")
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_resolve(Some(settings.answer_timeout))
            .timeout_connect(Some(settings.answer_timeout))
            .timeout_recv_response(Some(settings.answer_timeout))
            .timeout_per_read(Some(settings.read_timeout))
            .tls_config(tls(settings)?);
        if home.host().is_some_and(is_loopback) {
            // No proxy can reach this machine under that name.
            config = config.proxy(None);
        }
        Ok(Self {
            id,
            endpoint: &settings.endpoint,
            home,
            token: settings.token.as_ref(),
            agent: config.build().into(),
        })
    }

    /// The repository's commit and files at the id's revision.
    pub fn listing(&self) -> Result<Listing, Failure> {
        let (repo, revision) = (self.id.repo(), escape(self.id.revision()));
        let url = format!("{}/api/models/{repo}/revision/{revision}?blobs=true", self.endpoint);
        let answer = self.send(Method::Get, &url, 0)?;
        let answer = self.accepted(answer, &url, None)?;
        let mut text = Vec::new();
        let mut body = answer.into_body().into_with_config().limit(LARGEST_LISTING).reader();
        body.read_to_end(&mut text).map_err(|error| broke_off(&url, &error))?;
        let wrong = |error: serde_json::Error| HubError::Answer {
            url: url.clone(),
            reason: format!("the answer is no JSON ({})", names::printable(&error.to_string())),
        };
        let json: Value = serde_json::from_slice(&text).map_err(wrong)?;
        Ok(Listing::from_answer(self.id, &url, &json)?)
    }

    /// ETag and size of a file.
    pub fn head(&self, commit: &str, file: &str) -> Result<Remote, Failure> {
        let url = self.address(commit, file);
        let answer = self.send(Method::Head, &url, 0)?;
        let redirected = answer.status().is_redirection();
        let answer = if redirected { answer } else { self.accepted(answer, &url, Some(file))? };
        let headers = answer.headers();
        let wrong = |reason: String| HubError::Answer { url: url.clone(), reason };
        match header(headers, "x-repo-commit") {
            Some(found) if found == commit => {}
            Some(found) => {
                let found = names::printable(found);
                return Err(wrong(format!("{file} is of commit {found}, asked for {commit}")).into());
            }
            None => return Err(wrong("the answer has no X-Repo-Commit".to_owned()).into()),
        }
        let etag = header(headers, "x-linked-etag").or_else(|| header(headers, "etag"));
        let Some(etag) = etag.map(|etag| etag.strip_prefix("W/").unwrap_or(etag).trim_matches('"')) else {
            return Err(wrong("the answer has no ETag".to_owned()).into());
        };
        if let Some(reason) = names::no_blob(etag) {
            return Err(wrong(format!("the ETag {:?} is refused: {reason}", names::printable(etag))).into());
        }
        let own = header(headers, "content-length").filter(|_| !redirected);
        let size = header(headers, "x-linked-size").or(own).and_then(|size| size.parse().ok());
        Ok(Remote { etag: etag.to_owned(), size })
    }

    /// Opens a file's contents from byte `start` on. The status is 200 (from the beginning, whatever
    /// was asked for), 206 or 416.
    pub fn open(&self, commit: &str, file: &str, start: u64) -> Result<Response<Body>, Failure> {
        let url = self.address(commit, file);
        let answer = self.send(Method::Get, &url, start)?;
        if start > 0 && answer.status() == 416 {
            return Ok(answer);
        }
        let answer = self.accepted(answer, &url, Some(file))?;
        if let Some(coding) = header(answer.headers(), "content-encoding").filter(|coding| *coding != "identity") {
            let reason = format!("{file} comes compressed as {}, asked for as it is", names::printable(coding));
            return Err(HubError::Answer { url, reason }.into());
        }
        Ok(answer)
    }

    /// Where a file of a commit is.
    pub fn address(&self, commit: &str, file: &str) -> String {
        let file: Vec<String> = file.split('/').map(escape).collect();
        format!("{}/{}/resolve/{commit}/{}", self.endpoint, self.id.repo(), file.join("/"))
    }

    /// Sends a request and follows redirects; a `HEAD` stops where the answer already says what is
    /// in a file, or where it is sent to another host, which does not know.
    fn send(&self, method: Method, url: &str, start: u64) -> Result<Response<Body>, Failure> {
        let wrong = |reason: String| HubError::Answer { url: url.to_owned(), reason };
        let mut at: Uri = url.parse().map_err(|_| wrong("this is no address".to_owned()))?;
        for _ in 0..=REDIRECTS {
            let mut request = match method {
                Method::Get => self.agent.get(&at),
                Method::Head => self.agent.head(&at),
            };
            if start > 0 {
                request = request.header("Range", format!("bytes={start}-"));
            }
            // Only the hub itself gets the token: the servers that it sends us to get signed
            // addresses instead.
            if let Some(token) = self.token.filter(|_| same_host(&at, &self.home)) {
                request = request.header("Authorization", format!("Bearer {}", token.secret()));
            }
            let answer = request.call().map_err(|error| no_answer(&at, &error))?;
            if !matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let Some(location) = header(answer.headers(), "location") else {
                return Err(wrong(format!("{} leads nowhere", answer.status())).into());
            };
            let Some(next) = join(&at, location) else {
                return Err(wrong(format!("it leads to {:?}, which is no address", names::printable(location))).into());
            };
            if at.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(wrong(format!("it leads from https to {}", shown(&next))).into());
            }
            let told = header(answer.headers(), "x-linked-etag").is_some();
            if method == Method::Head && (told || !same_host(&next, &self.home)) {
                return Ok(answer);
            }
            at = next;
        }
        Err(wrong(format!("it leads on more than {REDIRECTS} times")).into())
    }

    /// An answer with a good status, or what its status means.
    fn accepted(&self, answer: Response<Body>, url: &str, file: Option<&str>) -> Result<Response<Body>, Failure> {
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let headers = answer.headers();
        let id = self.id.clone();
        let code = header(headers, "x-error-code").unwrap_or_default();
        let words = match header(headers, "x-error-message") {
            Some(message) => format!("{status}: {}", names::printable(message)),
            None => status.to_string(),
        };
        Err(match (status.as_u16(), code) {
            (401 | 403, "GatedRepo") => HubError::Refused { id, answer: words, advice: self.conditions() }.into(),
            (_, "RevisionNotFound") => HubError::NoRevision { id, answer: words }.into(),
            (404, _) if file.is_some() && code != "RepoNotFound" => {
                HubError::NoFile { id, file: file.unwrap_or_default().to_owned(), answer: words }.into()
            }
            // Without a token the hub says 401 of what does not exist, too, so as not to tell which
            // private models there are.
            (404, _) | (401, "RepoNotFound") => self.no_model(words).into(),
            (401, _) if self.token.is_none() => self.no_model(words).into(),
            (401 | 403, _) => HubError::Refused { id, answer: words, advice: self.credentials() }.into(),
            (408 | 429 | 500 | 502 | 503 | 504, _) => {
                let wait = header(headers, "retry-after").and_then(|wait| wait.trim().parse().ok());
                let error = HubError::Status { url: plain(url), status: status.as_u16(), answer: words };
                Failure::Again { error, wait: wait.map(Duration::from_secs) }
            }
            (status, _) => HubError::Status { url: plain(url), status, answer: words }.into(),
        })
    }

    fn no_model(&self, answer: String) -> HubError {
        let (endpoint, advice) = (self.endpoint.to_owned(), self.credentials());
        HubError::NoModel { id: self.id.clone(), endpoint, answer, advice }
    }

    fn credentials(&self) -> String {
        match self.token {
            None => "if it is private, set HF_TOKEN to a token that may read it, or run `hf auth login`".to_owned(),
            Some(token) => format!(
                "if it is private, the token from {} must be valid and may have to be given the right to read it",
                token.origin()
            ),
        }
    }

    fn conditions(&self) -> String {
        let page = format!("{}/{}", self.endpoint, self.id.repo());
        match self.token {
            None => format!(
                "its owner has set conditions: accept them at {page}, then set HF_TOKEN to a token of that account, \
                 or run `hf auth login`"
            ),
            Some(token) => format!(
                "its owner has set conditions: accept them at {page} with the account of the token from {}",
                token.origin()
            ),
        }
    }
}

fn tls(settings: &HubSettings) -> Result<TlsConfig, HubError> {
    let Some(path) = &settings.certificates else {
        return Ok(TlsConfig::builder().root_certs(RootCerts::WebPki).build());
    };
    let pem = std::fs::read(path).map_err(CheckpointError::io(path, "reading the certificates"))?;
    let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(HubError::Variable {
            variable: "SSL_CERT_FILE",
            value: path.display().to_string(),
            expected: "a file of certificates in PEM form",
        });
    }
    Ok(TlsConfig::builder().root_certs(RootCerts::new_with_certs(&certificates)).build())
}

/// A header's value, where it is text.
pub(super) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim)
}

/// A request that got no answer.
fn no_answer(at: &Uri, error: &ureq::Error) -> Failure {
    let reason = names::printable(&error.to_string());
    let network = |reason: String| HubError::Network { url: shown(at), reason };
    match error {
        ureq::Error::Tls(_) | ureq::Error::Rustls(_) | ureq::Error::Pem(_) => Failure::Final(network(format!(
            "{reason}; behind a proxy that encrypts anew, set SSL_CERT_FILE to its certificates"
        ))),
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::InvalidProxyUrl => Failure::Final(network(reason)),
        ureq::Error::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => Failure::Final(network(format!(
            "{reason}; behind a proxy that encrypts anew, set SSL_CERT_FILE to its certificates"
        ))),
        _ => Failure::again(network(reason)),
    }
}

/// An answer whose body broke off.
pub(super) fn broke_off(url: &str, error: &std::io::Error) -> Failure {
    let reason = format!("the answer broke off ({})", names::printable(&error.to_string()));
    Failure::again(HubError::Network { url: plain(url), reason })
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn same_host(a: &Uri, b: &Uri) -> bool {
    let port = |uri: &Uri| uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    a.scheme() == b.scheme() && host(a) == host(b) && port(a) == port(b)
}

/// A redirect's target, which may be relative.
fn join(at: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let full = if location.starts_with("https://") || location.starts_with("http://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{}://{rest}", at.scheme_str()?)
    } else if location.starts_with('/') {
        format!("{}://{}{location}", at.scheme_str()?, at.authority()?)
    } else if location.is_empty() || location.contains(':') {
        return None;
    } else {
        let folder = at.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{}://{}{folder}/{location}", at.scheme_str()?, at.authority()?)
    };
    full.parse().ok().filter(|uri: &Uri| uri.host().is_some_and(|host| !host.is_empty()))
}

/// An address for a message, without the signature that may stand behind the question mark.
fn shown(uri: &Uri) -> String {
    plain(&uri.to_string())
}

fn plain(url: &str) -> String {
    names::printable(url.split('?').next().unwrap_or(url))
}

/// A part of a path, everything but letters, digits and `-._~` escaped.
fn escape(part: &str) -> String {
    let mut escaped = String::new();
    for byte in part.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => escaped.push(byte.into()),
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_joined() {
        let at: Uri = "https://hub.example:8443/a/b/resolve/x".parse().unwrap();
        for (location, expected) in [
            ("/c/d?e=f", Some("https://hub.example:8443/c/d?e=f")),
            ("y", Some("https://hub.example:8443/a/b/resolve/y")),
            ("//other/z", Some("https://other/z")),
            ("http://other/z#part", Some("http://other/z")),
            ("", None),
            ("file:///etc/passwd", None),
            ("http://", None),
        ] {
            assert_eq!(join(&at, location).map(|uri| uri.to_string()).as_deref(), expected, "{location:?}");
        }
    }

    #[test]
    fn a_host_is_its_scheme_name_and_port() {
        let same = |a: &str, b: &str| same_host(&a.parse().unwrap(), &b.parse().unwrap());
        assert!(same("https://Hub.example/x", "https://hub.example:443/y"));
        for other in
            ["http://hub.example/", "https://hub.example.evil/", "https://hub.example:444/", "https://example/"]
        {
            assert!(!same("https://hub.example/", other), "{other}");
        }
    }

    #[test]
    fn parts_of_a_path_are_escaped() {
        assert_eq!(escape("refs/pr/1"), "refs%2Fpr%2F1");
        assert_eq!(escape("a b?c#é.json"), "a%20b%3Fc%23%C3%A9.json");
        assert!(
            is_loopback("127.0.0.1") && is_loopback("[::1]") && is_loopback("LOCALHOST") && !is_loopback("10.0.0.1")
        );
    }
}
