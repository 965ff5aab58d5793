//! The server over models of this library: tiny checkpoints and adapters of transformers and PEFT, with their numbers.

use super::*;
use base64::Engine as _;
use firebrick::checkpoint::bridge::Hold;
use firebrick::checkpoint::{Shards, read_json};
use firebrick::device::DeviceRequest;
use firebrick::engine::{Engine, EngineError, HttpEngine, HttpSettings, Prompt, Request, ScoreRequest};
use firebrick::models::Llama;
use firebrick::objectives::{Head, Level};
use firebrick::projector::NoProjector;
use firebrick::recipe::tools::{Common, LocalBackend, LocalEngine, LocalSettings};
use firebrick::recipe::{ModelFolder, Opened, Shape, save_model};
use firebrick::vision::NoVision;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// Log-probabilities and scores by two programs that sum in other orders.
const TOLERANCE: f64 = 1e-4;
const ADAPTER: &str = "tuners/rslora/adapter";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity").join(name)
}

fn reference(name: &str) -> Value {
    read_json(&fixture(name)).unwrap()
}

/// A folder of `tests/fixtures/parity`, with adapters on it by name; `adapter` is the one that answers unasked.
fn engine(model: &Path, adapter: Option<&str>, adapters: &[(&str, &str)], lanes: usize) -> LocalEngine {
    let device: DeviceRequest = "cpu".parse().unwrap();
    let adapter = adapter.map(fixture);
    let common = Common { model: model.to_owned(), adapter, vision_from: None, device, template: None };
    let adapters = adapters.iter().map(|(name, dir)| ((*name).to_owned(), fixture(dir))).collect();
    LocalEngine::open(LocalSettings { common, adapters, lanes, reuse: firebrick::generation::Reuse::OFF }).unwrap()
}

fn server(settings: ServeSettings, engine: LocalEngine) -> Running {
    Running::over(settings, Arc::new(LocalBackend::new(engine)))
}

fn text_server(settings: ServeSettings) -> Running {
    let lanes = settings.slots;
    server(settings, engine(&fixture("llama_text/model"), None, &[], lanes))
}

/// The rows that the fixtures of tuners and heads are about.
fn rows() -> Vec<Vec<u32>> {
    let rows = reference("tuners/batch.json")["rows"].clone();
    rows.as_array().unwrap().iter().map(|row| serde_json::from_value(row["input_ids"].clone()).unwrap()).collect()
}

fn close(found: &Value, expected: &Value, what: &str) {
    match (found, expected) {
        (Value::Array(found), Value::Array(expected)) => {
            assert_eq!(found.len(), expected.len(), "{what}");
            found.iter().zip(expected).for_each(|(found, expected)| close(found, expected, what));
        }
        _ => {
            let (a, b) = (found.as_f64().unwrap(), expected.as_f64().unwrap());
            assert!((a - b).abs() < TOLERANCE, "{what}: {a} is not {b}");
        }
    }
}

fn softmax(logits: &Value) -> Value {
    let weights: Vec<f64> = logits.as_array().unwrap().iter().map(|logit| logit.as_f64().unwrap().exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / sum).collect::<Vec<f64>>().into()
}

/// A reward model as this library saves it, with the weights of the fixtures' head.
fn reward_model() -> tempfile::TempDir {
    let (vision, projector, device) = (NoVision::default(), NoProjector::default(), "cpu".parse().unwrap());
    let device = firebrick::device::choose(device).unwrap().device;
    let head = Head { outputs: 1, bias: false, level: Level::Sequence, problem_type: Some("regression") };
    let folder = ModelFolder::open(&fixture("llama_text/model")).unwrap().with_head(Some(head)).unwrap();
    let opened = Opened::of(folder, &Llama::default(), &vision, &projector, &device).unwrap();
    let mut loaded = opened.load(&projector, &|_| Hold::Frozen, &device).unwrap();
    let weight = Shards::open_file(&fixture("heads/score.safetensors")).unwrap().get("one").unwrap().to_f32().unwrap();
    let score = loaded.model.score.as_mut().unwrap();
    let weight = burn::tensor::TensorData::new(weight, score.shape());
    let weight = burn::module::Param::from_tensor(burn::tensor::Tensor::from_data(weight, &device));
    score.weight = firebrick::nn::Weight::Dense(weight);
    let out = tempfile::tempdir().unwrap();
    save_model(&out.path().join("model"), &loaded, Shape::TRAINED).unwrap();
    out
}

