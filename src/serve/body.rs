//! Bodies: read within bounds, and looked at before they are parsed.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::ApiError;
use super::settings::ServeSettings;

/// Values of a body at most: each takes some 70 bytes once it is parsed, however short it is written.
const MOST_VALUES: usize = 1_000_000;
/// Lists and objects inside each other at most.
const DEEPEST: usize = 64;
/// Bytes per permit.
const UNIT: usize = 1024;

/// The bytes of all bodies together.
#[derive(Debug)]
pub(super) struct Bodies(Arc<Semaphore>);

/// A body, and its share of the bytes of all.
#[derive(Debug)]
pub(super) struct Read {
    pub bytes: Vec<u8>,
    pub share: OwnedSemaphorePermit,
}

impl Bodies {
    pub fn new(bytes: usize) -> Self {
        Self(Arc::new(Semaphore::new(bytes.div_ceil(UNIT))))
    }

    /// Reads a JSON body.
    pub async fn read(&self, settings: &ServeSettings, headers: &HeaderMap, body: Body) -> Result<Read, ApiError> {
        is_json(headers)?;
        let limit = settings.limits.body_bytes;
        let too_long = || {
            let words = format!("the body is longer than {limit} bytes; send less, or smaller pictures");
            ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, words)
        };
        let length = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if length.is_some_and(|length| length > limit) {
            return Err(too_long());
        }
        let units = length.unwrap_or(limit).div_ceil(UNIT) as u32;
        let share = Arc::clone(&self.0).try_acquire_many_owned(units);
        let mut share = share.map_err(|_| ApiError::busy(Duration::from_secs(1)))?;
        let read = collect(body, length.unwrap_or(0), limit);
        match tokio::time::timeout(settings.body_timeout, read).await {
            Err(_) => {
                let seconds = settings.body_timeout.as_secs();
                let words = format!("the body did not come within {seconds} s");
                Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, words))
            }
            Ok(Err(reason)) => Err(ApiError::bad(format!("the body cannot be read: {reason}"))),
            Ok(Ok(None)) => Err(too_long()),
            Ok(Ok(Some(bytes))) => {
                // A body that did not say its length took as much as any may have.
                let used = bytes.len().div_ceil(UNIT);
                drop(share.split(share.num_permits().saturating_sub(used)));
                Ok(Read { bytes, share })
            }
        }
    }
}

/// The body's bytes; nothing where there are more than `limit`.
async fn collect(mut body: Body, length: usize, limit: usize) -> Result<Option<Vec<u8>>, String> {
    let mut bytes = Vec::with_capacity(length);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| error.to_string())?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > limit {
            return Ok(None);
        }
        bytes.extend_from_slice(data);
    }
    Ok(Some(bytes))
}

fn is_json(headers: &HeaderMap) -> Result<(), ApiError> {
    let unsupported = |words: &str| Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, words));
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return unsupported("send JSON, with `Content-Type: application/json`");
    }
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if encoding != "identity" => unsupported("send the body as it is, without `Content-Encoding`"),
        _ => Ok(()),
    }
}

/// Parses a body whose size in memory was estimated first.
pub(super) fn parse(bytes: &[u8]) -> Result<Value, ApiError> {
    look(bytes)?;
    serde_json::from_slice(bytes).map_err(|error| ApiError::bad(format!("the body is not JSON: {error}")))
}

/// Counts values and depth without parsing.
fn look(bytes: &[u8]) -> Result<(), ApiError> {
    let (mut values, mut depth, mut inside, mut escaped) = (0usize, 0usize, false, false);
    for &byte in bytes {
        if inside {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => inside = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => inside = true,
            b',' => values += 1,
            b'[' | b'{' => {
                values += 1;
                depth += 1;
                if depth > DEEPEST {
                    let words = format!("the body is nested deeper than {DEEPEST} lists and objects");
                    return Err(ApiError::bad(words));
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    match values > MOST_VALUES {
        true => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("the body has more than {MOST_VALUES} values; send less at once"),
        )),
        false => Ok(()),
    }
}
