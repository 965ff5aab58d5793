mod server;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde_json::json;
use server::{Fault, Server};

use super::*;
use crate::text::{Conversation, Message, Part, Role, ToolCall};

fn settings(server: &Server) -> HttpSettings {
    let retries = Retries { attempts: 3, first: Duration::from_millis(2), longest: Duration::from_millis(300) };
    HttpSettings { retries, concurrency: 4, certificates: None, ..HttpSettings::new(server.url.clone()) }
}

fn chat(id: &str, words: &str) -> Request {
    let conversation = Conversation::new(vec![Message::text(Role::User, words)]);
    Request::new(id, Prompt::Chat { conversation, images: Vec::new() })
}

fn all(settings: HttpSettings, requests: &[Request]) -> Vec<Result<Answer, EngineError>> {
    let engine = HttpEngine::new(settings).unwrap();
    let mut results: Vec<Option<Result<Answer, EngineError>>> = requests.iter().map(|_| None).collect();
    engine.generate(requests, &mut |index, result| {
        assert!(results[index].replace(result).is_none(), "request {index} was finished twice");
        ControlFlow::Continue(())
    });
    results.into_iter().map(Option::unwrap).collect()
}

fn one(settings: HttpSettings, request: &Request) -> Result<Answer, EngineError> {
    all(settings, std::slice::from_ref(request)).remove(0)
}

#[test]
fn many_requests_are_answered_several_at_once() {
    let server = Server::new();
    server.state().delay = Duration::from_millis(20);
    let requests: Vec<Request> = (0..12).map(|i| chat(&format!("row {i}"), &format!("{i}z"))).collect();
    for (i, answer) in all(settings(&server), &requests).into_iter().enumerate() {
        let answer = answer.unwrap();
        assert_eq!(answer.choices[0].text, format!("{i}z").chars().rev().collect::<String>());
        assert_eq!((answer.model.as_str(), answer.choices[0].finish), ("base", Finish::Stop));
        assert_eq!(answer.usage, Usage { prompt_tokens: 3, cached_tokens: 0, completion_tokens: 2 });
    }
    assert_eq!(server.state().busiest, 4);
    // The list of models is asked for once.
    assert_eq!(server.state().log.len(), 13);
}

#[test]
fn everything_that_is_set_is_sent() {
    let server = Server::new();
    let picture = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(picture.path(), b"GIF89a...").unwrap();
    let mut call = ToolCall::new("f", json!({"a": 1}));
    call.id = Some("c1".into());
    let messages = vec![
        Message::text(Role::System, "be brief"),
        Message::new(Role::User, vec![Part::Image, Part::Text("or".into()), Part::Image]),
        Message::calls(vec![call]),
        Message { tool_call_id: Some("c1".into()), ..Message::tool_result("f", "3") },
    ];
    let images = vec![ImageSource::File(picture.path().into()), ImageSource::Bytes(b"\x89PNG...".as_slice().into())];
    let tools = vec![json!({"type": "function", "function": {"name": "f"}})];
    let conversation = Conversation::new(messages).with_tools(tools.clone());
    let sampling = Sampling {
        temperature: Some(0.0),
        top_k: Some(0),
        top_p: Some(0.5),
        min_p: Some(0.25),
        typical_p: Some(0.75),
        repetition_penalty: Some(1.5),
        presence_penalty: Some(0.5),
        frequency_penalty: Some(-0.5),
        no_repeat_ngram_size: Some(3),
        min_new_tokens: Some(1),
        max_new_tokens: Some(9),
        stop: vec!["END".into()],
        stop_ids: vec![7],
        ignore_eos: true,
        bad_words: vec!["no".into()],
        allowed_tokens: vec![1, 2],
        seed: Some(5),
    };
    let request = Request {
        model: Some("a".into()),
        sampling,
        n: 2,
        logprobs: Some(1),
        ..Request::new("row", Prompt::Chat { conversation, images })
    };
    // Cargo sets this variable for tests.
    let key = HttpSettings { api_key_variable: Some("CARGO_PKG_NAME".into()), ..settings(&server) };
    let answer = one(key, &request).unwrap();
    assert_eq!(answer.choices.len(), 2);
    let seen = &server.seen()[0];
    let expected = json!({
        "model": "a",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "data:image/gif;base64,R0lGODlhLi4u"}},
                {"type": "text", "text": "or"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORy4uLg=="}}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]},
            {"role": "tool", "content": "3", "name": "f", "tool_call_id": "c1"}],
        "tools": tools,
        "n": 2, "temperature": 0.0, "top_p": 0.5, "max_tokens": 9, "stop": ["END"], "seed": 5, "presence_penalty": 0.5,
        "frequency_penalty": -0.5, "top_k": -1, "min_p": 0.25, "typical_p": 0.75, "repetition_penalty": 1.5,
        "no_repeat_ngram_size": 3, "min_tokens": 1, "stop_token_ids": [7], "bad_words": ["no"],
        "allowed_token_ids": [1, 2], "ignore_eos": true, "logprobs": true, "top_logprobs": 1, "stream": false,
    });
    assert_eq!(seen.body, expected);
    assert_eq!(seen.headers["authorization"], "Bearer firebrick");
    // What is left open is not sent.
    let plain = Server::new();
    one(settings(&plain), &chat("row", "hi")).unwrap();
    let messages = json!([{"role": "user", "content": "hi"}]);
    assert_eq!(plain.seen()[0].body, json!({"model": "base", "messages": messages, "stream": false}));
}

