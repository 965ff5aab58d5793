//! The recipes of alignment as programs: what they leave, what they refuse, and that they resume to the bit.

use super::{fixture, program, text};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

/// Rows of turbo-alignment's kinds, with what no tokenizer of a fixture has as one token.
pub(super) fn rows(kind: &str) -> Vec<Value> {
    let message = |role: &str, content: String| json!({"role": role, "content": content});
    (0..8)
        .map(|i| {
            let question = message("user", format!("How many is {i} and one?"));
            let (right, wrong) =
                (message("bot", format!("It is {}.", i + 1)), message("bot", format!("It is {i}, no?")));
            match kind {
                "pairs" => json!({"id": i.to_string(), "context": [question], "answer_w": right, "answer_l": wrong}),
                "unpaired" if i % 2 == 0 => {
                    json!({"id": i.to_string(), "context": [question], "answer": right, "is_desirable": true})
                }
                "unpaired" => {
                    json!({"id": i.to_string(), "context": [question], "answer": wrong, "is_desirable": false})
                }
                "labels" => json!({"id": i.to_string(), "messages": [question], "label": i % 2}),
                _ => json!({"id": i.to_string(), "messages": [question, right]}),
            }
        })
        .collect()
}

pub(super) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(super) fn new(kind: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let lines: Vec<String> = rows(kind).iter().map(Value::to_string).collect();
        std::fs::write(dir.path().join("data.jsonl"), lines.join("\n")).unwrap();
        Self { dir }
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Runs a recipe on the text checkpoint and these rows for four steps.
    pub(super) fn run(&self, recipe: &str, output: &str, more: &[&str]) -> Output {
        self.command(recipe, output, more).output().unwrap()
    }

    /// The same with a variable of the environment that counts fault points, or has the run die at one.
    pub(super) fn faulty(&self, recipe: &str, output: &str, more: &[&str], variable: &str, value: &str) -> Output {
        self.command(recipe, output, more).env(variable, value).output().unwrap()
    }

    fn command(&self, recipe: &str, output: &str, more: &[&str]) -> Command {
        let mut command = program(recipe);
        command.args(["--device", "cpu", "--model"]).arg(fixture("parity/llama_text/model"));
        command.args(["--data", &self.path("data.jsonl"), "--eval-data", &self.path("data.jsonl")]);
        command.args(["--output", &self.path(output)]);
        for set in [
            "train.per_device_train_batch_size=4",
            "train.save_steps=2",
            "train.eval_steps=2",
            "train.logging_steps=1",
            "train.max_steps=4",
            "train.learning_rate=0.01",
        ] {
            command.args(["--set", set]);
        }
        command.args(more);
        command
    }

    pub(super) fn metrics(&self, output: &str) -> Vec<Value> {
        let file = std::fs::read_to_string(Path::new(&self.path(output)).join("metrics.jsonl")).unwrap();
        file.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub(super) fn bytes(&self, output: &str, file: &str) -> Vec<u8> {
        std::fs::read(Path::new(&self.path(output)).join(file)).unwrap()
    }
}

#[track_caller]
pub(super) fn done(output: &Output) -> String {
    let said = text(output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    said
}

#[track_caller]
pub(super) fn refused(output: &Output, code: i32, words: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

fn has_numbers(rows: &[Value], keys: &[&str]) {
    for key in keys {
        let found = rows.iter().filter_map(|row| row[*key].as_f64()).all(f64::is_finite);
        let any = rows.iter().any(|row| row[*key].is_number());
        assert!(found && any, "{key} in {rows:?}");
    }
}

#[test]
fn dpo_logs_what_its_table_names_and_learns() {
    let place = Place::new("pairs");
    done(&place.run("dpo", "out", &["--set", "train.eval_on_start=true"]));
    let rows = place.metrics("out");
    let names = ["loss", "rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies", "logps/chosen"];
    has_numbers(&rows, &names);
    has_numbers(&rows, &["eval_loss", "eval_rewards/accuracies", "eval_rewards/margins", "eval_logps/rejected"]);
    let margins: Vec<f64> = rows.iter().filter_map(|row| row["eval_rewards/margins"].as_f64()).collect();
    assert_eq!(margins[0], 0.0, "the policy begins as its own reference");
    assert!(margins[margins.len() - 1] > 0.0, "{margins:?}");
    assert!(Path::new(&place.path("out")).join("final/adapter_config.json").is_file());
}

#[test]
fn a_reference_that_follows_resumes_to_the_bit() {
    let place = Place::new("pairs");
    let synced =
        ["--set", "reference.kind=synced", "--set", "reference.every=1", "--set", "objective.loss=bco_pair", "--set"];
    let with = |more: &[&'static str]| [&synced[..], &["objective.running_mean=true"], more].concat();
    done(&place.run("dpo", "whole", &with(&[])));
    // As if the run had been killed before its second checkpoint.
    done(&place.run("dpo", "broken", &with(&[])));
    std::fs::remove_dir_all(Path::new(&place.path("broken")).join("checkpoint-4")).unwrap();
    std::fs::remove_dir_all(Path::new(&place.path("broken")).join("final")).unwrap();
    done(&place.run("dpo", "broken", &with(&["--resume"])));
    for file in
        ["final/adapter_model.safetensors", "checkpoint-4/reference.safetensors", "checkpoint-4/trainable.safetensors"]
    {
        assert_eq!(place.bytes("whole", file), place.bytes("broken", file), "{file}");
    }
}

#[test]
fn stored_references_give_the_same_run_and_are_refused_for_other_data() {
    let place = Place::new("pairs");
    done(&place.run("preprocess_reference", "reference", &[]));
    let path = format!("reference.path={}", place.path("reference"));
    let stored = ["--set", "reference.kind=stored", "--set", &path];
    done(&place.run("dpo", "stored", &stored));
    done(&place.run("dpo", "beside", &[]));
    let close = |key: &str| {
        let pairs = place.metrics("stored").into_iter().zip(place.metrics("beside"));
        for (a, b) in pairs.filter_map(|(a, b)| Some((a[key].as_f64()?, b[key].as_f64()?))) {
            assert!((a - b).abs() < 1e-4, "{key}: {a} and {b}");
        }
    };
    close("loss");
    close("eval_loss");
    let values = Path::new(&place.path("reference")).join("train/model.safetensors");
    let mut bytes = std::fs::read(&values).unwrap();
    // The values lie before the counts or behind them: both ends are changed.
    let (first, last) = (bytes.len() / 2, bytes.len() - 1);
    let mut flip = || {
        bytes[first] ^= 1;
        bytes[last] ^= 1;
        std::fs::write(&values, &bytes).unwrap();
    };
    flip();
    refused(&place.run("dpo", "changed", &stored), 1, &["reference"]);
    flip();
    refused(
        &place.run("dpo", "cut", &[&stored[..], &["--set", "data.single_eos=false"]].concat()),
        1,
        &["encoding", "preprocess_reference"],
    );
    let other = Place::new("pairs");
    let mut rows = rows("pairs");
    rows[3]["answer_w"]["content"] = json!("It is four.");
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(other.path("data.jsonl"), lines.join("\n")).unwrap();
    refused(&other.run("dpo", "other", &stored), 1, &["data"]);
    assert!(!Path::new(&other.path("other")).exists(), "nothing is left of a run that never began");
}

#[test]
fn every_recipe_of_alignment_trains_a_checkpoint() {
    for (recipe, kind, more, keys) in [
        ("sft", "chat", &[][..], &["eval_loss", "eval_token_accuracy"][..]),
        ("kto", "unpaired", &[], &["eval_loss", "kl", "eval_rewards/margins"]),
        ("reward_model", "pairs", &[], &["eval_accuracy", "margin"]),
        ("classification", "labels", &["--set", "objective.num_labels=2"], &["eval_accuracy", "eval_f1"]),
        ("dpo", "pairs", &["--set", "objective.loss=orpo,simpo"], &["eval_loss"]),
    ] {
        let place = Place::new(kind);
        done(&place.run(recipe, "out", more));
        has_numbers(&place.metrics("out"), keys);
        let report = std::fs::read_to_string(Path::new(&place.path("out")).join("report.html")).unwrap();
        assert!(report.contains("<svg"), "{recipe}");
    }
}

#[test]
fn what_does_not_go_together_is_refused_before_the_weights() {
    let place = Place::new("pairs");
    for (recipe, more, code, words) in [
        ("dpo", &["--set", "objective.loss=sigmod"][..], 2, &["objective.loss", "sigmoid"][..]),
        ("dpo", &["--set", "reference.kind=none"], 2, &["compares with a reference"]),
        ("dpo", &["--set", "objective.loss=simpo", "--set", "reference.kind=frozen_copy"], 2, &["would be ignored"]),
        ("dpo", &["--set", "reference.every=3"], 2, &["every", "synced"]),
        ("dpo", &["--set", "objective.loss=sigmoid_with_margin"], 1, &["data.jsonl:1", "no margin"]),
        ("dpo", &["--set", "objective.gamma=1"], 2, &["gamma", "simpo"]),
        ("dpo", &["--set", "train.metric_for_best_model=eval_wins"], 1, &["eval_wins", "eval_rewards/accuracies"]),
        ("kto", &["--set", "train.per_device_train_batch_size=1"], 2, &["per_device_train_batch_size"]),
        ("reward_model", &["--set", "train.max_new_tokens=5"], 2, &["max_new_tokens", "scores"]),
        ("distill", &[], 2, &["reference.from"]),
        ("dpo", &["--set", "image.start_end=true"], 2, &["image.start_end", "no vision encoder"]),
        ("dpo", &["--set", "train.vision_tower=true"], 2, &["train.vision_tower"]),
    ] {
        refused(&place.run(recipe, "out", more), code, words);
    }
    let labels = Place::new("labels");
    let mut rows = rows("labels");
    rows[1]["label"] = json!(2);
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(labels.path("data.jsonl"), lines.join("\n")).unwrap();
    let out_of_range = labels.run("classification", "out", &["--set", "objective.num_labels=2"]);
    refused(&out_of_range, 1, &["data.jsonl:2", "label"]);
}

#[test]
fn a_reward_model_is_what_transformers_calls_a_sequence_classifier() {
    let place = Place::new("pairs");
    let full = ["--set", "train.language_model=true"];
    done(&place.run("reward_model", "out", &full));
    let config: Value = serde_json::from_slice(&place.bytes("out", "final/config.json")).unwrap();
    assert_eq!(config["architectures"][0], "LlamaForSequenceClassification");
    assert_eq!(config["id2label"].as_object().unwrap().len(), 1);
    // It goes on from there, and is no model that speaks.
    let mut command = program("reward_model");
    command.args(["--device", "cpu", "--model", &format!("{}/final", place.path("out"))]);
    command.args(["--data", &place.path("data.jsonl"), "--output", &place.path("again"), "--max-steps", "1"]);
    done(&command.output().unwrap());
    let mut command = program("sft");
    command.args(["--device", "cpu", "--model", &format!("{}/final", place.path("out"))]);
    command.args(["--data", &place.path("data.jsonl"), "--output", &place.path("speaks")]);
    refused(&command.output().unwrap(), 1, &["1 output", "yields scores"]);
    let mut command = program("score");
    command.args(["--device", "cpu", "--model", &format!("{}/final", place.path("out"))]);
    command.args(["--data", &place.path("data.jsonl"), "--output", &place.path("scores.jsonl")]);
    refused(&command.output().unwrap(), 1, &["1 output", "yields scores"]);
}

#[test]
fn the_adapter_of_a_reward_model_merges_with_its_head() {
    let place = Place::new("pairs");
    done(&place.run("reward_model", "out", &[]));
    let adapter = format!("{}/final", place.path("out"));
    let mut command = program("merge");
    command.arg("--model").arg(fixture("parity/llama_text/model"));
    command.args(["--adapter", &adapter, "--output", &place.path("merged")]);
    done(&command.output().unwrap());
    let config: Value = serde_json::from_slice(&place.bytes("merged", "config.json")).unwrap();
    assert_eq!(config["architectures"][0], "LlamaForSequenceClassification");
    // Merged or beside, it judges alike.
    let margin = |more: &[&str], output: &str| {
        done(&place.run("reward_model", output, &[more, &["--set", "train.eval_on_start=true"]].concat()));
        place.metrics(output).iter().find_map(|row| row["eval_margin"].as_f64()).unwrap()
    };
    let beside = margin(&["--adapter", &adapter], "beside");
    let merged = margin(&["--model", &place.path("merged")], "alone");
    assert!((beside - merged).abs() < 1e-4, "{beside} and {merged}");
    refused(&place.run("dpo", "words", &["--adapter", &adapter]), 1, &["1 output", "yields scores"]);
}

#[test]
fn held_out_records_that_end_in_several_answers_are_asked_before_the_first() {
    let place = Place::new("chat");
    let row = json!({"messages": [
        {"role": "user", "content": "q"}, {"role": "bot", "content": "a"}, {"role": "bot", "content": "b"}
    ]});
    std::fs::write(place.path("data.jsonl"), format!("{row}\n{row}")).unwrap();
    done(&place.run("sft", "out", &["--set", "data.template=chatml", "--set", "train.eval_generate=2"]));
    has_numbers(&place.metrics("out"), &["eval_exact_match"]);
}
