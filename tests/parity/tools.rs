//! The recipe `score` as it is called from a shell.

use super::case::{Largest, Reference, fixtures, floats, nats};
use clap::Parser;
use firebrick::recipe::tools::Score;
use serde_json::Value;

/// Writes the scores of a fixture and returns its lines.
fn score(name: &str, batch: &str) -> Vec<Value> {
    let reference = Reference::open(name);
    let (folder, out) = (fixtures().join("records"), tempfile::tempdir().unwrap());
    let data = if name.ends_with("_text") { "text.json" } else { "data.json" };
    let output = out.path().join("scores.jsonl");
    let device = std::env::var("FIREBRICK_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
    let path = |p: std::path::PathBuf| p.display().to_string();
    let mut arguments: Vec<String> =
        ["score", "--per-token", "--device", &device, "--batch-size", batch].map(Into::into).into();
    arguments.extend(["--model".into(), path(reference.model_dir())]);
    arguments.extend(["--data".into(), path(folder.join(data)), "--images".into(), path(folder.join("images"))]);
    arguments.extend(["--output".into(), path(output.clone())]);
    if let Some(adapter) = reference.adapter_dir() {
        arguments.extend(["--adapter".into(), path(adapter)]);
    }
    Score::try_parse_from(arguments).unwrap().main().unwrap();
    let text = std::fs::read_to_string(output).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn scores_are_the_references_field_by_field() {
    for name in ["llava_gqa", "llava_tied", "llama_text", "peft_lora"] {
        let mut largest = Largest::new(format!("{name}, score"), nats());
        let reference = Reference::open(name);
        for batch in ["1", "3"] {
            let lines = score(name, batch);
            assert_eq!(lines.len(), reference.records().len());
            for (line, expected) in lines.iter().zip(reference.records()) {
                for key in ["index", "id", "num_tokens", "num_supervised_tokens", "input_ids", "labels"] {
                    assert_eq!(line[key], expected[key], "{name}, {key}");
                }
                let tokens = floats(&line["token_logprobs"]);
                largest.check_all(&expected["id"], &tokens, &floats(&expected["token_logprobs"]), 1.0);
                let sum = |line: &Value| line["sum_logprob"].as_f64().unwrap();
                largest.check(&"sum", sum(line), sum(expected), tokens.len() as f64);
            }
        }
    }
}
