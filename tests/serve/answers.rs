//! What a client gets that behaves.

use super::*;
use base64::Engine as _;

#[test]
fn models_are_listed() {
    let server = Running::new();
    let list = server.get("/v1/models").json();
    assert_eq!((&list["object"], &list["data"][0]["id"]), (&json!("list"), &json!("echo")));
    assert_eq!(list["data"][1]["parent"], "echo");
    assert_eq!(server.get("/v1/models/team/adapter").json()["id"], "team/adapter");
    assert_eq!(server.get("/v1/models/team%2Fadapter").json()["id"], "team/adapter");
    let missing = server.get("/v1/models/other");
    assert_eq!((missing.status, missing.json()["error"]["code"].clone()), (404, json!("model_not_found")));
    assert_eq!(server.get("/health").json(), json!({"status": "ok"}));
}

#[test]
fn chats_are_answered() {
    let server = Running::new();
    let answer = server.post("/v1/chat/completions", &chat("hello there"));
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let body = answer.json();
    assert_eq!(body["object"], "chat.completion");
    assert!(body["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!(
        body["choices"],
        json!([{"index": 0, "message": {"role": "assistant", "content": "You said: hello there", "refusal": null},
            "logprobs": null, "finish_reason": "stop"}])
    );
    let details = json!({"cached_tokens": 0});
    let usage =
        json!({"prompt_tokens": 18, "completion_tokens": 4, "total_tokens": 22, "prompt_tokens_details": details});
    assert_eq!(body["usage"], usage);
    // Several answers; one that is cut; an adapter; no model at all.
    let body = server.post("/v1/chat/completions", &with(with(chat("x"), "n", 3), "model", "team/adapter")).json();
    let contents: Vec<&str> =
        body["choices"].as_array().unwrap().iter().map(|c| c["message"]["content"].as_str().unwrap()).collect();
    assert_eq!(contents, ["You said: x", "You said: x (1)", "You said: x (2)"]);
    assert_eq!(body["model"], "team/adapter");
    let body = server.post("/v1/chat/completions", &with(with(chat("a b c"), "max_tokens", 3), "model", "")).json();
    assert_eq!((&body["choices"][0]["finish_reason"], &body["model"]), (&json!("length"), &json!("echo")));
}

#[test]
fn log_probabilities_come_with_bytes_and_alternatives() {
    let server = Running::new();
    let asked = with(with(with(chat("ü"), "logprobs", true), "top_logprobs", 3), "max_tokens", 11);
    let body = server.post("/v1/chat/completions", &asked).json();
    let content = &body["choices"][0]["logprobs"]["content"];
    assert_eq!(content.as_array().unwrap().len(), 11);
    let last = &content[10];
    assert_eq!((&last["token"], &last["bytes"], &last["logprob"]), (&json!("ü"), &json!([195, 188]), &json!(-0.3)));
    // Minus infinity is no number in JSON.
    assert_eq!(last["top_logprobs"][2]["logprob"], -9999.0);
    let body = server.post("/v1/chat/completions", &with(chat("ü"), "logprobs", true)).json();
    assert_eq!(body["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));
}

#[test]
fn tool_calls_are_passed_on() {
    let server = Running::new();
    let tools = json!([{"type": "function", "function": {"name": "look", "parameters": {}}}]);
    let asked = with(chat("say call"), "tools", tools);
    let body = server.post("/v1/chat/completions", &asked).json();
    let choice = &body["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let call = json!([{"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{\"x\":1}"}}]);
    assert_eq!(choice["message"]["tool_calls"], call);
    let mut open = Open::post(server.address, "/v1/chat/completions", &with(asked, "stream", true));
    let events: Vec<String> = std::iter::from_fn(|| open.event()).take_while(|event| event != "[DONE]").collect();
    assert!(events.iter().any(|event| event.contains("\"arguments\":\"{\\\"x\\\":1}\"")), "{events:?}");
}

#[test]
fn streams_come_in_order_as_they_are_written() {
    let server = Running::with(ServeSettings::default(), Echo::slow(Duration::from_millis(30)));
    let asked = with(with(chat("one two three"), "stream", true), "stream_options", json!({"include_usage": true}));
    let begun = Instant::now();
    let mut open = Open::post(server.address, "/v1/chat/completions", &asked);
    let (status, headers) = open.head().unwrap();
    assert_eq!(status, 200);
    assert!(headers.contains(&("content-type".into(), "text/event-stream".into())), "{headers:?}");
    let mut events = Vec::new();
    while let Some(event) = open.event() {
        events.push((begun.elapsed(), event));
        if events.last().is_some_and(|(_, event)| event == "[DONE]") {
            break;
        }
    }
    let parsed: Vec<Value> = events.iter().filter_map(|(_, event)| serde_json::from_str(event).ok()).collect();
    let deltas: Vec<&Value> = parsed.iter().map(|chunk| &chunk["choices"][0]["delta"]).collect();
    assert_eq!(deltas[0], &json!({"role": "assistant", "content": ""}));
    let words: Vec<&str> = deltas.iter().filter_map(|delta| delta["content"].as_str()).collect();
    assert_eq!(words, ["", "You ", "said: ", "one ", "two ", "three"]);
    assert_eq!(parsed[6]["choices"][0]["finish_reason"], "stop");
    assert_eq!(parsed[7]["choices"], json!([]));
    assert_eq!(parsed[7]["usage"]["completion_tokens"], 5);
    assert!(parsed.iter().all(|chunk| chunk["id"] == parsed[0]["id"] && chunk["object"] == "chat.completion.chunk"));
    // The first word came long before the last.
    assert!(events[6].0 - events[1].0 >= Duration::from_millis(60), "{events:?}");
}

#[test]
fn completions_have_what_an_evaluation_needs() {
    let server = Running::new();
    let body = json!({"prompt": [[97, 98, 97], [99]], "max_tokens": 1, "logprobs": 1, "echo": true, "temperature": 0});
    let answer = server.post("/v1/completions", &body).json();
    let first = &answer["choices"][0];
    assert_eq!((&first["text"], &first["finish_reason"]), (&json!("aba "), &json!("length")));
    let lists = &first["logprobs"];
    assert_eq!(lists["tokens"], json!(["a", "b", "a", " "]));
    assert_eq!(lists["token_logprobs"], json!([null, -2.7, -0.3, -2.7]));
    assert_eq!(lists["text_offset"], json!([0, 1, 2, 3]));
    assert_eq!(lists["top_logprobs"], json!([null, {"~": -0.1, "b": -2.7}, {"a": -0.3}, {"~": -0.1, " ": -2.7}]));
    assert_eq!((&answer["choices"][1]["index"], &answer["choices"][1]["text"]), (&json!(1), &json!("c ")));
    assert_eq!(answer["usage"]["prompt_tokens"], 4);
    // An answer that ends at once still has its one token: clients cut off the last.
    let ended = server.post("/v1/completions", &with(body.clone(), "prompt", "no.")).json();
    assert_eq!(ended["choices"][0]["logprobs"]["tokens"].as_array().unwrap().len(), 4);
    assert_eq!((&ended["choices"][0]["text"], &ended["choices"][0]["finish_reason"]), (&json!("no."), &json!("stop")));
    // Several prompts, several answers each, in this order.
    let body = json!({"prompt": ["x", "y"], "n": 2, "echo": true, "max_tokens": 4, "stop": ["d"]});
    let answer = server.post("/v1/completions", &body).json();
    let texts: Vec<&str> = answer["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["x an", "x an", "y an", "y an"]);
    assert_eq!(answer["choices"][3]["finish_reason"], "stop");
    // Without a number, sixteen tokens, as at OpenAI's.
    let answer = server.post("/v1/completions", &json!({"prompt": "x"})).json();
    assert_eq!(answer["usage"]["completion_tokens"], 16);
    let none = server.post("/v1/completions", &json!({"prompt": "x", "max_tokens": 0, "echo": true})).json();
    assert_eq!(none["choices"][0]["text"], "x");
}

#[test]
fn streamed_completions_are_the_whole_ones() {
    let server = Running::new();
    let body = json!({"prompt": ["ab", "cd"], "n": 2, "echo": true, "logprobs": 2, "max_tokens": 5});
    let whole = server.post("/v1/completions", &body).json();
    let mut open = Open::post(server.address, "/v1/completions", &with(body, "stream", true));
    let mut gathered = vec![(String::new(), Vec::new(), Vec::new(), Value::Null); 4];
    while let Some(event) = open.event().filter(|event| event != "[DONE]") {
        let chunk: Value = serde_json::from_str(&event).unwrap();
        let choice = &chunk["choices"][0];
        let all = &mut gathered[choice["index"].as_u64().unwrap() as usize];
        all.0.push_str(choice["text"].as_str().unwrap());
        if let Some(lists) = choice["logprobs"].as_object() {
            all.1.extend(lists["token_logprobs"].as_array().unwrap().clone());
            all.2.extend(lists["text_offset"].as_array().unwrap().clone());
        }
        if !choice["finish_reason"].is_null() {
            all.3 = choice["finish_reason"].clone();
        }
    }
    for (index, (text, logprobs, offsets, finish)) in gathered.into_iter().enumerate() {
        let choice = &whole["choices"][index];
        assert_eq!(json!(text), choice["text"]);
        assert_eq!(json!(logprobs), choice["logprobs"]["token_logprobs"]);
        assert_eq!(json!(offsets), choice["logprobs"]["text_offset"]);
        assert_eq!(finish, choice["finish_reason"]);
    }
}

/// What a model writes in a format of its own is read where the request has tools, and only there.
#[test]
fn calls_that_a_model_writes_are_parted_from_its_words() {
    let server = Running::new();
    let tools = json!([{"type": "function", "function": {"name": "look", "parameters": {}}}]);
    let call = r#"{"name": "look", "arguments": {"at": "the sky"}}"#;
    for (written, words) in [
        (format!("I look. <tool_call>{call}</tool_call>"), Some("I look. ")),
        (format!("<tool_call> {call} </tool_call>"), None),
        (format!("[TOOL_CALLS] [{call}]"), None),
        (call.to_owned(), None),
    ] {
        let plain = chat(&format!("write: {written}"));
        let answer = server.post("/v1/chat/completions", &plain).json();
        assert_eq!(answer["choices"][0]["message"]["content"], written.as_str());
        assert_eq!(answer["choices"][0]["finish_reason"], "stop");

        let asked = with(plain, "tools", tools.clone());
        let answer = server.post("/v1/chat/completions", &asked).json();
        let (message, finish) = (&answer["choices"][0]["message"], &answer["choices"][0]["finish_reason"]);
        assert_eq!((message["content"].as_str(), finish.as_str()), (words, Some("tool_calls")), "{written}");
        let found = &message["tool_calls"][0];
        assert_eq!(found["function"], json!({"name": "look", "arguments": "{\"at\":\"the sky\"}"}));
        assert_eq!(found["type"], "function");
        assert!(found["id"].as_str().is_some_and(|id| id.len() == 9), "{found}");

        let mut open = Open::post(server.address, "/v1/chat/completions", &with(asked, "stream", true));
        let (mut text, mut calls, mut finish) = (String::new(), Vec::new(), Value::Null);
        while let Some(event) = open.event().filter(|event| event != "[DONE]") {
            let chunk: Value = serde_json::from_str(&event).unwrap();
            let choice = &chunk["choices"][0];
            text.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
            calls.extend(choice["delta"]["tool_calls"].as_array().cloned().unwrap_or_default());
            if !choice["finish_reason"].is_null() {
                finish = choice["finish_reason"].clone();
            }
        }
        assert_eq!((text.as_str(), &finish), (words.unwrap_or_default(), &json!("tool_calls")), "{written}");
        assert_eq!((calls.len(), &calls[0]["function"], &calls[0]["index"]), (1, &found["function"], &json!(0)));
    }
    server.is_well();
}

#[test]
fn embeddings_come_as_numbers_or_packed() {
    let server = Running::new();
    let answer = server.post("/v1/embeddings", &json!({"model": "echo", "input": ["abcd", "a"]})).json();
    assert_eq!(answer["data"][1], json!({"object": "embedding", "index": 1, "embedding": [0.0, 0.1, 0.0, 0.0]}));
    assert_eq!(answer["usage"], json!({"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}));
    let packed = json!({"input": "a", "encoding_format": "base64"});
    let answer = server.post("/v1/embeddings", &packed).json();
    let bytes =
        base64::engine::general_purpose::STANDARD.decode(answer["data"][0]["embedding"].as_str().unwrap()).unwrap();
    assert_eq!(bytes, [0.0f32, 0.1, 0.0, 0.0].map(f32::to_le_bytes).concat());
    let refused = server.post("/v1/embeddings", &json!({"input": ["a", ""]}));
    assert_eq!((refused.status, refused.error().as_str()), (400, "nothing to embed"));
}

#[test]
fn scores_are_given_to_conversations_and_texts() {
    let server = Running::new();
    for path in ["/score", "/v1/score"] {
        let answer = server.post(path, &json!({"input": ["four", "eight888"]})).json();
        let item = |index: usize, score: f64| json!({"index": index, "object": "score", "score": score});
        assert_eq!(answer["data"], json!([item(0, 1.0), item(1, 2.0)]));
    }
    let turns = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
    let one = server.post("/score", &json!({"messages": turns})).json();
    let two = server.post("/score", &json!({"messages": [turns, turns]})).json();
    assert_eq!((&one["data"][0], two["data"].as_array().unwrap().len()), (&two["data"][0], 2));
    let silent = server.post("/score", &json!({"input": "say nothing"}));
    assert_eq!((silent.status, silent.error().as_str()), (500, "the model stopped before it had a result"));
    server.is_well();
}

#[test]
fn everything_is_counted() {
    let server = Running::new();
    server.post("/v1/chat/completions", &chat("hello there"));
    server.post("/v1/chat/completions", &json!({}));
    server.get("/made/up/by/the/client");
    let metrics = server.get("/metrics");
    assert_eq!(metrics.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    for line in [
        "firebrick_http_requests_total{route=\"/v1/chat/completions\",status=\"200\"} 1",
        "firebrick_http_requests_total{route=\"/v1/chat/completions\",status=\"400\"} 1",
        "firebrick_http_requests_total{route=\"other\",status=\"404\"} 1",
        "# TYPE firebrick_queue_length gauge",
        "firebrick_prompt_tokens_total 18",
        "firebrick_generated_tokens_total 4",
        "firebrick_request_duration_seconds_bucket{route=\"/v1/chat/completions\",le=\"+Inf\"} 2",
        "firebrick_time_to_first_token_seconds_count 1",
        "firebrick_queue_time_seconds_bucket{le=\"300\"} 1",
    ] {
        assert!(metrics.text().lines().any(|found| found == line), "no {line} in\n{}", metrics.text());
    }
}

#[test]
fn the_page_is_there_under_a_strict_policy() {
    let server = Running::new();
    let page = server.get("/");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
}

#[test]
fn requests_have_names() {
    let server = Running::new();
    let named =
        server.send(&post("/v1/chat/completions", chat("x").to_string().as_bytes(), "X-Request-Id: my-1\r\n")).unwrap();
    assert_eq!(named.header("x-request-id"), Some("my-1"));
    assert_eq!(named.json()["id"], "chatcmpl-my-1");
    for bad in ["a b", "\"quoted\"", &"x".repeat(101)] {
        let answer = server.send(&get("/health", &format!("X-Request-Id: {bad}\r\n"))).unwrap();
        assert_eq!(answer.header("x-request-id").unwrap().len(), 32);
    }
}
