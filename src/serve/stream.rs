//! Answers that are sent as they come.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use hyper::body::Frame;
use tokio::time::{Interval, MissedTickBehavior};

use super::error::ApiError;
use super::gate::{Streaming, Visit};
use super::job::Job;
use super::shapes::{Pieces, broken};

/// How long an answer may be without news before a stream begins anyway, and between its signs of life.
const QUIET: Duration = Duration::from_secs(10);
/// Bytes of a stream that are sent at once.
const FRAME: usize = 32 << 10;

/// Begins to send an answer.
pub(super) async fn stream(mut job: Job, mut pieces: Pieces, visit: Arc<Visit>) -> Result<Response, ApiError> {
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

/// The body of a streamed answer. Dropped, it cancels what is left of it.
pub(super) struct StreamBody {
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
                    this.visit.note(error.status.as_u16());
                    this.job = None;
                }
                Poll::Ready(None) => {
                    this.ready.push_str(&this.pieces.last(job.usage()));
                    this.visit.note(200);
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
