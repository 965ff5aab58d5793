//! The client of this library and its server, together.

use std::ops::ControlFlow;

use super::*;
use firebrick::engine::{
    Answer, Engine, EngineError, Finish, HttpEngine, HttpSettings, ImageSource, Prompt, Request, Retries, Sampling,
    ScoreRequest,
};
use firebrick::serve::Secret;
use firebrick::text::{Conversation, Message, Part, Role};

fn engine(server: &Running, stream: bool) -> HttpEngine {
    let retries = Retries { attempts: 20, first: Duration::from_millis(5), longest: Duration::from_millis(200) };
    let settings = HttpSettings::new(format!("http://{}/v1", server.address));
    HttpEngine::new(HttpSettings { stream, retries, certificates: None, concurrency: 8, ..settings }).unwrap()
}

fn all(engine: &HttpEngine, requests: &[Request]) -> Vec<Result<Answer, EngineError>> {
    let mut results: Vec<_> = requests.iter().map(|_| None).collect();
    engine.generate(requests, &mut |index, result| {
        results[index] = Some(result);
        ControlFlow::Continue(())
    });
    results.into_iter().map(Option::unwrap).collect()
}

fn chat_prompt(words: &str) -> Prompt {
    let conversation = Conversation::new(vec![Message::text(Role::User, words)]);
    Prompt::Chat { conversation, images: Vec::new() }
}

#[test]
fn a_request_arrives_as_it_was_made() {
    let echo = Echo::default();
    let seen = Arc::clone(&echo.seen);
    let server = Running::with(ServeSettings::default(), echo);
    let mut picture = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(2, 2).write_to(&mut picture, image::ImageFormat::Png).unwrap();
    let messages = vec![
        Message::text(Role::System, "be brief"),
        Message::new(Role::User, vec![Part::Text("see ".into()), Part::Image]),
        Message::text(Role::Assistant, "seen").with_reasoning("hm"),
        Message::text(Role::User, "and?"),
    ];
    let tools = vec![json!({"type": "function", "function": {"name": "f"}})];
    let images = vec![ImageSource::Bytes(picture.into_inner().into())];
    let sampling = Sampling {
        temperature: Some(0.25),
        top_k: Some(0),
        top_p: Some(0.5),
        min_p: Some(0.125),
        typical_p: Some(0.75),
        repetition_penalty: Some(1.5),
        presence_penalty: Some(0.5),
        frequency_penalty: Some(-0.5),
        no_repeat_ngram_size: Some(3),
        min_new_tokens: Some(1),
        max_new_tokens: Some(40),
        stop: vec!["END".into()],
        stop_ids: vec![7],
        ignore_eos: true,
        bad_words: vec!["no".into()],
        allowed_tokens: vec![1, 2],
        seed: Some(u64::MAX),
    };
    let conversation = Conversation::new(messages).with_tools(tools);
    let sent = Request {
        model: Some("team/adapter".into()),
        sampling,
        n: 2,
        logprobs: Some(2),
        ..Request::new("row", Prompt::Chat { conversation, images })
    };
    let whole = all(&engine(&server, false), std::slice::from_ref(&sent)).remove(0).unwrap();
    let got = seen.lock().unwrap().remove("chat").unwrap();
    assert_eq!(Request { id: "row".into(), ..got }, sent);
    let streamed = all(&engine(&server, true), std::slice::from_ref(&sent)).remove(0).unwrap();
    assert_eq!(whole, streamed);
    assert!(whole.choices[1].text.starts_with("You said: and?"), "{:?}", whole.choices[1]);
    assert_eq!((whole.model.as_str(), whole.choices[0].tokens.len()), ("team/adapter", whole.choices[0].text.len()));
    assert_eq!(whole.choices[0].tokens[0].top.len(), 2);
}

#[test]
fn likelihoods_of_given_texts_come_back() {
    let server = Running::new();
    for stream in [false, true] {
        let sampling = Sampling { max_new_tokens: Some(3), ..Sampling::default() };
        let request =
            Request { sampling, logprobs: Some(0), echo: true, ..Request::new("row", Prompt::Text("aba".into())) };
        let answer = all(&engine(&server, stream), &[request]).remove(0).unwrap();
        let values: Vec<Option<f32>> = answer.prompt.iter().map(|token| token.logprob).collect();
        assert_eq!(values, [None, Some(-2.7), Some(-0.3)]);
        assert_eq!((answer.choices[0].text.as_str(), answer.choices[0].finish), (" an", Finish::Length));
    }
}

#[test]
fn a_full_queue_is_waited_for_and_errors_come_by_request() {
    let settings = ServeSettings { slots: 1, queue: 1, ..ServeSettings::default() };
    let server = Running::with(settings, Echo::slow(Duration::from_millis(3)));
    let mut requests: Vec<Request> =
        (0..20).map(|i| Request::new(format!("row {i}"), chat_prompt(&format!("{i}")))).collect();
    requests[7].model = Some("other".into());
    for (i, result) in all(&engine(&server, false), &requests).into_iter().enumerate() {
        match result {
            Ok(answer) => assert_eq!(answer.choices[0].text, format!("You said: {i}")),
            Err(error) => {
                assert!(i == 7 && error.to_string().starts_with("row 7: http://"), "{error}");
                assert!(error.to_string().contains("answers 404: there is no model \"other\""), "{error}");
            }
        }
    }
    assert!(server.get("/metrics").text().contains("status=\"429\"}"));
}

#[test]
fn scores_and_models_come_over_http_too() {
    let server = Running::new();
    let engine = engine(&server, false);
    assert_eq!(engine.models().unwrap()[1].parent.as_deref(), Some("echo"));
    let request = ScoreRequest { id: "row".into(), model: None, prompt: Prompt::Text("four".into()) };
    let mut scores = Vec::new();
    engine.score(&[request], &mut |_, score| {
        scores.push(score.unwrap());
        ControlFlow::Continue(())
    });
    assert_eq!(scores, [1.0]);
}

#[test]
fn a_token_is_taken_from_its_variable() {
    // Cargo sets this variable for tests.
    let settings = ServeSettings { token: Secret::new(env!("CARGO_PKG_NAME")), ..ServeSettings::default() };
    let server = Running::with(settings, Echo::default());
    let base = HttpSettings::new(format!("http://{}/v1", server.address));
    let with_key = HttpSettings { api_key_variable: Some("CARGO_PKG_NAME".into()), ..base.clone() };
    let requests = [Request::new("row", chat_prompt("x"))];
    assert!(all(&HttpEngine::new(with_key).unwrap(), &requests).remove(0).is_ok());
    let error = all(&HttpEngine::new(base).unwrap(), &requests).remove(0).unwrap_err().to_string();
    assert!(error.contains("answers 401: this server wants its token"), "{error}");
}