#[test]
fn streamed_answers_are_the_whole_ones() {
    let server = Server::new();
    let request = Request { n: 3, logprobs: Some(1), ..chat("row", "stressed") };
    let whole = one(settings(&server), &request).unwrap();
    let streamed = one(HttpSettings { stream: true, ..settings(&server) }, &request).unwrap();
    assert_eq!(streamed, whole);
    assert_eq!(whole.choices[2].text, "desserts");
    let token = &whole.choices[0].tokens[1];
    assert_eq!((token.text.as_str(), token.logprob, token.bytes.as_deref()), ("erts", Some(-0.25), Some(&b"erts"[..])));
    assert_eq!(token.top, [TopToken { text: "erts".into(), bytes: None, logprob: -0.25 }]);
    let seen = server.seen();
    assert_eq!(seen[1].body["stream_options"], json!({"include_usage": true}));
}

#[test]
fn completions_bring_the_prompt_s_likelihood() {
    let server = Server::new();
    for stream in [false, true] {
        let settings = HttpSettings { stream, ..settings(&server) };
        let request = Request { logprobs: Some(1), echo: true, ..Request::new("row", Prompt::Text("abc".into())) };
        let answer = one(settings.clone(), &request).unwrap();
        let values = |tokens: &[Token]| tokens.iter().map(|token| token.logprob).collect::<Vec<_>>();
        assert_eq!(values(&answer.prompt), [None, Some(-1.0), Some(-2.0)]);
        assert_eq!(values(&answer.choices[0].tokens), [Some(-3.0), Some(-4.0)]);
        assert_eq!((answer.choices[0].text.as_str(), answer.choices[0].finish), ("def", Finish::Length));
        let plain = Request { prompt: Prompt::Tokens(vec![1, 2, 3]), logprobs: None, ..request };
        let answer = one(settings, &plain).unwrap();
        assert_eq!(values(&answer.prompt), [None; 3]);
        assert_eq!(answer.choices[0].tokens, []);
    }
    assert_eq!(server.seen()[1].body["prompt"], json!([1, 2, 3]));
}

#[test]
fn scores_are_read() {
    let server = Server::new();
    let engine = HttpEngine::new(settings(&server)).unwrap();
    let conversation = Conversation::new(vec![Message::text(Role::User, "q"), Message::text(Role::Assistant, "a")]);
    let prompts = [Prompt::Chat { conversation, images: Vec::new() }, Prompt::Text("t".into())];
    let requests = prompts.map(|prompt| ScoreRequest { id: "row".into(), model: Some("r".into()), prompt });
    let mut scores = Vec::new();
    engine.score(&requests, &mut |_, score| {
        scores.push(score.unwrap());
        ControlFlow::Continue(())
    });
    assert_eq!(scores, [1.25, 1.25]);
    let bodies: Vec<_> = server.seen().into_iter().map(|seen| seen.body).collect();
    assert!(bodies.contains(&json!({"model": "r", "input": "t"})), "{bodies:?}");
    let mut classes = Vec::new();
    engine.classify(&requests, &mut |_, probabilities| {
        classes.push(probabilities.unwrap());
        ControlFlow::Continue(())
    });
    assert_eq!(classes, [[0.25, 0.75], [0.25, 0.75]]);
    let asked: Vec<_> = server.seen().into_iter().filter(|seen| seen.path == "/classify").collect();
    let messages = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
    assert!(asked.iter().any(|seen| seen.body == json!({"model": "r", "messages": messages})), "{asked:?}");
    assert_eq!(engine.models().unwrap()[1], ModelInfo { id: "a".into(), parent: Some("base".into()) });
}

