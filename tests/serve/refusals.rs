//! What is refused, and how.

use super::*;
use firebrick::serve::{Limits, Secret, ServeError};

#[test]
fn what_cannot_be_obeyed_is_named() {
    let limits = Limits { messages: 2, choices: 2, prompts: 3, max_tokens: 100, ..Limits::default() };
    let server = Running::with(ServeSettings { limits, ..ServeSettings::default() }, Echo::default());
    let turn = json!({"role": "user", "content": "x"});
    for (path, body, param, expected) in [
        ("/v1/chat/completions", with(chat("x"), "temprature", 1), "temprature", "did you mean `temperature`?"),
        ("/v1/chat/completions", json!({"model": "echo"}), "messages", "is missing"),
        ("/v1/chat/completions", json!({"messages": [turn, turn, turn]}), "messages", "at most 2 messages, not 3"),
        ("/v1/chat/completions", with(chat("x"), "n", 3), "n", "at most 2 answers"),
        ("/v1/chat/completions", with(chat("x"), "max_tokens", 101), "max_tokens", "writes at most 100, not 101"),
        (
            "/v1/chat/completions",
            json!({"messages": [{"role": "wizard", "content": "x"}]}),
            "messages[0].role",
            "wizard",
        ),
        ("/v1/completions", json!({"prompt": ["a", "b", "c", "d"]}), "prompt", "at most 3 at once, not 4"),
        ("/v1/completions", json!({"prompt": "a", "suffix": "b"}), "suffix", "not supported"),
        ("/v1/completions", json!({"prompt": "a", "stop": vec!["x"; 65]}), "stop", "at most 64 texts"),
        ("/v1/embeddings", json!({"input": "a", "dimensions": 0}), "dimensions", "whole number"),
        ("/score", json!({"text_1": "a", "text_2": "b"}), "messages", "is missing"),
    ] {
        let answer = server.post(path, &body);
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.error().contains(expected), "{}", answer.error());
        assert_eq!(answer.json()["error"]["param"], param, "{body}");
        assert_eq!(answer.json()["error"]["type"], "invalid_request_error");
    }
    let missing = server.post("/v1/chat/completions", &with(chat("x"), "model", "other"));
    assert_eq!((missing.status, missing.json()["error"]["code"].clone()), (404, json!("model_not_found")));
    assert!(missing.error().contains("the models are: echo, team/adapter"), "{}", missing.error());
    let nowhere = server.get("/v2/chat");
    assert_eq!((nowhere.status, nowhere.error().as_str()), (404, "there is nothing at \"/v2/chat\""));
    let wrong = server.get("/v1/chat/completions");
    assert_eq!((wrong.status, wrong.error().as_str()), (405, "/v1/chat/completions does not take GET"));
    server.is_well();
}

#[test]
fn what_the_backend_says_arrives() {
    let server = Running::new();
    for stream in [false, true] {
        let ask = |words: &str| server.post("/v1/chat/completions", &with(chat(words), "stream", stream));
        let no = ask("say no");
        assert_eq!((no.status, no.error().as_str()), (400, "no, says the backend"));
        let busy = ask("say busy");
        assert_eq!((busy.status, busy.header("retry-after")), (429, Some("1")));
        let dead = ask("say die");
        assert_eq!((dead.status, dead.error().as_str()), (500, "the model stopped in the middle of the answer"));
    }
    let oops = server.post("/v1/chat/completions", &chat("say oops and more"));
    assert_eq!((oops.status, oops.error().as_str()), (500, "oops, says the backend"));
    assert_eq!(oops.json()["error"]["type"], "server_error");
    // In the middle of a stream the status is gone: the error is an event, and no end follows.
    let mut open = Open::post(server.address, "/v1/chat/completions", &with(chat("say oops and more"), "stream", true));
    assert_eq!(open.head().unwrap().0, 200);
    let events: Vec<String> =
        std::iter::from_fn(|| open.event()).take(9).take_while(|event| !event.contains("error")).collect();
    assert_eq!(events.len(), 3, "{events:?}");
    server.is_well();
    let metrics = server.get("/metrics");
    assert!(metrics.text().contains("status=\"500\"} 4"), "{}", metrics.text());
}