/// The classifier that transformers saved, with the tokenizer that it does not save.
fn classifier() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (from, name) in [
        ("heads/model", "config.json"),
        ("heads/model", "model.safetensors"),
        ("llama_text/model", "tokenizer.json"),
        ("llama_text/model", "tokenizer_config.json"),
    ] {
        std::fs::copy(fixture(from).join(name), folder.path().join(name)).unwrap();
    }
    folder
}

fn score_requests() -> Vec<ScoreRequest> {
    let request = |ids| ScoreRequest { id: "row".into(), model: None, prompt: Prompt::Tokens(ids) };
    rows().into_iter().map(request).collect()
}

type Ask<T> = fn(&LocalEngine, &[ScoreRequest], &mut dyn FnMut(usize, Result<T, EngineError>) -> ControlFlow<()>);

fn all<T>(engine: &LocalEngine, ask: Ask<T>) -> Vec<Result<T, EngineError>> {
    let requests = score_requests();
    let mut results: Vec<Option<Result<T, EngineError>>> = requests.iter().map(|_| None).collect();
    ask(engine, &requests, &mut |index, result| {
        assert!(results[index].replace(result).is_none());
        ControlFlow::Continue(())
    });
    results.into_iter().map(Option::unwrap).collect()
}

fn scores(engine: &LocalEngine) -> Vec<Result<f64, EngineError>> {
    all(engine, |engine, requests, finished| engine.score(requests, finished))
}

fn classes(engine: &LocalEngine) -> Vec<Result<Vec<f64>, EngineError>> {
    all(engine, |engine, requests, finished| engine.classify(requests, finished))
}

fn refusal<T>(mut results: Vec<Result<T, EngineError>>) -> String {
    results.remove(0).err().map(|error| error.to_string()).expect("it is refused")
}

#[test]
fn heads_score_and_classify_as_in_transformers_and_refuse_the_rest() {
    let reference = reference("heads/reference.v5.json");
    let logits = |name: &str| reference["padding"][name]["pad_0_right"]["logits"].clone();
    let folder = reward_model();
    let reward = engine(&folder.path().join("model"), None, &[], 4);
    let found: Vec<f64> = scores(&reward).into_iter().map(Result::unwrap).collect();
    for (found, expected) in found.iter().zip(logits("one").as_array().unwrap()) {
        close(&json!([found]), expected, "a score");
    }
    let error = refusal(classes(&reward));
    assert!(error.contains("has 1 output, it is a reward model and no classifier; ask for its score"), "{error}");

    let folder = classifier();
    let three = engine(folder.path(), None, &[], 4);
    for (found, expected) in classes(&three).into_iter().zip(logits("three").as_array().unwrap()) {
        close(&json!(found.unwrap()), &softmax(expected), "classes");
    }
    let error = refusal(scores(&three));
    assert!(error.contains("has 3 outputs, it is a classifier and no reward model; ask for its classes"), "{error}");
    let mut refused = None;
    three.generate(&[Request::new("row", Prompt::Text("x".into()))], &mut |_, result| {
        refused = result.err().map(|error| error.to_string());
        ControlFlow::Continue(())
    });
    assert!(refused.unwrap().contains("has a head that yields scores, and none that yields words"));

    let plain = engine(&fixture("llama_text/model"), None, &[], 4);
    for error in [refusal(scores(&plain)), refusal(classes(&plain))] {
        assert!(
            error.starts_with("row: ") && error.contains("has no head that yields scores, it writes; take"),
            "{error}"
        );
    }

    // Each class by itself, where its config.json says so.
    let config = folder.path().join("config.json");
    let mut several: Value = read_json(&config).unwrap();
    several["problem_type"] = "multi_label_classification".into();
    several["id2label"]["2"] = "third".into();
    std::fs::write(&config, several.to_string()).unwrap();
    let server = server(ServeSettings::default(), engine(folder.path(), None, &[], 4));
    for path in ["/classify", "/v1/classify"] {
        let answer = server.post(path, &json!({"input": rows()})).json();
        for (item, logits) in answer["data"].as_array().unwrap().iter().zip(logits("three").as_array().unwrap()) {
            let sigmoid = |logit: &Value| 1.0 / (1.0 + (-logit.as_f64().unwrap()).exp());
            let expected: Vec<f64> = logits.as_array().unwrap().iter().map(sigmoid).collect();
            close(&item["probs"], &json!(expected), path);
            assert_eq!(item["num_classes"], 3);
        }
        assert_eq!(answer["data"][0]["label"], "third");
        assert_eq!(answer["usage"]["prompt_tokens"], rows().iter().map(Vec::len).sum::<usize>());
    }
    let direct = server.post("/classify", &json!({"input": rows()})).json();
    let over_http = HttpEngine::new(HttpSettings::new(format!("http://{}/v1", server.address))).unwrap();
    over_http.classify(&score_requests(), &mut |row, found| {
        close(&json!(found.unwrap()), &direct["data"][row]["probs"], "over HTTP");
        ControlFlow::Continue(())
    });
    server.is_well();
}

