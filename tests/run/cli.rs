//! What is said about a wrong command line or bad data, and the exit codes.

use super::{fixture, llava_sft, text, tiny};
use serde_json::json;
use std::path::Path;

/// Runs with `arguments`; checks the exit code and that everything in `says` is said, and no panic.
fn check(arguments: &[String], code: i32, says: &[&str]) -> String {
    let output = llava_sft().args(arguments).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for part in says {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    said
}

fn with(output: &Path, more: &[&str]) -> Vec<String> {
    let mut arguments = tiny(output);
    arguments.extend(more.iter().map(|s| (*s).to_owned()));
    arguments
}

#[test]
fn settings_are_refused_with_the_nearest_name() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    check(&with(&run, &["--set", "train.learning_rat=1"]), 2, &["train.learning_rat", "did you mean `learning_rate`"]);
    check(&with(&run, &["--set", "adapter.r=0"]), 2, &["adapter.r", "from 1 to 65536"]);
    check(&with(&run, &["--set", "adapter.r=eight"]), 2, &["adapter.r", "eight"]);
    check(&with(&run, &["--set", "adaptor.r=8"]), 2, &["adapter"]);
    check(&with(&run, &["--nonsense"]), 2, &["--nonsense"]);
    check(&with(&run, &["--device", "tpu"]), 2, &["tpu", "cuda"]);
    assert!(!run.exists(), "a refused invocation must not leave a folder");
}

#[test]
fn print_config_names_every_origin() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    std::fs::write(&file, r#"{"train": {"weight_decay": 0.2}}"#).unwrap();
    let run = folder.path().join("run");
    let arguments = with(&run, &["--print-config", "--config", &file.display().to_string()]);
    let said = check(&arguments, 0, &["adapter.r ", "(recipe)", "(default)", "(command line)"]);
    // Set both in the file and on the command line of `tiny`: the command line wins.
    let line = said.lines().find(|l| l.starts_with("train.weight_decay ")).unwrap();
    assert!(line.contains("0.1") && line.contains("command line"), "{line}");
    assert!(!run.exists());
}

#[test]
fn a_runs_own_config_can_be_used_again() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    check(&with(&first, &["--max-steps", "2"]), 0, &[]);
    let config = first.join("config.json").display().to_string();
    let said = check(&with(&second, &["--print-config", "--config", &config]), 0, &["first/config.json"]);
    assert!(said.contains("adapter.r "), "{said}");
}

#[test]
fn an_output_that_holds_something_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    std::fs::create_dir(&run).unwrap();
    std::fs::write(run.join("thesis.tex"), "precious").unwrap();
    check(&with(&run, &[]), 1, &["not empty", "--resume"]);
    assert_eq!(std::fs::read_to_string(run.join("thesis.tex")).unwrap(), "precious");
}

#[test]
fn a_dry_run_shows_a_sample_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    check(
        &with(&run, &["--dry-run", "--decode"]),
        0,
        &["5 records", "[[", "image tokens", "memory", "plan: 6 steps", "in order"],
    );
    assert!(!run.exists());
}

/// Writes records as a JSON array, one a line, and runs with them.
fn bad_records(records: &[serde_json::Value], more: &[&str], code: i32, says: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.json");
    let lines: Vec<String> = records.iter().map(|r| r.to_string()).collect();
    std::fs::write(&file, format!("[\n{}\n]\n", lines.join(",\n"))).unwrap();
    let images = fixture("parity/records/images");
    std::fs::write(folder.path().join("broken.png"), "not a picture").unwrap();
    let model = fixture("parity/llava_gqa/model").display().to_string();
    let mut arguments: Vec<String> = [
        "--model",
        &model,
        "--data",
        &file.display().to_string(),
        "--images",
        &images.display().to_string(),
        &folder.path().display().to_string(),
        "--output",
        &folder.path().join("run").display().to_string(),
        "--device",
        "cpu",
        "--max-steps",
        "1",
    ]
    .iter()
    .map(|s| (*s).to_owned())
    .collect();
    arguments.extend(more.iter().map(|s| (*s).to_owned()));
    check(&arguments, code, says);
    if code == 0 {
        let page = std::fs::read_to_string(folder.path().join("run/report.html")).unwrap();
        assert!(page.contains("Records left out"), "the report does not say what was left out");
    }
}

fn record(image: Option<&str>, question: &str) -> serde_json::Value {
    let mut record = json!({"id": "a", "conversations": [
        {"from": "human", "value": question}, {"from": "gpt", "value": "An answer."}
    ]});
    if let Some(image) = image {
        record["image"] = image.into();
    }
    record
}

#[test]
fn bad_records_are_named_by_file_and_line() {
    let good = record(None, "What?");
    for (bad, says) in [
        (record(Some("nowhere.png"), "<image>\nWhat?"), "nowhere.png"),
        (record(Some("broken.png"), "<image>\nWhat?"), "broken.png"),
        (record(None, "<image>\nWhat?"), "<image>"),
        (json!({"id": "a", "conversations": [{"from": "robot", "value": "Hi"}]}), "robot"),
        (
            json!({"id": "a", "conversations": [
                {"from": "human", "value": "Hi"}, {"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}
            ]}),
            "alternate",
        ),
        (json!({"id": "a"}), "conversations"),
        (json!({"id": "a", "conversations": "Hi"}), "conversations"),
    ] {
        bad_records(&[good.clone(), bad.clone()], &[], 1, &["bad.json:3", says, "data.bad_record=skip"]);
        bad_records(&[good.clone(), bad], &["--set", "data.bad_record=skip"], 0, &["skipped"]);
    }
}

#[test]
fn malformed_files_are_refused_with_their_line() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    for (name, content, says) in [
        ("empty.json", "", "empty.json"),
        ("object.json", "{}", "object.json"),
        ("cut.json", "[\n{\"id\": 1, \"conv", "cut.json:2"),
        ("bad.jsonl", "{\"id\": 1\n", "bad.jsonl:1"),
    ] {
        let file = folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        let mut arguments = tiny(&run);
        let at = arguments.iter().position(|a| a == "--data").unwrap() + 1;
        arguments[at] = file.display().to_string();
        check(&arguments, 1, &[says]);
        assert!(!run.exists(), "a refused run must not leave a folder");
    }
}

