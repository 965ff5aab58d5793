use serde_json::{Value, json};

use super::*;

fn chat(extra: Value) -> Result<ChatRequest, RequestError> {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    for (key, value) in extra.as_object().unwrap() {
        body[key] = value.clone();
    }
    ChatRequest::read(body)
}

fn completion(extra: Value) -> Result<CompletionRequest, RequestError> {
    let mut body = json!({"model": "m", "prompt": "hi"});
    for (key, value) in extra.as_object().unwrap() {
        body[key] = value.clone();
    }
    CompletionRequest::read(body)
}

#[test]
fn every_field_of_a_chat_is_read() {
    let request = chat(json!({
        "n": 2, "temperature": 0.5, "top_p": 0.9, "max_completion_tokens": 7, "stop": "END", "seed": -1, "stream": true,
        "stream_options": {"include_usage": true}, "logprobs": true, "top_logprobs": 3, "presence_penalty": 1,
        "frequency_penalty": -2, "top_k": 5, "min_p": 0.1, "typical_p": 0.8, "repetition_penalty": 1.1,
        "no_repeat_ngram_size": 3, "min_tokens": 1.0, "stop_token_ids": [2], "bad_words": ["x"],
        "allowed_token_ids": [1, 2], "ignore_eos": true, "tools": [{"type": "function", "function": {"name": "f"}}],
        "tool_choice": "auto",
    }))
    .unwrap();
    let sampling = SamplingFields {
        n: Some(2),
        temperature: Some(0.5),
        top_p: Some(0.9),
        max_tokens: Some(7),
        stop: vec!["END".into()],
        seed: Some(-1),
        presence_penalty: Some(1.0),
        frequency_penalty: Some(-2.0),
        top_k: Some(5),
        min_p: Some(0.1),
        typical_p: Some(0.8),
        repetition_penalty: Some(1.1),
        no_repeat_ngram_size: Some(3),
        min_tokens: Some(1),
        stop_token_ids: vec![2],
        bad_words: vec!["x".into()],
        allowed_token_ids: vec![1, 2],
        ignore_eos: Some(true),
    };
    assert_eq!(request.sampling, sampling);
    assert_eq!((request.logprobs, request.top_logprobs, request.stream), (Some(true), Some(3), true));
    assert_eq!(request.stream_options, Some(StreamOptions { include_usage: true }));
    assert_eq!(request.tools.len(), 1);
    assert!(chat(json!({"tools": request.tools, "tool_choice": "none"})).unwrap().tools.is_empty());
}

#[test]
fn what_is_written_is_read_again() {
    let extra = json!({"n": 2, "stop": ["a", "b"], "seed": 3, "logprobs": true, "top_logprobs": 1, "temperature": 0});
    let request = chat(extra).unwrap();
    assert_eq!(ChatRequest::read(serde_json::to_value(&request).unwrap()), Ok(request));
    let request = completion(json!({"prompt": [[1, 2], [3]], "echo": true, "logprobs": 0, "max_tokens": 0})).unwrap();
    assert_eq!(request.prompt, Input::TokenLists(vec![vec![1, 2], vec![3]]));
    assert_eq!(CompletionRequest::read(serde_json::to_value(&request).unwrap()), Ok(request));
    for body in [
        json!({"model": "r", "messages": [[{"role": "user", "content": "a"}], [{"role": "user", "content": "b"}]]}),
        json!({"model": "r", "input": ["a", "b"]}),
    ] {
        let request = ScoreRequest::read(body).unwrap();
        assert_eq!(ScoreRequest::read(serde_json::to_value(&request).unwrap()), Ok(request));
    }
}

