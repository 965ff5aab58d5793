//! Rotary scalings and sliding windows: the text models under other configurations.

use super::case::{Largest, batch, device, encode, fixtures, floats, load, log_probs, nats, records};
use firebrick::checkpoint::{JsonFile, read_json};
use firebrick::data::PadSide;
use firebrick::generation::Stop;
use firebrick::models::llama::LlamaConfig;
use firebrick::projector::NoProjector;
use firebrick::trainer::Policy;
use firebrick::vision::NoVision;
use serde_json::{Value, json};
use std::path::Path;

fn reference() -> Value {
    read_json(&fixtures().join("variants.json")).unwrap()
}

/// The fixture's model folder with some keys of its configuration replaced; null removes one.
pub fn configured(model: &str, overrides: &Value, folder: &Path) {
    for entry in std::fs::read_dir(fixtures().join(model).join("model")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let path = folder.join("config.json");
    let mut config = read_json(&path).unwrap();
    let fields = config.as_object_mut().unwrap();
    for (key, value) in overrides.as_object().unwrap() {
        fields.shift_remove(key);
        if !value.is_null() {
            fields.insert(key.clone(), value.clone());
        }
    }
    std::fs::write(&path, config.to_string()).unwrap();
}

#[test]
fn log_probabilities_and_answers_of_every_variant() {
    let reference = reference();
    let mut largest = Largest::new("variants, log-probabilities", nats());
    for variant in reference["variants"].as_array().unwrap() {
        let name = format!("{}, {}", variant["model"].as_str().unwrap(), variant["name"].as_str().unwrap());
        let folder = tempfile::tempdir().unwrap();
        configured(variant["model"].as_str().unwrap(), &variant["overrides"], folder.path());
        let (loaded, encoder) = load(folder.path(), &NoVision::default(), &NoProjector::default(), &device());
        let samples = records(false);
        let encoded = encode(&encoder, &samples);
        let scores = log_probs(&loaded.model, &encoded, &device());
        for (index, (found, expected)) in scores.iter().zip(variant["token_logprobs"].as_array().unwrap()).enumerate() {
            largest.check_all(&format!("{name}, record {index}"), found, &floats(expected), 1.0);
        }
        let end = encoder.tokenizer.eos().unwrap();
        let stop = Stop { end_tokens: vec![end], max_new_tokens: 12 };
        for (index, (sample, expected)) in samples.iter().zip(variant["output_ids"].as_array().unwrap()).enumerate() {
            let prompt = encoder.encode_prompt(sample, index).unwrap().encoded;
            let prompts = batch(std::slice::from_ref(&prompt), PadSide::Left);
            let found = loaded.model.generate(&prompts, &stop, &device(), &mut |_, _| true).remove(0);
            let wanted: Vec<u32> = serde_json::from_value(expected.clone()).unwrap();
            assert_eq!(found, wanted.strip_suffix(&[end]).unwrap_or(&wanted), "{name}, record {index}");
        }
    }
}

#[test]
fn frequencies_at_every_length() {
    for case in reference()["frequencies"].as_array().unwrap() {
        let file = JsonFile::from_value("config.json", case["config"].clone());
        let rope = LlamaConfig::read(&file.fields().unwrap()).unwrap().rope();
        for row in case["rows"].as_array().unwrap() {
            let length = row["length"].as_u64().unwrap() as usize;
            let (found, expected) = (rope.inverse_frequencies(length), floats(&row["inverse_frequencies"]));
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() <= expected.abs() * 5e-7,
                    "{}, {length} tokens: {found} is not {expected}",
                    case["config"]["rope_parameters"]
                );
            }
            assert_eq!(json!(rope.attention_factor()), json!(row["attention_factor"].as_f64().unwrap() as f32));
        }
    }
}
