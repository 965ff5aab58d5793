//! What is answered where.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Extension, Path, Request, State};
use axum::http::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hyper::body::Frame;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use super::admit::Queue;
use super::backend::Backend;
use super::body::{Bodies, Read};
use super::error::ApiError;
use super::job::{Job, ask};
use super::metrics::Metrics;
use super::page::page;
use super::prepare::{Prepared, Rules};
use super::server::Phase;
use super::settings::ServeSettings;
use super::shapes::{Head, Kind, Pieces, Whole, broken, json, usage};
use crate::engine::{ModelInfo, Usage};
use crate::openai::{
    EmbeddingAnswer, EmbeddingItem, EmbeddingValues, Encoding, ModelCard, ModelList, ScoreAnswer, ScoreItem,
};

/// How long an answer may be without news before a stream begins anyway, and between its signs of life.
const QUIET: Duration = Duration::from_secs(10);
/// Bytes of a stream that are sent at once.
const FRAME: usize = 32 << 10;
/// What is noted of a request whose client left.
const LEFT: u16 = 499;

/// What all requests share.
pub(super) struct App {
    pub settings: ServeSettings,
    pub backend: Arc<dyn Backend>,
    pub queue: Arc<Queue>,
    pub bodies: Bodies,
    pub metrics: Metrics,
    pub phase: watch::Receiver<Phase>,
    /// Whether clients must address this machine by its own name.
    pub own_name_only: bool,
    pub started: u64,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// All routes.
pub(super) fn router(app: Arc<App>) -> Router {
    let missing = |request: Request| async move {
        ApiError::new(StatusCode::NOT_FOUND, format!("there is nothing at {:?}", shortened(request.uri().path())))
    };
    let method = |request: Request| async move {
        let words =
            format!("{} does not take {}", shortened(request.uri().path()), shortened(request.method().as_str()));
        ApiError::new(StatusCode::METHOD_NOT_ALLOWED, words)
    };
    Router::new()
        .route("/", get(|| async { page() }))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(completions))
        .route("/v1/embeddings", post(embeddings))
        .route("/v1/score", post(scores))
        .route("/score", post(scores))
        .fallback(missing)
        .method_not_allowed_fallback(method)
        .layer(from_fn_with_state(Arc::clone(&app), around))
        .with_state(app)
}

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

/// A request's name and what is noted of it.
#[derive(Debug)]
struct Visit {
    app: Arc<App>,
    id: String,
    route: &'static str,
    since: Instant,
    status: AtomicU16,
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.app.metrics.request(self.route, self.status.load(Ordering::Relaxed), self.since.elapsed());
    }
}

/// An answer that goes on after its head: its status is noted at its end.
#[derive(Clone, Copy, Debug)]
struct Streaming;