#[test]
fn what_may_pass_is_tried_again() {
    let status = |status| Fault::Status(status, Vec::new(), "{}".to_owned());
    let short = HttpSettings {
        answer_timeout: Duration::from_millis(300),
        read_timeout: Duration::from_millis(300),
        ..HttpSettings::new("")
    };
    for stream in [false, true] {
        for fault in [
            status(500),
            status(503),
            status(408),
            status(429),
            Fault::Reset,
            Fault::Cut(30),
            Fault::Cut(0),
            Fault::CutWithoutLength(30),
            Fault::Stall(20),
            Fault::Silent,
        ] {
            let server = Server::failing([fault.clone(), fault.clone()]);
            let patience = HttpSettings {
                base_url: server.url.clone(),
                retries: settings(&server).retries,
                stream,
                ..short.clone()
            };
            let answer = one(patience.clone(), &chat("row", "hi")).unwrap_or_else(|error| panic!("{fault:?}: {error}"));
            assert_eq!(answer.choices[0].text, "ih");
            assert_eq!(server.seen().len(), 3, "{fault:?}");
            // A third failure is the last.
            server.state().faults = vec![fault.clone(); 3];
            let error = one(patience, &chat("row 7", "hi")).unwrap_err();
            assert!(matches!(error, EngineError::GaveUp { attempts: 3, .. }), "{fault:?}: {error}");
            assert!(error.to_string().starts_with("row 7: http://127.0.0.1:"), "{error}");
            assert_eq!(server.seen().len(), 6, "{fault:?}");
        }
    }
}

#[test]
fn what_will_not_pass_is_final_and_says_why() {
    let status = |code, body: &str| Fault::Status(code, Vec::new(), body.to_owned());
    let long = format!("{{\"choices\": \"{}\u{1b}[31m", "x".repeat(300));
    let no_choice = json!({"choices": [], "model": "m"}).to_string();
    for (fault, expected) in [
        (
            status(400, r#"{"error": {"message": "`temprature` is unknown"}}"#),
            "/chat/completions answers 400: `temprature` is unknown",
        ),
        (status(404, "no such model"), "answers 404: no such model"),
        (status(401, "{}"), "answers 401: {}"),
        (status(302, ""), "answers 302: "),
        (
            Fault::Body("text/html", "<html>Welcome</html>".into()),
            "the answer's type is \"text/html\", not application/json; the answer begins: <html>Welcome</html>",
        ),
        (
            Fault::Body("application/json", "{\"choices\": nonsense".into()),
            "the answer is not the expected JSON (expected ident at line 1 column 14); the answer begins: {\"choices\": nonsense",
        ),
        (Fault::Body("application/json", long), "xxx…"),
        (
            Fault::Body("application/json", no_choice),
            "0 choices came where 1 were asked for; the answer begins: {\"choices\":[]",
        ),
        (Fault::Endless, "the answer is longer than 10000 bytes; ask for less, or raise the limit"),
    ] {
        let server = Server::failing([fault]);
        let settings = HttpSettings { largest_answer: 10_000, ..settings(&server) };
        let error = one(settings, &chat("data.jsonl:41", "hi")).unwrap_err().to_string();
        assert!(error.starts_with("data.jsonl:41: http://127.0.0.1:"), "{error}");
        assert!(error.contains(expected) && !error.contains('\u{1b}'), "{error}\nshould contain\n{expected}");
        assert!(error.len() < 450, "{error}");
        assert_eq!(server.seen().len(), 1, "{error}");
    }
}

#[test]
fn wrong_streams_say_what_is_wrong() {
    for (body, expected) in [
        (
            "data: {\"error\": {\"message\": \"too long\", \"type\": \"invalid_request_error\"}}\n\n",
            "the server reports an error in the stream: too long",
        ),
        ("data: {oops\n\n", "a piece of the stream is no JSON"),
        (
            "data: {\"choices\": [{\"index\": 4, \"delta\": {}}]}\n\n",
            "a piece belongs to choice 4, but 1 were asked for",
        ),
        ("data: [DONE]\n\n", "the stream ended before choice 0 had a finish_reason"),
    ] {
        let server = Server::failing([Fault::Body("text/event-stream", body.to_owned())]);
        let error =
            one(HttpSettings { stream: true, ..settings(&server) }, &chat("row", "hi")).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\nshould contain\n{expected}");
    }
    let server = Server::failing([Fault::Body("application/json", "{}".to_owned())]);
    let error = one(HttpSettings { stream: true, ..settings(&server) }, &chat("row", "hi")).unwrap_err().to_string();
    assert!(error.contains("not text/event-stream"), "{error}");
}

#[test]
fn errors_in_a_stream_may_pass_and_nothing_after_its_end_counts() {
    let broken = Fault::Body("text/event-stream", "data: {\"error\": {\"message\": \"out of memory\"}}\n\n".to_owned());
    let server = Server::failing([broken]);
    let settings_of = |server: &Server| HttpSettings { stream: true, ..settings(server) };
    assert_eq!(one(settings_of(&server), &chat("row", "hi")).unwrap().choices[0].text, "ih");
    assert_eq!(server.seen().len(), 2);
    let piece = json!({"model": "m", "choices": [{"index": 0, "delta": {"content": "hey"}, "finish_reason": "stop"}]});
    let piece = crate::openai::event(&piece.to_string());
    let ended = Fault::Body("text/event-stream", format!("{piece}data: [DONE]\n\ndata: {{oops\n\n"));
    let server = Server::failing([ended]);
    assert_eq!(one(settings_of(&server), &chat("row", "hi")).unwrap().choices[0].text, "hey");
}

#[test]
fn the_server_s_wish_is_waited_for() {
    let wish = vec![("Retry-After", "0.2".to_owned())];
    let server = Server::failing([Fault::Status(429, wish, "{}".to_owned())]);
    one(settings(&server), &chat("row", "hi")).unwrap();
    let seen = server.seen();
    let waited = seen[1].at - seen[0].at;
    assert!(waited >= Duration::from_millis(200), "{waited:?}");
}

#[test]
fn one_failure_stops_no_other_request_and_a_break_stops_all() {
    let bad = Fault::Status(400, Vec::new(), "{}".to_owned());
    let server = Server::failing([bad]);
    let requests: Vec<Request> = (0..6).map(|i| chat(&format!("row {i}"), "hi")).collect();
    let results = all(settings(&server), &requests);
    assert_eq!(results.iter().filter(|result| result.is_err()).count(), 1);
    // Two threads hang; the caller is free all the same.
    let server = Server::failing(vec![Fault::Silent; 2]);
    let engine = HttpEngine::new(HttpSettings { concurrency: 3, ..settings(&server) }).unwrap();
    let begun = Instant::now();
    let mut calls = 0;
    engine.generate(&requests, &mut |_, _| {
        calls += 1;
        ControlFlow::Break(())
    });
    assert_eq!(calls, 1);
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn nobody_there_is_said() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let retries = Retries { attempts: 1, ..Retries::default() };
    let settings = HttpSettings { retries, certificates: None, ..HttpSettings::new(url) };
    let error = one(settings, &Request { model: Some("m".into()), ..chat("row", "hi") }).unwrap_err();
    assert!(matches!(error, EngineError::Network { .. }), "{error}");
    assert!(error.to_string().to_lowercase().contains("refused"), "{error}");
}

#[test]
fn without_a_list_of_models_every_request_fails_at_once() {
    let server = Server::failing(Vec::new());
    server.state().no_models = true;
    let requests: Vec<Request> = (0..20).map(|i| chat(&format!("row {i}"), "hi")).collect();
    for (i, result) in all(settings(&server), &requests).into_iter().enumerate() {
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with(&format!("row {i}: the list of models: http://")), "{error}");
        assert!(error.ends_with("answers 500: no models today (gave up after 3 attempts)"), "{error}");
    }
    assert_eq!(server.state().log.len(), 3);
}