#[test]
fn a_token_is_asked_for() {
    let settings = ServeSettings { token: Secret::new("s3cret"), ..ServeSettings::default() };
    let server = Running::with(settings, Echo::default());
    let ask =
        |headers: &str| server.send(&post("/v1/chat/completions", chat("x").to_string().as_bytes(), headers)).unwrap();
    for headers in [
        "",
        "Authorization: Bearer s3cre\r\n",
        "Authorization: Bearer s3cret2\r\n",
        "Authorization: Basic s3cret\r\n",
        "Authorization: s3cret\r\n",
        "Authorization: Bearer\r\n",
        "Authorization: \u{fc}\r\n",
    ] {
        let answer = ask(headers);
        assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{headers}");
        assert_eq!(answer.json()["error"]["code"], "invalid_api_key");
    }
    assert_eq!(ask("Authorization: Bearer s3cret\r\n").status, 200);
    assert_eq!(ask("Authorization: bearer s3cret\r\n").status, 200);
    for path in ["/metrics", "/v1/models", "/nowhere"] {
        assert_eq!(server.get(path).status, 401, "{path}");
    }
    for path in ["/", "/health"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    // Without the token nothing of a body is read.
    let head =
        "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n";
    assert_eq!(server.send(head.as_bytes()).unwrap().status, 401);
}

/// A web page that lets its own name point to this machine would otherwise be able to use the model.
#[test]
fn a_server_of_this_machine_wants_to_be_called_so() {
    let server = Running::new();
    let ask = |host: &str| server.send(format!("GET /v1/models HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
    for host in ["localhost", "localhost:80", "LocalHost:1", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000", "[::1]"] {
        assert_eq!(ask(host).status, 200, "{host}");
    }
    for host in ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1", "0x7f000001"] {
        assert_eq!(ask(host).status, 403, "{host}");
    }
    let settings = ServeSettings { token: Secret::new("t"), ..ServeSettings::default() };
    let open = Running::with(settings, Echo::default());
    let behind_a_proxy = b"GET /v1/models HTTP/1.1\r\nHost: model.example\r\nAuthorization: Bearer t\r\n\r\n";
    assert_eq!(open.send(behind_a_proxy).unwrap().status, 200);
}

#[test]
fn a_full_queue_says_when_to_come_back() {
    let settings = ServeSettings { slots: 1, queue: 2, ..ServeSettings::default() };
    let server = Running::with(settings, Echo::slow(Duration::from_millis(60)));
    let open: Vec<Open> =
        (0..3).map(|i| Open::post(server.address, "/v1/chat/completions", &chat(&format!("{i}")))).collect();
    until("all are in", || server.metric("firebrick_queue_length") == 2.0);
    let refused = server.post("/v1/chat/completions", &chat("x"));
    assert_eq!((refused.status, refused.json()["error"]["type"].clone()), (429, json!("rate_limit_error")));
    assert!((1..=60).contains(&refused.header("retry-after").unwrap().parse::<u32>().unwrap()));
    // Prompts count, not requests.
    let several = server.post("/v1/completions", &json!({"prompt": ["a", "b", "c", "d"]}));
    assert_eq!(
        (several.status, several.error().as_str()),
        (400, "`prompt`: this server takes at most 3 at once, not 4")
    );
    for answer in open {
        assert_eq!(answer.answer().unwrap().status, 200);
    }
    assert_eq!(server.post("/v1/chat/completions", &chat("x")).status, 200);
    assert_eq!(count(&server.counts.most_active), 1);
    server.is_well();
}

#[test]
fn settings_that_cannot_be_obeyed_are_refused() {
    let bind = |settings| Server::bind(settings, Arc::new(Echo::default())).map(|server| server.address());
    let taken = Running::new();
    let local = ServeSettings { address: taken.address, ..ServeSettings::default() };
    let error = bind(local.clone()).unwrap_err();
    assert!(error.to_string().starts_with(&format!("cannot listen on {}", taken.address)), "{error}");
    for (settings, expected) in [
        (ServeSettings { slots: 0, ..local.clone() }, "`slots` takes a number from 1"),
        (
            ServeSettings { limits: Limits { all_bodies_bytes: 5, ..Limits::default() }, ..local.clone() },
            "`limits.all_bodies_bytes` takes at least `limits.body_bytes`",
        ),
        (ServeSettings { images_root: Some("no/such/folder".into()), ..local.clone() }, "images root no/such/folder: "),
        (ServeSettings { images_root: Some(file!().into()), ..local }, "images root "),
    ] {
        let error = bind(settings).unwrap_err();
        assert!(!matches!(error, ServeError::Bind { .. }) && error.to_string().starts_with(expected), "{error}");
    }
}