/// What happens around every request.
async fn around(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
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
        visit.status.store(response.status().as_u16(), Ordering::Relaxed);
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
    const ROUTES: [&str; 9] = [
        "/",
        "/health",
        "/metrics",
        "/v1/models",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/score",
        "/score",
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

async fn health(State(app): State<Arc<App>>) -> Response {
    match *app.phase.borrow() {
        Phase::Running => answer("{\"status\":\"ok\"}".to_owned()),
        _ => ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping").into_response(),
    }
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut response = Response::new(Body::from(app.metrics.text(&app.queue)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    response
}

fn card(app: &App, model: ModelInfo) -> ModelCard {
    let (object, owned_by) = ("model".to_owned(), "firebrick".to_owned());
    ModelCard { id: model.id, object, created: app.started, owned_by, parent: model.parent }
}

async fn models(State(app): State<Arc<App>>) -> Response {
    let data = app.backend.models().into_iter().map(|model| card(&app, model)).collect();
    answer(json(&ModelList { object: "list".to_owned(), data }))
}

async fn model(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    match app.backend.models().into_iter().find(|model| model.id == id) {
        Some(model) => Ok(answer(json(&card(&app, model)))),
        None => {
            let words = format!("there is no model {:?}", shortened(&id));
            Err(ApiError::new(StatusCode::NOT_FOUND, words).with_code("model_not_found"))
        }
    }
}

type Asked = (State<Arc<App>>, Extension<Arc<Visit>>, HeaderMap);

async fn chat(asked: Asked, body: Body) -> Result<Response, ApiError> {
    generate(asked, body, Kind::Chat).await
}

async fn completions(asked: Asked, body: Body) -> Result<Response, ApiError> {
    generate(asked, body, Kind::Completion).await
}

async fn generate(asked: Asked, body: Body, kind: Kind) -> Result<Response, ApiError> {
    let (State(app), Extension(visit), headers) = asked;
    let read = app.bodies.read(&app.settings, &headers, body).await?;
    let (Prepared { requests, form }, share) = prepare(&app, &visit, read, move |rules, body| match kind {
        Kind::Chat => rules.chat(body),
        Kind::Completion => rules.completion(body),
    })
    .await?;
    let prompts = requests.len();
    let mut job = Job::start(&app, requests, form.choices, share)?;
    let prefix = if kind == Kind::Chat { "chatcmpl" } else { "cmpl" };
    let head = Head { kind, id: format!("{prefix}-{}", visit.id), created: now(), form };
    if !head.form.stream {
        let mut whole = Whole::new(head, prompts);
        while let Some(event) = job.next().await {
            let (prompt, event) = event?;
            whole.add(prompt, event);
        }
        return Ok(answer(whole.json(job.usage())));
    }
    let mut pieces = Pieces::new(head, prompts);
    let mut ready = pieces.first();
    // What fails at once is answered with its own status. An answer that takes longer begins, so that the connection does
    // not look dead.
    if let Ok(Some(event)) = tokio::time::timeout(QUIET, job.next()).await {
        let (prompt, event) = event?;
        ready.push_str(&pieces.add(prompt, event));
    }
    let mut signs = tokio::time::interval(QUIET);
    signs.set_missed_tick_behavior(MissedTickBehavior::Delay);
    signs.reset();
    let mut response = Response::new(Body::new(StreamBody { job: Some(job), pieces, ready, signs, visit }));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    // For proxies that gather answers before they pass them on.
    response.headers_mut().insert("x-accel-buffering", HeaderValue::from_static("no"));
    response.extensions_mut().insert(Streaming);
    Ok(response)
}

/// Parses a body on a thread of its own: pictures in it may take a while.
async fn prepare<T: Send + 'static>(
    app: &Arc<App>,
    visit: &Arc<Visit>,
    read: Read,
    work: impl FnOnce(&Rules<'_>, &[u8]) -> Result<T, ApiError> + Send + 'static,
) -> Result<(T, tokio::sync::OwnedSemaphorePermit), ApiError> {
    let (app, visit) = (Arc::clone(app), Arc::clone(visit));
    let prepared = tokio::task::spawn_blocking(move || {
        let rules = Rules {
            limits: app.settings.limits,
            images_root: app.settings.images_root.as_deref(),
            models: app.backend.models(),
            most_prompts: app.queue.most(),
            id: &visit.id,
        };
        Ok((work(&rules, &read.bytes)?, read.share))
    });
    let died = |_| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "reading the request failed");
    prepared.await.map_err(died)?
}

async fn embeddings(asked: Asked, body: Body) -> Result<Response, ApiError> {
    let (State(app), Extension(visit), headers) = asked;
    let read = app.bodies.read(&app.settings, &headers, body).await?;
    let ((requests, model, encoding), _share) =
        prepare(&app, &visit, read, |rules, body| rules.embeddings(body)).await?;
    let found = ask(&app, requests, |app, request, reply| app.backend.embed(request, reply)).await?;
    let tokens = found.iter().map(|embedding| embedding.tokens).sum();
    app.metrics.tokens(tokens, 0);
    let items = found.into_iter().enumerate().map(|(index, embedding)| {
        let embedding = match encoding {
            Encoding::Float => EmbeddingValues::Float(embedding.values),
            Encoding::Base64 => {
                let bytes: Vec<u8> = embedding.values.iter().flat_map(|value| value.to_le_bytes()).collect();
                EmbeddingValues::Base64(STANDARD.encode(bytes))
            }
        };
        EmbeddingItem { object: "embedding".to_owned(), index, embedding }
    });
    let usage = usage(Usage { prompt_tokens: tokens, completion_tokens: 0 });
    Ok(answer(json(&EmbeddingAnswer { object: "list".to_owned(), data: items.collect(), model, usage })))
}

async fn scores(asked: Asked, body: Body) -> Result<Response, ApiError> {
    let (State(app), Extension(visit), headers) = asked;
    let read = app.bodies.read(&app.settings, &headers, body).await?;
    let ((requests, model), _share) = prepare(&app, &visit, read, |rules, body| rules.scores(body)).await?;
    let found = ask(&app, requests, |app, request, reply| app.backend.score(request, reply)).await?;
    let tokens = found.iter().map(|scored| scored.tokens).sum();
    app.metrics.tokens(tokens, 0);
    let item = |(index, score)| ScoreItem { index, object: "score".to_owned(), score };
    let data = found.iter().map(|scored| scored.score).enumerate().map(item).collect();
    let (id, object, created) = (format!("score-{}", visit.id), "list".to_owned(), now());
    let usage = usage(Usage { prompt_tokens: tokens, completion_tokens: 0 });
    Ok(answer(json(&ScoreAnswer { id, object, created, model, data, usage })))
}

fn answer(json: String) -> Response {
    let mut response = Response::new(Body::from(json));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// The body of a streamed answer. Dropped, it cancels what is left of it.
struct StreamBody {
    job: Option<Job>,
    pieces: Pieces,
    ready: String,
    signs: Interval,
    visit: Arc<Visit>,
}

impl hyper::body::Body for StreamBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        while let Some(job) = this.job.as_mut().filter(|_| this.ready.len() < FRAME) {
            match job.poll(context) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok((prompt, event)))) => this.ready.push_str(&this.pieces.add(prompt, event)),
                Poll::Ready(Some(Err(error))) => {
                    this.ready.push_str(&broken(&error));
                    this.visit.status.store(error.status.as_u16(), Ordering::Relaxed);
                    this.job = None;
                }
                Poll::Ready(None) => {
                    this.ready.push_str(&this.pieces.last(job.usage()));
                    this.visit.status.store(200, Ordering::Relaxed);
                    this.job = None;
                }
            }
        }
        if this.ready.is_empty() {
            if this.job.is_none() {
                return Poll::Ready(None);
            }
            if this.signs.poll_tick(context).is_pending() {
                return Poll::Pending;
            }
            // A comment: clients pass over it, and a client that has left is noticed.
            this.ready.push_str(": waiting\n\n");
        } else {
            this.signs.reset();
        }
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.ready).into()))))
    }
}
