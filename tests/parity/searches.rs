//! Beams and penalties on the tiny checkpoints: transformers' sequences to the token, alone and in one batch.

use super::case::{Case, device, fixtures};
use firebrick::checkpoint::read_json;
use firebrick::data::Encoded;
use firebrick::generation::Lanes;
use firebrick::generation::decoding::Decoding;
use firebrick::generation::driver::{Request, generate};
use firebrick::generation::row::RowSettings;
use firebrick::generation::sequence::Sequence;
use firebrick::generation::settings::CheckpointDefaults;
use firebrick::projector::Projector;
use firebrick::settings::Given;
use firebrick::vision::VisionEncoder;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::sync::Arc;

/// Of a sum of up to 12 log-probabilities in f32, before the length penalty makes a score of it.
const SCORE: f64 = 1e-4;

#[test]
fn llama_text() {
    check(&Case::text("llama_text", &device()));
}

#[test]
fn qwen2_text() {
    check(&Case::text("qwen2_text", &device()));
}

#[test]
fn llava_gqa() {
    check(&Case::llava("llava_gqa", &device()));
}

#[test]
fn llava_tied() {
    check(&Case::llava("llava_tied", &device()));
}

fn check<V: VisionEncoder, P: Projector>(case: &Case<V, P>) {
    let found = read_json(&fixtures().join(&case.reference.name).join("searches.json")).unwrap();
    let searches = found["searches"].as_array().unwrap();
    assert_eq!(searches.len(), 8);
    for search in searches {
        let rows = search["rows"].as_array().unwrap();
        let decoding = Arc::new(decoding(case, &search["settings"], &found["max_new_tokens"]));
        let prompts: Vec<Encoded> = rows.iter().map(|row| prompt(case, &row["id"])).collect();
        let together = answers(case, &decoding, &prompts);
        for (number, row) in rows.iter().enumerate() {
            let name = format!("{} {}", search["settings"], row["id"]);
            let penalty = search["settings"]["length_penalty"].as_f64().unwrap_or(1.0);
            compare(&format!("{name} in a batch"), &together[number], &row["sequences"], penalty);
            let alone = answers(case, &decoding, &prompts[number..=number]);
            compare(&format!("{name} alone"), &alone[0], &row["sequences"], penalty);
        }
    }
}

fn prompt<V: VisionEncoder, P: Projector>(case: &Case<V, P>, id: &Value) -> Encoded {
    let index = case.samples.iter().position(|sample| sample.id == *id).unwrap();
    case.encoder.encode_prompt(&case.samples[index], index).unwrap().encoded
}

/// The settings as a `generation_config.json` has them.
fn decoding<V: VisionEncoder, P: Projector>(case: &Case<V, P>, settings: &Value, tokens: &Value) -> Decoding {
    let mut config = settings.clone();
    config["max_new_tokens"] = tokens.clone();
    config["eos_token_id"] = json!(case.encoder.tokenizer.eos());
    let settings = CheckpointDefaults::parse(&config.to_string(), "searches.json").unwrap();
    settings.under(&Given::new()).unwrap().resolve(&case.encoder.tokenizer).unwrap()
}

fn answers<V: VisionEncoder, P: Projector>(
    case: &Case<V, P>,
    decoding: &Arc<Decoding>,
    prompts: &[Encoded],
) -> Vec<Vec<Sequence>> {
    let row = |encoded: &Encoded| Request {
        prompt: encoded.clone(),
        settings: RowSettings {
            decoding: decoding.clone(),
            prompt: encoded.input_ids.clone(),
            key: 0,
            detokenizer: None,
        },
    };
    let rows = prompts.iter().map(row).collect();
    let pad = case.encoder.tokenizer.eos().unwrap();
    let lanes = Lanes::new(&case.loaded.model, pad, 5, &case.device);
    generate(lanes, rows, &mut |_, _| ControlFlow::Continue(())).unwrap()
}

fn compare(name: &str, found: &[Sequence], expected: &Value, penalty: f64) {
    let expected = expected.as_array().unwrap();
    assert_eq!(found.len(), expected.len(), "{name}");
    for (sequence, expected) in found.iter().zip(expected) {
        assert_eq!(json!(sequence.ids), expected["ids"], "{name}");
        if let Some(score) = expected["score"].as_f64() {
            let own = sequence.score.unwrap();
            let scale = (sequence.ids.len() as f64).powf(-penalty).max(1.0);
            assert!((own - score).abs() < SCORE * scale, "{name}: {own}, transformers {score}");
        }
    }
}
