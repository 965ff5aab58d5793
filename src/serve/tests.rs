use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue};

use super::admit::{Full, Queue};
use super::body::{Bodies, parse};
use super::settings::{Secret, ServeSettings};

#[test]
fn a_secret_is_compared_whole_and_not_shown() {
    let secret = Secret::new(" s3cret ").unwrap();
    assert!(secret.is(b"s3cret"));
    for other in [&b"s3cre"[..], b"s3cret ", b"S3cret", b""] {
        assert!(!secret.is(other));
    }
    assert_eq!(format!("{secret:?}"), "Secret(…)");
    assert!(Secret::new("").is_none() && Secret::new("a b").is_none() && Secret::new("ü").is_none());
}

#[test]
fn the_queue_takes_all_prompts_of_a_request_or_none() {
    let queue = Queue::new(2, 3);
    let first = queue.enter(4, 1).unwrap();
    assert_eq!(queue.enter(2, 1).unwrap_err(), Full { after: Duration::from_secs(1) });
    let second = queue.enter(1, 1).unwrap();
    assert_eq!((queue.waiting(), queue.running(), queue.most()), (5, 0, 5));
    drop(first);
    assert_eq!(queue.waiting(), 1);
    drop(second);
    assert_eq!(queue.waiting(), 0);
}

#[test]
fn slots_are_given_in_order_and_by_size() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let queue = Queue::new(2, 9);
        let mut tickets = queue.enter(2, 1).unwrap();
        let both = queue.enter(1, 5).unwrap().remove(0);
        let one = tickets.remove(0).slot().await;
        let two = tickets.remove(0).slot().await;
        let waiting = tokio::spawn(both.slot());
        tokio::task::yield_now().await;
        let late = queue.enter(1, 1).unwrap().remove(0);
        let late = tokio::spawn(late.slot());
        drop(one);
        tokio::task::yield_now().await;
        // It needs both slots, and whoever came later waits behind it.
        assert!(!waiting.is_finished() && !late.is_finished());
        drop(two);
        let slot = waiting.await.unwrap();
        assert_eq!((slot.size(), queue.running(), queue.waiting()), (2, 1, 1));
        drop(slot);
        drop(late.await.unwrap());
        assert_eq!((queue.running(), queue.waiting(), Arc::strong_count(&queue)), (0, 0, 1));
    });
}

#[test]
fn a_body_without_a_length_keeps_what_it_needs() {
    let settings = ServeSettings::default();
    let bodies = Bodies::new(settings.limits.body_bytes);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let read = || runtime.block_on(bodies.read(&settings, &headers, Body::from("{}"))).unwrap();
    let first = read();
    assert_eq!((first.bytes.as_slice(), first.share.num_permits()), (&b"{}"[..], 1));
    // All is free for the next again.
    drop(first);
    assert_eq!(read().share.num_permits(), 1);
}

#[test]
fn bodies_are_looked_at_before_they_are_parsed() {
    let words = |body: &[u8]| parse(body).unwrap_err().body.message;
    assert_eq!(parse(br#"{"a": "[[[[,,,,\"{{{"}"#).unwrap()["a"], "[[[[,,,,\"{{{");
    assert_eq!(words("[".repeat(100_000).as_bytes()), "the body is nested deeper than 64 lists and objects");
    let many = format!("[0{}]", ",0".repeat(1_000_001));
    assert_eq!(words(many.as_bytes()), "the body has more than 1000000 values; send less at once");
    assert!(words(b"{\"a\": \"\xff\"}").starts_with("the body is not JSON: invalid unicode code point"));
    assert!(words(b"").starts_with("the body is not JSON: EOF"));
    assert!(words(b"{} {}").starts_with("the body is not JSON: trailing characters"));
}