#[test]
fn settings_and_requests_that_cannot_be_used_are_refused() {
    for url in ["127.0.0.1:8000", "ftp://host/v1", "http://user:secret@host/v1", "http:///v1", "http://host/v1?x=1"] {
        let error = HttpEngine::new(HttpSettings::new(url)).unwrap_err().to_string();
        assert!(error.starts_with("base_url: ") && error.contains("give an address such as"), "{error}");
    }
    let base = HttpSettings::new("http://127.0.0.1:1/v1");
    let keyless = HttpSettings { api_key_variable: Some("FIREBRICK_NO_SUCH_KEY".into()), ..base.clone() };
    let error = HttpEngine::new(keyless).unwrap_err().to_string();
    assert!(error.contains("FIREBRICK_NO_SUCH_KEY") && error.contains("is not set"), "{error}");
    assert!(HttpEngine::new(HttpSettings { concurrency: 0, ..base }).is_err());
    let server = Server::new();
    let missing = ImageSource::File("no/such.png".into());
    let prompt = |images: Vec<ImageSource>| Prompt::Chat {
        conversation: Conversation::new(vec![Message::new(Role::User, vec![Part::Image])]),
        images,
    };
    for (request, expected) in [
        (Request::new("row", prompt(vec![missing])), "row, image no/such.png: "),
        (Request::new("row", prompt(Vec::new())), "row: the messages have 1 places for images, but 0 are given"),
        (
            Request::new("row", prompt(vec![ImageSource::Bytes(b"hello".as_slice().into())])),
            "row: the image is not a PNG, JPEG, WebP, BMP or GIF file by its first bytes",
        ),
        (Request { echo: true, ..chat("row", "hi") }, "row: a conversation's prompt has no echo over HTTP"),
    ] {
        let error = one(settings(&server), &request).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    assert_eq!(server.seen().len(), 0);
}