#[test]
fn parts_tools_and_what_clients_leave_in_messages_are_read() {
    let messages = json!([
        {"role": "system", "content": "be brief", "name": "boss"},
        {"role": "user", "type": "text", "content": [
            {"type": "text", "text": "what is this?"},
            {"type": "image_url", "image_url": {"url": "data:,x", "detail": "auto"}},
            {"type": "image_url", "image_url": "data:,y"},
        ]},
        {"role": "assistant", "content": null, "refusal": null, "annotations": [], "function_call": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ]);
    let request = chat(json!({"messages": messages})).unwrap();
    let image = |url: &str| ContentPart::ImageUrl { image_url: ImageUrl { url: url.into() } };
    let text = ContentPart::Text { text: "what is this?".into() };
    assert_eq!(request.messages[1].content, Some(Content::Parts(vec![text, image("data:,x"), image("data:,y")])));
    assert_eq!(request.messages[2].tool_calls[0].function.arguments, "{\"a\":1}");
    assert_eq!(request.messages[3].tool_call_id.as_deref(), Some("c1"));
}

#[test]
fn harmless_and_neutral_fields_pass() {
    let mut extra: serde_json::Map<String, Value> =
        HARMLESS.iter().map(|name| ((*name).to_owned(), json!("whatever"))).collect();
    extra.extend(NEUTRAL.iter().map(|(name, value)| ((*name).to_owned(), serde_json::from_str(value).unwrap())));
    extra.insert("echo".into(), json!(false));
    extra.insert("anything".into(), Value::Null);
    chat(extra.into()).unwrap();
    assert!(completion(json!({"best_of": 1.0, "suffix": null, "user": "u", "logit_bias": {}})).is_ok());
}

#[test]
fn what_cannot_be_obeyed_is_refused_by_its_name() {
    for (extra, expected) in [
        (json!({"temprature": 1}), "`temprature` is unknown (did you mean `temperature`?); leave it out"),
        (json!({"guided_json": {}}), "`guided_json` is unknown; leave it out"),
        (json!({"logit_bias": {"1": 2}}), "`logit_bias`: an object is not supported; leave it out or give {}"),
        (json!({"best_of": 2}), "`best_of`: 2 is not supported; leave it out or give 1"),
        (json!({"audio": {"voice": "x"}}), "`audio`: an object is not supported; leave it out"),
        (
            json!({"response_format": {"type": "json_object"}}),
            "`response_format`: an object is not supported; leave it out or give {\"type\":\"text\"}",
        ),
        (json!({"temperature": "hot"}), "`temperature` takes a number from 0 to 100, not \"hot\""),
        (json!({"temperature": -1}), "`temperature` takes a number from 0 to 100, not -1"),
        (json!({"top_p": 0}), "`top_p` takes a number above 0, up to 1, not 0"),
        (json!({"n": 0}), "`n` takes a whole number from 1 to 4294967295, not 0"),
        (json!({"n": 1.5}), "`n` takes a whole number from 1 to 4294967295, not 1.5"),
        (json!({"stop": ["a", 1]}), "`stop[1]` takes a string, not 1"),
        (json!({"stop": ""}), "`stop[0]` takes a text of at least one character, not \"\""),
        (json!({"stop": {}}), "`stop` takes a string or a list of strings, not an object"),
        (
            json!({"max_tokens": 1, "max_completion_tokens": 2}),
            "`max_tokens` takes the same as `max_completion_tokens`, 2, or nothing, not 1",
        ),
        (json!({"top_logprobs": 2}), "`top_logprobs` takes nothing where `logprobs` is not true, not 2"),
        (json!({"logprobs": true, "top_logprobs": 21}), "`top_logprobs` takes a whole number from 0 to 20, not 21"),
        (
            json!({"tool_choice": "required"}),
            "`tool_choice`: \"required\" is not supported; the model itself chooses: give \"auto\" or \"none\"",
        ),
        (
            json!({"tools": [{"type": "function"}]}),
            "`tools[0]` takes {\"type\": \"function\", \"function\": {\"name\", …}}, not an object",
        ),
        (json!({"echo": true}), "`echo`: true is not supported; the prompt is echoed by /v1/completions only"),
        (json!({"messages": []}), "`messages` takes a list of at least one message, not a list of 0"),
        (json!({"messages": "hi"}), "`messages` takes a list of at least one message, not \"hi\""),
        (json!({"messages": [{"content": "x"}]}), "`messages[0].role` is missing; it takes a role"),
        (
            json!({"messages": [{"role": "user"}]}),
            "`messages[0].content` is missing; it takes a string or a list of parts",
        ),
        (
            json!({"messages": [{"role": "user", "content": "x", "contnt": "y"}]}),
            "`messages[0].contnt` is unknown (did you mean `content`?); leave it out",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}),
            "`messages[0].content[0].type` takes \"text\" or \"image_url\", not \"input_audio\"",
        ),
        (
            json!({"messages": [{"role": "user", "content": [
                {"type": "image_url", "image_url": {"url": "u", "detail": "low"}}]}]}),
            "`messages[0].content[0].image_url.detail`: \"low\" is not supported; leave it out: the model has one \
             resolution",
        ),
    ] {
        let error = chat(extra.clone()).unwrap_err();
        assert_eq!(error.to_string(), expected, "{extra}");
    }
    for (extra, expected) in [
        (json!({"suffix": "x"}), "`suffix`: \"x\" is not supported; leave it out or give \"\""),
        (json!({"prompt": [1, "a"]}), "`prompt[1]` takes a token id, not \"a\""),
        (json!({"prompt": ["a", 1]}), "`prompt[1]` takes a string, as the first, not 1"),
        (json!({"prompt": [[1], 1]}), "`prompt[1]` takes a list, as the first, not 1"),
        (json!({"prompt": [-1]}), "`prompt[0]` takes a token id, not -1"),
        (json!({"logprobs": true}), "`logprobs` takes a whole number from 0 to 20, not true"),
    ] {
        assert_eq!(completion(extra.clone()).unwrap_err().to_string(), expected, "{extra}");
    }
    assert!(matches!(ChatRequest::read(json!([1])), Err(RequestError::Json { .. })));
    let dimensions = EmbeddingRequest::read(json!({"input": "a", "dimensions": 0})).unwrap_err();
    assert_eq!(dimensions.field(), Some("dimensions"));
    assert!(ScoreRequest::read(json!({"text_1": "a", "text_2": "b"})).is_err());
}