#[test]
fn a_reward_model_is_asked_over_http() {
    let folder = reward_model();
    let server = server(ServeSettings::default(), engine(&folder.path().join("model"), None, &[], 4));
    let expected = reference("heads/reference.v5.json")["padding"]["one"]["pad_0_right"]["logits"].clone();
    let answer = server.post("/score", &json!({"input": rows()})).json();
    for (item, expected) in answer["data"].as_array().unwrap().iter().zip(expected.as_array().unwrap()) {
        close(&json!([item["score"]]), expected, "/score");
    }
    // A conversation is read to its end, with the answer that is judged.
    let turns = |answer: &str| json!([{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": answer}]);
    let both = server.post("/score", &json!({"messages": [turns("4"), turns("5")]})).json();
    let one = server.post("/score", &json!({"messages": turns("5")})).json();
    assert_ne!(both["data"][0]["score"], both["data"][1]["score"]);
    close(&one["data"][0]["score"], &both["data"][1]["score"], "alone and beside another");
    let chat = server.post("/v1/chat/completions", &json!({"messages": turns("4")}));
    assert!(chat.status == 400 && chat.error().contains("ask for its scores"), "{}", chat.text());
    server.is_well();
}

/// Log-probabilities of a row's tokens, as a completion echoes them.
fn echoed(server: &Running, model: &str, ids: &[u32]) -> Vec<f64> {
    let body = json!({"model": model, "prompt": ids, "echo": true, "logprobs": 0, "max_tokens": 0});
    let answer = server.post("/v1/completions", &body);
    assert_eq!(answer.status, 200, "{}", answer.text());
    let values = answer.json()["choices"][0]["logprobs"]["token_logprobs"].clone();
    values.as_array().unwrap()[1..].iter().map(|value| value.as_f64().unwrap()).collect()
}

#[test]
fn adapters_answer_beside_their_base() {
    let others =
        [("words", ADAPTER), ("prompt", "tuners/classification/prompt"), ("p", "tuners/classification/p_tuning")];
    let base = fixture("llama_text/model").display().to_string();
    let first = fixture(ADAPTER).display().to_string();
    let engine = engine(Path::new(&base), Some(ADAPTER), &others, 4);
    let server = server(ServeSettings::default(), engine);
    let list = server.get("/v1/models").json();
    let names: Vec<(&str, Option<&str>)> =
        list["data"].as_array().unwrap().iter().map(|m| (m["id"].as_str().unwrap(), m["parent"].as_str())).collect();
    let on_it = Some(base.as_str());
    assert_eq!(names, [(&*first, on_it), (&*base, None), ("words", on_it), ("prompt", on_it), ("p", on_it)]);

    let tuned = reference("tuners/rslora/reference.json")["token_logprobs"].clone();
    let plain: Value = reference("tuners/classification/reference.json");
    std::thread::scope(|scope| {
        for (row, ids) in rows().into_iter().enumerate() {
            let (server, tuned, plain, base) = (&server, &tuned, &plain, &base);
            scope.spawn(move || {
                let by_base = echoed(server, base, &ids);
                for name in ["", "words"] {
                    let found = echoed(server, name, &ids);
                    let answer: Vec<f64> = serde_json::from_value(tuned[row].clone()).unwrap();
                    let tail = &found[found.len() - answer.len()..];
                    close(&json!(tail), &json!(answer), name);
                    let base = &by_base[found.len() - answer.len()..];
                    assert!(tail.iter().zip(base).any(|(a, b)| (a - b).abs() > 1e-3), "the base speaks as its adapter");
                }
                for (name, tuner) in [("prompt", "prompt"), ("p", "p_tuning")] {
                    let answer = server.post("/classify", &json!({"model": name, "input": [ids]})).json();
                    let expected = softmax(&plain["tuners"][tuner]["logits"][row]);
                    close(&answer["data"][0]["probs"], &expected, name);
                }
            });
        }
    });
    let refused = server.post("/v1/completions", &json!({"model": "prompt", "prompt": "x"}));
    assert!(
        refused.status == 400 && refused.error().contains("prompt has a head that yields scores"),
        "{}",
        refused.text()
    );
    server.is_well();
}

#[test]
fn embeddings_are_the_pooled_hidden_states_of_transformers() {
    let reference = reference("embeddings.json");
    let texts = &reference["texts"];
    for (name, rows) in reference["cases"].as_object().unwrap() {
        let folder = fixture(name).join("model");
        let server = server(ServeSettings::default(), engine(&folder, None, &[], 4));
        let column = |key: &str| -> Value { rows.as_array().unwrap().iter().map(|row| row[key].clone()).collect() };
        let ask = |body: Value| {
            let answer = server.post("/v1/embeddings", &body);
            assert_eq!(answer.status, 200, "{}", answer.text());
            let answer = answer.json();
            let found: Value =
                answer["data"].as_array().unwrap().iter().map(|item| item["embedding"].clone()).collect();
            (found, answer["usage"]["prompt_tokens"].clone())
        };
        let (found, tokens) = ask(json!({"input": texts}));
        close(&found, &column("last"), "last");
        assert_eq!(
            tokens,
            rows.as_array().unwrap().iter().map(|r| r["input_ids"].as_array().unwrap().len()).sum::<usize>()
        );
        close(&ask(json!({"input": column("input_ids")})).0, &column("last"), "token ids");
        close(&ask(json!({"input": texts, "pooling": "mean"})).0, &column("mean"), "mean");
        close(&ask(json!({"input": texts, "dimensions": 8})).0, &column("last_of_8"), "dimensions");
        let packed = ask(json!({"input": texts, "encoding_format": "base64"})).0;
        let bytes = base64::engine::general_purpose::STANDARD.decode(packed[0].as_str().unwrap()).unwrap();
        let values: Vec<f32> = bytes.chunks(4).map(|four| f32::from_le_bytes(four.try_into().unwrap())).collect();
        close(&json!(values), &rows[0]["last"], "base64");
        let wide = server.post("/v1/embeddings", &json!({"input": "x", "dimensions": 999}));
        assert!(wide.status == 400 && wide.error().contains("values, not 999"), "{}", wide.text());
        server.is_well();
    }
}

/// A request that writes to the end of the model's context.
fn long(words: &str) -> Value {
    with(with(chat(words), "model", ""), "ignore_eos", true)
}

#[test]
fn more_answers_than_slots_and_limits_by_request() {
    let server = text_server(ServeSettings { slots: 2, ..ServeSettings::default() });
    let body = with(with(with(long("hello"), "n", 5), "max_tokens", 6), "seed", 3);
    let answer = server.post("/v1/chat/completions", &body).json();
    let choices = answer["choices"].as_array().unwrap();
    assert_eq!((choices.len(), answer["usage"]["completion_tokens"].as_u64()), (5, Some(30)));
    assert!(choices.iter().all(|choice| choice["finish_reason"] == "length"));
    // The same seed, the same answers.
    assert_eq!(server.post("/v1/chat/completions", &body).json()["choices"], answer["choices"]);
    // Likelihoods of a prompt, and not a token more.
    let none =
        server.post("/v1/completions", &json!({"prompt": vec![5; 512], "max_tokens": 0, "echo": true, "logprobs": 1}));
    let none = none.json();
    assert_eq!(none["choices"][0]["logprobs"]["token_logprobs"].as_array().map(Vec::len), Some(512), "{none}");
    assert_eq!(
        (&none["usage"]["completion_tokens"], &none["choices"][0]["finish_reason"]),
        (&json!(0), &json!("length"))
    );
    let context = server.post("/v1/chat/completions", &long("hello")).json();
    assert_eq!(context["usage"]["total_tokens"], 512);
    let much = server.post("/v1/completions", &json!({"prompt": vec![5; 512]}));
    assert!(much.status == 400 && much.error().contains("the model's context has 512; shorten it"), "{}", much.text());
    for (key, value, words) in
        [("best_of", json!(2), "best_of"), ("n", json!(17), "at most 16"), ("max_tokens", json!(9999), "at most 4096")]
    {
        let refused = server.post("/v1/completions", &with(json!({"prompt": "x"}), key, value));
        assert!(refused.status == 400 && refused.error().contains(words), "{}", refused.text());
    }
    let tool = json!([{"type": "function", "function": {"name": "look", "parameters": {}}}]);
    let tools = server.post("/v1/chat/completions", &with(long("hello"), "tools", tool));
    assert!(tools.status == 400 && tools.error().contains("has no place for tools"), "{}", tools.text());
    server.is_well();
}

#[test]
fn a_client_that_leaves_frees_its_lane_and_a_full_queue_says_so() {
    let server = text_server(ServeSettings { slots: 1, queue: 1, ..ServeSettings::default() });
    let begun = Instant::now();
    assert_eq!(server.post("/v1/chat/completions", &long("hello")).status, 200);
    let whole = begun.elapsed();
    for round in 0..3 {
        let mut writing = Open::post(server.address, "/v1/chat/completions", &with(long("hello"), "stream", true));
        while !writing.event().unwrap().contains("\"content\":\"") {}
        let waiting = Open::post(server.address, "/v1/chat/completions", &with(long("hello"), "max_tokens", 1));
        until("one waits", || server.metric("firebrick_queue_length") == 1.0);
        let refused = server.post("/v1/chat/completions", &long("hello"));
        assert_eq!((refused.status, refused.header("retry-after").is_some()), (429, true), "round {round}");
        let begun = Instant::now();
        writing.leave();
        assert_eq!(waiting.answer().unwrap().status, 200);
        let freed = begun.elapsed();
        assert!(freed < whole / 4, "the lane was free after {freed:?}, an answer takes {whole:?}");
    }
    // A client that leaves the queue was never begun.
    let mut writing = Open::post(server.address, "/v1/chat/completions", &with(long("hello"), "stream", true));
    assert!(writing.event().is_some());
    let waiting = Open::post(server.address, "/v1/chat/completions", &long("hello"));
    until("one waits", || server.metric("firebrick_queue_length") == 1.0);
    waiting.leave();
    until("nobody waits", || server.metric("firebrick_queue_length") == 0.0);
    writing.leave();
    server.is_well();
}

#[test]
fn streamed_answers_of_a_crowd_are_those_of_one() {
    let server = text_server(ServeSettings { slots: 3, ..ServeSettings::default() });
    let ask = |words: &str, stream: bool| {
        let body = with(with(with(long(words), "max_tokens", 24), "temperature", 0), "stream", stream);
        Open::post(server.address, "/v1/chat/completions", &body)
    };
    let words: Vec<String> = (1..9).map(|n| "how many? ".repeat(n)).collect();
    let alone: Vec<String> = words
        .iter()
        .map(|words| {
            ask(words, false).answer().unwrap().json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
        })
        .collect();
    std::thread::scope(|scope| {
        for (words, alone) in words.iter().zip(&alone) {
            let ask = &ask;
            scope.spawn(move || {
                let mut open = ask(words, true);
                assert_eq!(open.head().unwrap().0, 200);
                let events = std::iter::from_fn(|| open.event()).take_while(|event| event != "[DONE]");
                let chunks = events.map(|event| serde_json::from_str::<Value>(&event).unwrap());
                let text: String = chunks
                    .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
                    .collect();
                assert_eq!(&text, alone);
            });
        }
    });
    server.is_well();
}