#[test]
fn a_missing_model_or_another_family_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut arguments = tiny(&run);
    arguments[1] = folder.path().join("nowhere").display().to_string();
    check(&arguments, 1, &["nowhere", "there is no such folder"]);
    arguments[1] = fixture("parity/llama_text/model").display().to_string();
    check(&arguments, 1, &["language model alone", "vision.from"]);
}

#[test]
fn a_model_put_together_from_parts_is_saved_whole_and_scores() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let mut arguments = with(&run, &["--max-steps", "1"]);
    arguments[1] = fixture("parity/llama_text/model").display().to_string();
    let clip = fixture("parity/clip_plain/model");
    arguments.extend(["--set".to_owned(), format!("vision.from={}", clip.display())]);
    check(&arguments, 0, &["model: "]);
    let scores = folder.path().join("scores.jsonl");
    let records = fixture("parity/records");
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_score"))
        .args(["--model".as_ref(), run.join("final").as_os_str()])
        .args(["--data".as_ref(), records.join("data.json").as_os_str()])
        .args(["--images".as_ref(), records.join("images").as_os_str()])
        .args(["--output".as_ref(), scores.as_os_str()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(std::fs::read_to_string(scores).unwrap().lines().count(), 5);
}

#[test]
fn an_adapters_own_file_decides_its_shape() {
    let folder = tempfile::tempdir().unwrap();
    let adapter = fixture("parity/peft_lora/adapter").display().to_string();
    let more = ["--adapter", &adapter, "--set", "adapter.lora_dropout=0", "--max-steps", "1"];
    check(&with(&folder.path().join("agrees"), &more), 0, &[]);
    let more = [&more[..], &["--set", "adapter.r=5"]].concat();
    check(&with(&folder.path().join("differs"), &more), 2, &["adapter.r is 5", "says 4"]);
}

#[test]
fn settings_that_would_do_nothing_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let says = ["vision_tower_learning_rate", "train.vision_tower=true"];
    check(&with(&run, &["--set", "train.vision_tower_learning_rate=1"]), 2, &says);
    check(&with(&run, &["--set", "adapter.target_modules=q_proj,zzz"]), 1, &["zzz", "self_attn.q_proj"]);
}

/// Without the setting that `--auto-batch` chooses.
fn unsized_batches(output: &Path, more: &[&str]) -> Vec<String> {
    let mut arguments = with(output, more);
    let at = arguments.iter().position(|a| a.starts_with("train.per_device_train_batch_size")).unwrap();
    arguments.drain(at - 1..=at);
    arguments
}

#[test]
fn auto_batch_chooses_once_and_is_refused_where_it_would_change_the_loss() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    check(&with(&run, &["--auto-batch"]), 2, &["train.per_device_train_batch_size", "leave one out"]);
    let small = unsized_batches(&run, &["--auto-batch", "--memory-limit", "1MiB"]);
    check(&small, 1, &["memory: peak", "of 1.0 MiB available", "would need more memory", "--memory-limit"]);
    check(&unsized_batches(&run, &["--memory-limit", "12"]), 2, &["a size needs a unit"]);
    assert!(!run.exists(), "a run that does not fit must not leave a folder");

    let chosen = "auto-batch: 8 × 1 records";
    check(&unsized_batches(&run, &["--auto-batch", "--memory-limit", "64GiB", "--max-steps", "1"]), 0, &[chosen]);
    let config = std::fs::read_to_string(run.join("config.json")).unwrap();
    assert!(config.contains("--auto-batch"), "{config}");
    // Another time there may be less: the run keeps what it began with.
    let again = ["--auto-batch", "--memory-limit", "1MiB", "--max-steps", "1", "--resume"];
    check(&unsized_batches(&run, &again), 0, &["8 × 1 records, as the run began", "is finished"]);
    check(&unsized_batches(&run, &["--max-steps", "1", "--resume"]), 1, &["auto_batch was"]);

    let output = super::program("kto").args(["--dry-run", "--auto-batch", "--device", "cpu"]).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("looks at all records of a micro-batch together"), "{said}");
}

#[test]
fn a_dry_run_shows_what_is_kept_of_a_record_and_looks_at_the_reference() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let shorter = ["--dry-run", "--set", "data.max_tokens_count=80"];
    check(&with(&run, &shorter), 0, &["memory: peak", "moments", "cut to 80 of 81 tokens"]);
    let missing = folder.path().join("nothing").display().to_string();
    for (kind, key) in [("stored", "reference.path"), ("frozen_copy", "reference.from")] {
        let sets = [format!("reference.kind={kind}"), format!("{key}={missing}")];
        let arguments = ["--dry-run", "--device", "cpu", "--set", &sets[0], "--set", &sets[1]];
        let output = super::program("dpo").args(arguments).output().unwrap();
        let said = text(&output);
        assert!(!output.status.success() && said.contains("nothing"), "{kind}: {said}");
        assert!(!said.contains("panicked"), "{said}");
    }
}
