//! Stopping.

use super::*;
use std::net::TcpStream;

fn slow(grace: Duration) -> Running {
    let settings = ServeSettings { slots: 1, grace, ..ServeSettings::default() };
    Running::with(settings, Echo::slow(Duration::from_millis(20)))
}

fn stopped(server: &Running) -> bool {
    server.thread.as_ref().unwrap().is_finished()
}

#[test]
fn what_is_under_way_ends_first() {
    let server = slow(Duration::from_secs(20));
    let asked = with(with(chat("say much"), "stream", true), "max_tokens", 30);
    let mut streaming = Open::post(server.address, "/v1/chat/completions", &asked);
    assert!(streaming.event().is_some());
    let waiting = Open::post(server.address, "/v1/chat/completions", &chat("x"));
    // A connection that waits for its next request must not hold the server up.
    let mut idle = Open::send(server.address, &get("/health", ""));
    assert_eq!(idle.head().unwrap().0, 200);
    until("one waits", || server.metric("firebrick_queue_length") == 1.0);
    server.handle.shut_down();
    until("no connection is taken", || TcpStream::connect(server.address).is_err());
    let words: Vec<String> = std::iter::from_fn(|| streaming.event()).collect();
    assert_eq!(words.last().map(String::as_str), Some("[DONE]"));
    assert_eq!(waiting.answer().unwrap().status, 200);
    assert!(idle.is_closed_within(Duration::from_secs(20)));
    until("the server has stopped", || stopped(&server));
    assert_eq!((count(&server.counts.finished), count(&server.counts.cancelled)), (2, 0));
}

#[test]
fn nobody_is_waited_for_for_ever() {
    for asked_twice in [false, true] {
        let grace = if asked_twice { Duration::from_secs(600) } else { Duration::from_millis(200) };
        let server = slow(grace);
        let asked = with(with(chat("say much"), "stream", true), "max_tokens", 4000);
        let mut streaming = Open::post(server.address, "/v1/chat/completions", &asked);
        assert!(streaming.event().is_some());
        server.handle.shut_down();
        if asked_twice {
            server.handle.shut_down();
        }
        until("the server has stopped", || stopped(&server));
        until("the backend has noticed", || count(&server.counts.cancelled) == 1);
        assert!(streaming.is_closed_within(Duration::from_secs(20)));
    }
}

#[test]
fn an_idle_server_stops_at_once() {
    let server = slow(Duration::from_secs(600));
    server.get("/health");
    let begun = Instant::now();
    server.handle.shut_down();
    until("the server has stopped", || stopped(&server));
    assert!(begun.elapsed() < Duration::from_secs(5));
}
