//! What is answered where.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, Request, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::admit::Queue;
use super::backend::{Backend, Classified};
use super::body::{Bodies, Read};
use super::error::ApiError;
use super::gate::{Visit, around, shortened};
use super::job::{Job, ask};
use super::metrics::Metrics;
use super::page::page;
use super::prepare::{Prepared, Rules};
use super::server::Phase;
use super::settings::ServeSettings;
use super::shapes::{Head, Kind, Pieces, Whole, json};
use super::stream::stream;
use crate::engine::ModelInfo;
use crate::openai::{
    ClassifyAnswer, ClassifyItem, EmbeddingAnswer, EmbeddingItem, EmbeddingValues, Encoding, ModelCard, ModelList,
    ScoreAnswer, ScoreItem, UsageAnswer,
};

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
        .route("/v1/classify", post(classes))
        .route("/classify", post(classes))
        .fallback(missing)
        .method_not_allowed_fallback(method)
        .layer(from_fn_with_state(Arc::clone(&app), around))
        .with_state(app)
}

async fn health(State(app): State<Arc<App>>) -> Response {
    let unavailable = |words: &str| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, words).into_response();
    match *app.phase.borrow() {
        Phase::Running if !app.backend.is_alive() => unavailable("the model has died; start the server again"),
        Phase::Running => answer("{\"status\":\"ok\"}".to_owned()),
        _ => unavailable("the server is stopping"),
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
    stream(job, Pieces::new(head, prompts), visit).await
}

/// Parses a body on a thread of its own: pictures in it may take a while.
async fn prepare<T: Send + 'static>(
    app: &Arc<App>,
    visit: &Arc<Visit>,
    read: Read,
    work: impl FnOnce(&Rules<'_>, &[u8]) -> Result<T, ApiError> + Send + 'static,
) -> Result<(T, OwnedSemaphorePermit), ApiError> {
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
    let usage = read_usage(tokens);
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
    let usage = read_usage(tokens);
    Ok(answer(json(&ScoreAnswer { id, object, created, model, data, usage })))
}

async fn classes(asked: Asked, body: Body) -> Result<Response, ApiError> {
    let (State(app), Extension(visit), headers) = asked;
    let read = app.bodies.read(&app.settings, &headers, body).await?;
    let ((requests, model), _share) = prepare(&app, &visit, read, |rules, body| rules.scores(body)).await?;
    let found = ask(&app, requests, |app, request, reply| app.backend.classify(request, reply)).await?;
    let tokens = found.iter().map(|classified| classified.tokens).sum();
    app.metrics.tokens(tokens, 0);
    let data = found.into_iter().enumerate().map(|(index, classified)| {
        let Classified { probabilities: probs, mut labels, .. } = classified;
        let likeliest = probs.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(class, _)| class);
        let label = likeliest.filter(|class| *class < labels.len()).map(|class| labels.swap_remove(class));
        ClassifyItem { index, label, num_classes: probs.len(), probs }
    });
    let (id, object, created, data) = (format!("classify-{}", visit.id), "list".to_owned(), now(), data.collect());
    let usage = read_usage(tokens);
    Ok(answer(json(&ClassifyAnswer { id, object, created, model, data, usage })))
}

/// What it took to read so many tokens and write none.
fn read_usage(tokens: u64) -> UsageAnswer {
    UsageAnswer { prompt_tokens: tokens, total_tokens: tokens, ..UsageAnswer::default() }
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
