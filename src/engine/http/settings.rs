//! Where the server is, who asks, and how patient the client is.

use std::path::PathBuf;
use std::time::Duration;

use super::super::EngineError;

/// How a server is reached.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpSettings {
    /// Address in front of `/chat/completions`: `http://127.0.0.1:8000/v1`.
    pub base_url: String,
    /// The environment variable that holds the API key. The key itself is in no setting, because settings are written into
    /// run folders.
    pub api_key_variable: Option<String>,
    /// Requests under way at once.
    pub concurrency: usize,
    /// Longest wait for a connection.
    pub connect_timeout: Duration,
    /// Longest wait for the beginning of an answer: without [`stream`](Self::stream), for all of its tokens.
    pub answer_timeout: Duration,
    /// Longest wait for the next bytes of an answer.
    pub read_timeout: Duration,
    /// How often a failing request is repeated.
    pub retries: Retries,
    /// Bytes of an answer at most.
    pub largest_answer: u64,
    /// Whether answers come in pieces, so that a long one is not taken for a silent server.
    pub stream: bool,
    /// Certificates (PEM) to trust in place of Mozilla's.
    pub certificates: Option<PathBuf>,
}

/// How often a failing request is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Attempts in all.
    pub attempts: u32,
    /// Wait after the first failure; it doubles with every further one, and up to half of it is left to chance, so that
    /// many clients do not come back at once.
    pub first: Duration,
    /// Longest wait, also where the server asks for a longer one.
    pub longest: Duration,
}

impl Default for Retries {
    /// Five attempts, with waits of about 1, 2, 4 and 8 seconds; a server may ask for up to a minute.
    fn default() -> Self {
        Self { attempts: 5, first: Duration::from_secs(1), longest: Duration::from_secs(60) }
    }
}

impl HttpSettings {
    /// A server without a key: 16 requests at once, 10 s for a connection, 10 min for an answer, 2 min between its bytes,
    /// 64 MiB. Certificates come from `SSL_CERT_FILE`, where it is set.
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            api_key_variable: None,
            concurrency: 16,
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(600),
            read_timeout: Duration::from_secs(120),
            retries: Retries::default(),
            largest_answer: 64 << 20,
            stream: false,
            certificates: std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(PathBuf::from),
        }
    }

    /// The address without a slash at its end.
    pub(super) fn address(&self) -> Result<(String, ureq::http::Uri), EngineError> {
        let trimmed = self.base_url.trim_end_matches('/');
        let uri = trimmed.parse::<ureq::http::Uri>().ok();
        let good = |uri: &ureq::http::Uri| {
            matches!(uri.scheme_str(), Some("http" | "https"))
                && uri.host().is_some_and(|host| !host.is_empty())
                && uri.authority().is_some_and(|authority| !authority.as_str().contains('@'))
                && uri.query().is_none()
        };
        match uri.filter(good) {
            Some(uri) => Ok((trimmed.to_owned(), uri)),
            None => Err(EngineError::Setting {
                setting: "base_url",
                value: self.base_url.clone(),
                expected: "an address such as http://127.0.0.1:8000/v1, without a user's name".to_owned(),
            }),
        }
    }

    /// The API key, from its variable.
    pub(super) fn key(&self) -> Result<Option<String>, EngineError> {
        let Some(variable) = &self.api_key_variable else { return Ok(None) };
        let wrong = |value: &str| EngineError::Setting {
            setting: "api_key_variable",
            value: variable.clone(),
            expected: format!("the name of an environment variable that holds a key; this one {value}"),
        };
        let key = std::env::var(variable).map_err(|_| wrong("is not set"))?;
        let key = key.trim().to_owned();
        match !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_graphic()) {
            true => Ok(Some(key)),
            false => Err(wrong("holds something other than printable ASCII characters")),
        }
    }
}
