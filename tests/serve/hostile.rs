//! Requests that mean no good: each is refused, and the server goes on.

use super::*;
use firebrick::serve::Limits;

const HEAD: &str = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";

#[test]
fn bodies_that_are_no_requests_are_refused() {
    let server = Running::new();
    let deep = format!("{}{}", "[".repeat(500_000), "]".repeat(500_000));
    let many = format!("{{\"messages\": [0{}]}}", ",0".repeat(2_000_000));
    let long_key = format!("{{\"{}\": 1, \"messages\": []}}", "k".repeat(1_000_000));
    let deep_inside = format!("{{\"messages\": [{}]}}", "{\"a\":".repeat(1000));
    let cases: [(&[u8], u16, &str); 12] = [
        (b"", 400, "the body is not JSON"),
        (b"{", 400, "the body is not JSON"),
        (b"[]", 400, "the body must be a JSON object"),
        (b"null", 400, "the body must be a JSON object"),
        (b"{\"messages\": \"\xff\xfe\"}", 400, "invalid unicode code point"),
        (b"{\"messages\": \"\\ud800\"}", 400, "the body is not JSON"),
        (b"{\"messages\": [{\"role\": \"user\", \"content\": \"\0\"}]}", 400, "control character"),
        (
            b"{\"temperature\": 1e999, \"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}",
            400,
            "number out of range",
        ),
        (deep.as_bytes(), 400, "nested deeper than 64"),
        (many.as_bytes(), 413, "more than 1000000 values"),
        (long_key.as_bytes(), 400, "`messages` takes a list of at least one message"),
        (deep_inside.as_bytes(), 400, "nested deeper than 64"),
    ];
    for (body, status, expected) in cases {
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        let answer = server.send(&post("/v1/chat/completions", body, "")).unwrap();
        assert_eq!(answer.status, status, "{shown}: {}", answer.text());
        assert!(answer.error().contains(expected), "{shown}: {}", answer.error());
        assert!(answer.body.len() < 1000, "{shown}");
    }
    server.is_well();
}

#[test]
fn long_names_are_not_sent_back() {
    let server = Running::new();
    let long = "x".repeat(1_000_000);
    for body in [
        with(chat("x"), &long, 1),
        with(chat("x"), "model", long.as_str()),
        with(chat("x"), "stop", json!({"a": long})),
    ] {
        let answer = server.post("/v1/chat/completions", &body);
        assert!((400..=404).contains(&answer.status) && answer.body.len() < 2000, "{} bytes", answer.body.len());
    }
    let path = format!("/{}", "y".repeat(30_000));
    assert!(server.get(&path).body.len() < 1000);
    server.is_well();
}

#[test]
fn bodies_that_are_too_long_are_not_read() {
    let limits = Limits { body_bytes: 100_000, all_bodies_bytes: 150_000, ..Limits::default() };
    let server = Running::with(ServeSettings { limits, ..ServeSettings::default() }, Echo::default());
    let announced = server.send(format!("{HEAD}Content-Length: 99999999999\r\n\r\n").as_bytes()).unwrap();
    assert_eq!((announced.status, announced.error().contains("longer than 100000 bytes")), (413, true));
    // Without a length in front.
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000)).repeat(20);
    let chunked = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{chunk}0\r\n\r\n");
    assert_eq!(server.send(chunked.as_bytes()).unwrap().status, 413);
    let (small, end) = (chat("in pieces").to_string(), "0\r\n\r\n");
    let pieces: String = small.chars().map(|c| format!("1\r\n{c}\r\n")).collect();
    let good = server.send(format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{pieces}{end}").as_bytes()).unwrap();
    assert_eq!(good.status, 200);
    // All bodies together are bounded as well: two of 90 kB are too much at once.
    let slow = Open::send(server.address, format!("{HEAD}Content-Length: 90000\r\n\r\n{{").as_bytes());
    until("the second is asked to come back", || {
        let body = format!("{}{}", chat("x"), " ".repeat(90_000));
        server.send(&post("/v1/chat/completions", body.as_bytes(), "")).unwrap().status == 429
    });
    slow.leave();
    until("the bytes are free again", || {
        let body = format!("{}{}", chat("x"), " ".repeat(90_000));
        server.send(&post("/v1/chat/completions", body.as_bytes(), "")).unwrap().status == 200
    });
    server.is_well();
}

#[test]
fn only_json_is_taken_and_as_it_is() {
    let server = Running::new();
    let body = chat("x").to_string();
    let length = body.len();
    for (headers, status) in [
        ("Content-Type: text/plain\r\n", 415),
        ("Content-Type: application/x-www-form-urlencoded\r\n", 415),
        ("", 415),
        ("Content-Type: application/json\r\nContent-Encoding: gzip\r\n", 415),
        ("Content-Type: application/json; charset=utf-8\r\n", 200),
        ("Content-Type: APPLICATION/JSON\r\n", 200),
    ] {
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n"
        );
        assert_eq!(server.send(format!("{head}{body}").as_bytes()).unwrap().status, status, "{headers}");
    }
}

#[test]
fn bytes_that_are_no_http_close_the_connection() {
    let server = Running::new();
    let smuggled = format!("{HEAD}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    let long_header = format!("GET /health HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(1 << 20));
    let many_headers = format!("GET /health HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(5000));
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\0\0\0\0\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        long_header.as_bytes(),
        many_headers.as_bytes(),
        smuggled.as_bytes(),
    ] {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(30)]).into_owned();
        if let Some(answer) = server.send(bytes) {
            assert!((400..=431).contains(&answer.status), "{shown}: {}", answer.status);
        }
        assert_eq!(server.get("/health").status, 200, "{shown}");
    }
    server.is_well();
}

#[test]
fn clients_that_say_nothing_are_not_waited_for() {
    let patience = Duration::from_millis(300);
    let settings = ServeSettings { head_timeout: patience, body_timeout: patience, ..ServeSettings::default() };
    let server = Running::with(settings, Echo::default());
    let enough = Duration::from_secs(20);
    assert!(Open::send(server.address, b"").is_closed_within(enough), "no word");
    assert!(Open::send(server.address, b"GET /health HT").is_closed_within(enough), "half a head");
    let half = Open::send(server.address, format!("{HEAD}Content-Length: 100\r\n\r\n{{").as_bytes()).answer().unwrap();
    assert_eq!((half.status, half.error().as_str()), (408, "the body did not come within 0 s"));
    // Byte by byte is no progress either.
    let mut slow = Open::send(server.address, b"");
    let begun = Instant::now();
    while slow.write(b"G") && begun.elapsed() < enough {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(begun.elapsed() < enough);
    server.is_well();
}

#[test]
fn clients_that_do_not_read_are_left() {
    let settings = ServeSettings {
        write_timeout: Duration::from_millis(300),
        limits: Limits { max_tokens: 200_000, ..Limits::default() },
        ..ServeSettings::default()
    };
    let server = Running::with(settings, Echo::default());
    let asked = with(with(chat("say much"), "stream", true), "max_tokens", 200_000);
    let open = Open::post(server.address, "/v1/chat/completions", &asked);
    // Some 40 MB are written to somebody who takes none of them.
    until("the connection is closed", || server.metric("firebrick_connections") == 1.0);
    assert!(server.get("/metrics").text().contains("route=\"/v1/chat/completions\",status=\"499\"} 1"));
    drop(open);
    server.is_well();
}
