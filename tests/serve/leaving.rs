//! Clients that leave: their work ends, wherever it is.

use super::*;

fn slow() -> Running {
    let settings = ServeSettings { slots: 1, queue: 5, ..ServeSettings::default() };
    Running::with(settings, Echo::slow(Duration::from_millis(20)))
}

#[test]
fn in_the_middle_of_a_stream() {
    let server = slow();
    let asked = with(with(chat("say much"), "stream", true), "max_tokens", 4000);
    let mut open = Open::post(server.address, "/v1/chat/completions", &asked);
    assert_eq!(open.head().unwrap().0, 200);
    assert!(open.event().is_some());
    open.leave();
    until("the backend has noticed", || count(&server.counts.cancelled) == 1);
    // The slot is free: somebody else is answered long before the first would have been.
    assert_eq!(server.post("/v1/chat/completions", &chat("x")).status, 200);
    server.is_well();
    assert!(server.get("/metrics").text().contains("route=\"/v1/chat/completions\",status=\"499\"} 1"));
}

#[test]
fn before_the_answer_is_there() {
    let server = slow();
    for body in [with(chat("say much"), "max_tokens", 4000), json!({"prompt": "x", "max_tokens": 4000, "n": 2})] {
        let path = if body["prompt"].is_null() { "/v1/chat/completions" } else { "/v1/completions" };
        let before = count(&server.counts.cancelled);
        let open = Open::post(server.address, path, &body);
        until("it has begun", || count(&server.counts.active) == 1);
        open.leave();
        until("the backend has noticed", || count(&server.counts.cancelled) == before + 1);
    }
    server.is_well();
}

#[test]
fn in_the_queue() {
    let server = slow();
    let first = Open::post(server.address, "/v1/chat/completions", &with(chat("say much"), "max_tokens", 60));
    until("it has begun", || count(&server.counts.active) == 1);
    let waiting: Vec<Open> = (0..5)
        .map(|i| Open::post(server.address, "/v1/chat/completions", &with(chat("x"), "stream", i % 2 == 0)))
        .collect();
    until("all wait", || server.metric("firebrick_queue_length") == 5.0);
    assert_eq!(server.post("/v1/chat/completions", &chat("x")).status, 429);
    waiting.into_iter().for_each(Open::leave);
    until("the queue is empty", || server.metric("firebrick_queue_length") == 0.0);
    assert_eq!(first.answer().unwrap().status, 200);
    // None of them ever reached the backend.
    assert_eq!((count(&server.counts.finished), count(&server.counts.cancelled)), (1, 0));
    server.is_well();
}

#[test]
fn in_the_middle_of_a_body() {
    let server = slow();
    let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";
    Open::send(server.address, head.as_bytes()).leave();
    until("it is noted", || server.get("/metrics").text().contains("route=\"/v1/completions\",status="));
    server.is_well();
}
