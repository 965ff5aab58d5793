//! `convert`, `merge` and a model of the hub: what they write answers as what they read.

use super::{fixture, llava_sft, program, text, tiny};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Output;

/// Runs a tool; the exit code must be `code`.
fn run(name: &str, arguments: &[&Path], more: &[&str], code: i32) -> Output {
    let output = program(name).args(arguments).args(more).output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", text(&output));
    assert!(!text(&output).contains("panicked"), "{}", text(&output));
    output
}

/// Every supervised token's log-probability under a model, record by record.
fn scores(model: &Path, adapter: Option<&Path>, folder: &Path) -> Vec<Vec<f64>> {
    let output = folder.join("scores.jsonl");
    let records = fixture("parity/records");
    let (data, images) = (records.join("data.json"), records.join("images"));
    let mut arguments: Vec<&Path> =
        vec!["--model".as_ref(), model, "--data".as_ref(), &data, "--images".as_ref(), &images];
    arguments.extend(["--output".as_ref(), output.as_path()]);
    if let Some(adapter) = adapter {
        arguments.extend(["--adapter".as_ref(), adapter]);
    }
    run("score", &arguments, &["--per-token", "--device", "cpu"], 0);
    let lines = std::fs::read_to_string(&output).unwrap();
    std::fs::remove_file(&output).unwrap();
    let row = |line: &str| -> Vec<f64> {
        let row: Value = serde_json::from_str(line).unwrap();
        row["token_logprobs"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect()
    };
    lines.lines().map(row).collect()
}

#[track_caller]
fn assert_near(a: &[Vec<f64>], b: &[Vec<f64>], tolerance: f64) {
    assert_eq!(a.iter().map(Vec::len).collect::<Vec<_>>(), b.iter().map(Vec::len).collect::<Vec<_>>());
    assert!(a.iter().map(Vec::len).sum::<usize>() > 10, "too little to compare");
    let furthest = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(furthest <= tolerance, "{furthest}");
}

fn weights(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "safetensors")).collect();
    files.sort();
    files
}

#[test]
fn there_and_back_through_the_original_layout_in_many_files() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("parity/llava_gqa/model");
    let (original, back) = (folder.path().join("original"), folder.path().join("back"));
    let convert = |from: &Path, to: &str, output: &Path, more: &[&str], code| {
        let arguments = ["--model".as_ref(), from, "--to".as_ref(), to.as_ref(), "--output".as_ref(), output];
        run("convert", &arguments, more, code)
    };
    convert(&model, "original", &original, &["--max-shard-size", "20KB"], 0);
    assert!(weights(&original).len() > 2, "{:?}", weights(&original));
    let index: Value =
        serde_json::from_slice(&std::fs::read(original.join("model.safetensors.index.json")).unwrap()).unwrap();
    let names: Vec<&str> = index["weight_map"].as_object().unwrap().keys().map(String::as_str).collect();
    assert!(names.contains(&"model.mm_projector.0.weight"), "{names:?}");
    assert!(names.contains(&"model.layers.0.self_attn.q_proj.weight"), "{names:?}");
    let config: Value = serde_json::from_slice(&std::fs::read(original.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["model_type"], "llava_llama");

    convert(&original, "transformers", &back, &[], 0);
    let expected = scores(&model, None, folder.path());
    assert_near(&scores(&original, None, folder.path()), &expected, 0.0);
    assert_near(&scores(&back, None, folder.path()), &expected, 0.0);

    let refused = convert(&model, "transformers", &back, &[], 1);
    assert!(text(&refused).contains("holds something already"), "{}", text(&refused));
    let alone = fixture("parity/llama_text/model");
    let refused = convert(&alone, "original", &folder.path().join("none"), &[], 2);
    assert!(text(&refused).contains("language model alone"), "{}", text(&refused));
    assert!(!folder.path().join("none").exists());
}

#[test]
fn a_merged_adapter_answers_as_base_and_adapter_do() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("parity/llava_gqa/model");
    let trained = folder.path().join("run");
    // A large rate, so that the adapter does something.
    let more = ["--max-steps", "4", "--set", "train.learning_rate=0.02"];
    let output = llava_sft().args(tiny(&trained)).args(more).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let adapter = trained.join("final");
    let merged = folder.path().join("merged");
    let arguments = ["--model".as_ref(), model.as_path(), "--adapter".as_ref(), &adapter, "--output".as_ref(), &merged];
    run("merge", &arguments, &["--dtype", "float32"], 0);

    let base = scores(&model, None, folder.path());
    let with_adapter = scores(&model, Some(&adapter), folder.path());
    let furthest = base.iter().flatten().zip(with_adapter.iter().flatten()).map(|(a, b)| (a - b).abs());
    assert!(furthest.fold(0.0, f64::max) > 0.01, "the adapter does nothing");
    assert_near(&scores(&merged, None, folder.path()), &with_adapter, 2e-5);

    let refused = run("merge", &arguments, &[], 1);
    assert!(text(&refused).contains("holds something already"), "{}", text(&refused));
    let refused = run("merge", &arguments[..2], &["--output", "nowhere"], 2);
    assert!(text(&refused).contains("merge needs --adapter"), "{}", text(&refused));
}

#[test]
fn a_model_of_the_hub_comes_from_the_cache_when_there_is_no_network() {
    let folder = tempfile::tempdir().unwrap();
    let cached = folder.path().join("hub/models--someone--tiny-llava");
    let commit = "0123456789abcdef0123456789abcdef01234567";
    std::fs::create_dir_all(cached.join("refs")).unwrap();
    std::fs::write(cached.join("refs/main"), commit).unwrap();
    let snapshot = cached.join("snapshots").join(commit);
    std::fs::create_dir_all(&snapshot).unwrap();
    for entry in std::fs::read_dir(fixture("parity/llava_gqa/model")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, snapshot.join(path.file_name().unwrap())).unwrap();
    }
    let chat = |model: &str| {
        let mut chat = program("chat");
        chat.env("HF_HOME", folder.path()).env("HF_HUB_OFFLINE", "1").env_remove("HF_HUB_CACHE");
        chat.args(["--model", model, "--prompt", "What?", "--max-new-tokens", "2", "--device", "cpu"]);
        chat.arg("--image").arg(fixture("parity/records/images/ridge.png"));
        chat.output().unwrap()
    };
    let output = chat("someone/tiny-llava");
    assert!(output.status.success(), "{}", text(&output));
    let output = chat("someone/tiny-llava@0123456789abcdef0123456789abcdef01234567");
    assert!(output.status.success(), "{}", text(&output));
    let output = chat("someone/other");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("someone/other") && text(&output).contains("HF_HUB_OFFLINE"), "{}", text(&output));
}

#[test]
fn a_projector_of_one_layer_is_two_for_transformers_and_one_here() {
    let folder = tempfile::tempdir().unwrap();
    let original = fixture("parity/original/inside");
    let back = folder.path().join("back");
    let arguments =
        ["--model".as_ref(), original.as_path(), "--to".as_ref(), "transformers".as_ref(), "--output".as_ref(), &back];
    // In f32, so that the rows of the tokens that are added are not rounded.
    run("convert", &arguments, &["--dtype", "float32"], 0);
    let config: Value = serde_json::from_slice(&std::fs::read(back.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["projector_hidden_act"], "linear");
    let shards = firebrick::checkpoint::Shards::open(&back).unwrap();
    assert!(shards.get("multi_modal_projector.linear_2.weight").is_some());
    drop(shards);
    assert_near(&scores(&back, None, folder.path()), &scores(&original, None, folder.path()), 0.0);
}
