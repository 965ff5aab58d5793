//! Errors: of the server, and as clients get them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::admit::Full;
use super::backend::Refused;
use crate::openai::{ErrorAnswer, ErrorObject, RequestError};

/// Why a server does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address cannot be had.
    #[error("cannot listen on {address}: {source}; choose another address or port")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The folder for pictures cannot be used.
    #[error("images root {}: {source}; name a folder that exists", path.display())]
    ImagesRoot {
        /// The folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A setting cannot be obeyed.
    #[error("`{setting}` takes {expected}, not {value}")]
    Setting {
        /// Which.
        setting: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        expected: String,
    },
    /// The event loop cannot be made.
    #[error("cannot start the server: {source}")]
    Start {
        /// What the operating system said.
        source: std::io::Error,
    },
}

/// An answer that is an error.
#[derive(Clone, Debug)]
pub(super) struct ApiError {
    pub status: StatusCode,
    pub body: ErrorObject,
    pub retry_after: Option<Duration>,
}

impl ApiError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let kind = match status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        let body = ErrorObject { message: message.into(), kind: kind.to_owned(), param: None, code: None };
        Self { status, body, retry_after: None }
    }

    /// 400.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// 400, about a field.
    pub fn field(field: impl Into<String>, problem: impl std::fmt::Display) -> Self {
        let field = field.into();
        let mut error = Self::bad(format!("`{field}`: {problem}"));
        error.body.param = Some(field);
        error
    }

    /// 429.
    pub fn busy(after: Duration) -> Self {
        let words = "the server has as much to do as it takes on; come back later";
        Self { retry_after: Some(after), ..Self::new(StatusCode::TOO_MANY_REQUESTS, words) }
    }

    pub fn with_code(mut self, code: &str) -> Self {
        self.body.code = Some(code.to_owned());
        self
    }

    /// The body, as JSON.
    pub fn json(&self) -> String {
        let answer = ErrorAnswer { error: self.body.clone() };
        serde_json::to_string(&answer).unwrap_or_else(|_| "{}".to_owned())
    }
}

impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let mut answer = Self::bad(error.to_string());
        answer.body.param = error.field().map(str::to_owned);
        answer
    }
}

impl From<Full> for ApiError {
    fn from(full: Full) -> Self {
        Self::busy(full.after)
    }
}

impl From<Refused> for ApiError {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Busy => Self::busy(Duration::from_secs(1)),
            Refused::Invalid(words) | Refused::Unsupported(words) => Self::bad(words),
            Refused::Failed(words) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, words),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.json()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(after) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_secs_f64().ceil() as u64));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