#[test]
fn errors_of_all_servers_are_read() {
    for (body, expected) in [
        (r#"{"error":{"message":"a","type":"t","param":null,"code":400}}"#, Some("a")),
        (r#"{"object":"error","message":"b"}"#, Some("b")),
        (r#"{"detail":"c"}"#, Some("c")),
        (r#"{"detail":[{"msg":"d"}]}"#, Some(r#"[{"msg":"d"}]"#)),
        (r#"{"error":"e"}"#, Some("e")),
        ("<html>", None),
        ("{}", None),
    ] {
        assert_eq!(error_message(body).as_deref(), expected, "{body}");
    }
}

#[test]
fn events_are_cut_wherever_the_bytes_break() {
    let stream = ": hello\r\n\r\nevent: x\ndata: {\"a\":\"ü\"}\n\ndata:one\r\ndata: two\r\n\r\nid: 1\n\ndata: [DONE]\n\ndata: cut";
    for size in 1..stream.len() {
        let mut reader = EventReader::new(64);
        let mut found = Vec::new();
        for piece in stream.as_bytes().chunks(size) {
            reader.push(piece, |event| found.push(event)).unwrap();
        }
        assert_eq!(found, ["{\"a\":\"ü\"}", "one\ntwo", DONE], "{size}");
    }
    assert_eq!(event("{}"), "data: {}\n\n");
    assert_eq!(EventReader::new(8).push(b"data: 12345", |_| {}), Err(SseError::TooLong { limit: 8 }));
    assert_eq!(EventReader::new(99).push(b"data: \xff\n\n", |_| {}), Err(SseError::Utf8));
}

#[test]
fn log_probabilities_travel_as_numbers() {
    assert_eq!(finite(f32::NEG_INFINITY), -9999.0);
    assert_eq!(finite(f32::NAN), -9999.0);
    // Rounding may leave a probability a little above one.
    assert_eq!(finite(1e-7), 0.0);
    assert_eq!(finite(-1.5), -1.5);
}
