//! What happens around every request: who may ask, what it is called, what is noted of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, HOST};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::ApiError;
use super::routes::App;

/// What is noted of a request whose client left.
const LEFT: u16 = 499;

/// A request's name and what is noted of it.
#[derive(Debug)]
pub(super) struct Visit {
    app: Arc<App>,
    pub id: String,
    route: &'static str,
    since: Instant,
    status: AtomicU16,
}

impl Visit {
    /// What is noted in the end.
    pub fn note(&self, status: u16) {
        self.status.store(status, Ordering::Relaxed);
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.app.metrics.request(self.route, self.status.load(Ordering::Relaxed), self.since.elapsed());
    }
}

/// An answer that goes on after its head: its status is noted at its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streaming;

/// What happens around every request.
pub(super) async fn around(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let visit = Arc::new(Visit {
        id: request_id(request.headers()),
        route: route(request.uri().path()),
        since: Instant::now(),
        status: AtomicU16::new(LEFT),
        app: Arc::clone(&app),
    });
    let mut response = match allowed(&app, &request) {
        Err(error) => error.into_response(),
        Ok(()) => {
            request.extensions_mut().insert(Arc::clone(&visit));
            next.run(request).await
        }
    };
    if response.extensions().get::<Streaming>().is_none() {
        visit.note(response.status().as_u16());
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&visit.id) {
        headers.insert("x-request-id", id);
    }
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The client's own name for its request where it is a decent one, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    const LONGEST: usize = 100;
    let decent = |id: &&str| {
        (1..=LONGEST).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte))
    };
    let given = headers.get("x-request-id").and_then(|id| id.to_str().ok()).filter(decent);
    given.map_or_else(|| format!("{:032x}", rand::random::<u128>()), str::to_owned)
}

/// A request's route as metrics call it: a client must not be able to make up new ones.
fn route(path: &str) -> &'static str {
    const ROUTES: [&str; 11] = [
        "/",
        "/health",
        "/metrics",
        "/v1/models",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/score",
        "/score",
        "/v1/classify",
        "/classify",
    ];
    let found = ROUTES.into_iter().find(|route| *route == path);
    found.unwrap_or(if path.starts_with("/v1/models/") { "/v1/models" } else { "other" })
}

/// Who may ask.
fn allowed(app: &App, request: &Request) -> Result<(), ApiError> {
    if let Some(host) = request.headers().get(HOST).filter(|_| app.own_name_only) {
        let host = host.to_str().unwrap_or_default();
        let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
        let name = name.map_or(host, |(name, _)| name).trim_matches(['[', ']']);
        let is_ip = name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if !is_ip && !name.eq_ignore_ascii_case("localhost") {
            let words = format!(
                "this server listens on its own machine only and is called localhost there, not {:?}; to let a proxy pass \
                 another name on, start it with a token",
                shortened(name)
            );
            return Err(ApiError::new(StatusCode::FORBIDDEN, words));
        }
    }
    let Some(token) = &app.settings.token else { return Ok(()) };
    if matches!(request.uri().path(), "/" | "/health") {
        return Ok(());
    }
    let shown = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let word = match shown.split_at_checked(7) {
        Some((scheme, word)) if scheme.eq_ignore_ascii_case(b"Bearer ") => word.trim_ascii(),
        _ => b"",
    };
    match token.is(word) {
        true => Ok(()),
        false => {
            let words = "this server wants its token: `Authorization: Bearer …`";
            Err(ApiError::new(StatusCode::UNAUTHORIZED, words).with_code("invalid_api_key"))
        }
    }
}

/// A client's word as messages show it.
pub(super) fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}
