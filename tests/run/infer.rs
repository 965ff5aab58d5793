//! `infer_chat` and `infer_multimodal`: what they write is what the model says, and a killed run goes on to the same bytes.

use super::{fixture, program, text};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn infer(name: &str, model: &str, data: &Path, output: &Path, more: &[&str]) -> Command {
    let mut command = program(name);
    command.arg("--model").arg(fixture(model)).arg("--data").arg(data).arg("--output").arg(output);
    command.arg("--images").arg(fixture("parity/records/images")).args(["--device", "cpu"]).args(more);
    command
}

#[track_caller]
fn done(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    output
}

#[track_caller]
fn refused(mut command: Command, code: i32, expected: &[&str]) {
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", text(&output));
    for words in expected {
        assert!(text(&output).contains(words), "{words:?} is not in: {}", text(&output));
    }
    assert!(!text(&output).contains("panicked"), "{}", text(&output));
}

fn predictions(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What `chat` says to a question.
fn chat(model: &str, prompt: &str, images: &[&str]) -> String {
    let mut command = program("chat");
    command.arg("--model").arg(fixture(model)).args(["--prompt", prompt, "--max-new-tokens", "6", "--device", "cpu"]);
    if !images.is_empty() {
        let folder = fixture("parity/records/images");
        command.arg("--image").args(images.iter().map(|image| folder.join(image)));
    }
    String::from_utf8_lossy(&done(command).stdout).trim().to_owned()
}

fn settings(folder: &Path) -> Vec<PathBuf> {
    let all = [
        ("greedy.json", r#"{"max_new_tokens": 6}"#),
        ("beams.json", r#"{"max_new_tokens": 6, "num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5}"#),
        ("drawn.json", r#"{"max_new_tokens": 6, "do_sample": true, "top_k": 0, "num_return_sequences": 3, "seed": 3}"#),
    ];
    let write = |(name, json): (&str, &str)| {
        std::fs::write(folder.join(name), json).unwrap();
        folder.join(name)
    };
    all.into_iter().map(write).collect()
}

#[test]
fn a_killed_run_over_pictures_goes_on_to_the_same_bytes_and_says_what_chat_says() {
    let folder = tempfile::tempdir().unwrap();
    let data = fixture("parity/records/data.json");
    let files = settings(folder.path());
    let ways: Vec<&str> = files.iter().map(|file| file.to_str().unwrap()).collect();
    let more = [&["--logprobs", "--sequence-scores", "--save-every", "2", "--generation"], &ways[..]].concat();
    let model = "parity/llava_gqa/model";
    let run =
        |output: &Path, resume: &[&str]| infer("infer_multimodal", model, &data, output, &[resume, &more].concat());

    let whole = folder.path().join("whole");
    let printed = text(&done(run(&whole, &[])));
    assert!(printed.contains("5 records") && printed.contains("new tokens/s"), "{printed}");
    let expected = ["info.json", "model.beams.jsonl", "model.drawn.jsonl", "model.greedy.jsonl"];
    assert_eq!(names(&whole), expected);
    refused(run(&whole, &[]), 1, &["not empty", "--resume"]);

    // Kills: behind info.json, in the second chunk, between journal and file, between a file and the removal of its journal,
    // and in the second file.
    for fault in ["14", "26", "35", "41", "54"] {
        let killed = folder.path().join(fault);
        let mut command = run(&killed, &[]);
        assert!(!command.env("FIREBRICK_FAULT_AT", fault).output().unwrap().status.success());
        assert!(names(&killed).iter().any(|name| name.starts_with(".unfinished")), "{:?}", names(&killed));
        let changed = [&["--resume", "--set", "max_new_tokens=5"], &more[..]].concat();
        refused(infer("infer_multimodal", model, &data, &killed, &changed), 1, &["max_new_tokens: was 6, is 5"]);
        let elsewhere = fixture("parity/records/text.json");
        let changed = [&["--resume"], &more[..]].concat();
        refused(infer("infer_multimodal", model, &elsewhere, &killed, &changed), 1, &["data.fingerprint: was"]);
        done(run(&killed, &["--resume"]));
        assert_eq!(names(&killed), expected);
        for file in expected {
            assert_eq!(std::fs::read(killed.join(file)).unwrap(), std::fs::read(whole.join(file)).unwrap(), "{file}");
        }
    }
    assert!(text(&done(run(&whole, &["--resume"]))).contains("the run is finished"));

    let greedy = predictions(&whole.join("model.greedy.jsonl"));
    let ids: Vec<&str> = greedy.iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids, ["one-image", "two-images", "text-only", "many-turns", "multi-byte"]);
    let said = |index: usize| greedy[index]["answers"][0]["content"].as_str().unwrap();
    assert_eq!(said(0), chat(model, "<image>\nWhat is in this picture?", &["ridge.png"]));
    let two = "<image>\n<image>\nWhich of the two has discs?";
    assert_eq!(said(1), chat(model, two, &["discs.png", "stripes.png"]));
    assert_eq!(said(2), chat(model, "Name a prime number greater than ten.", &[]));
    assert_eq!((greedy[3]["messages"].as_array().unwrap().len(), &greedy[3]["label"]), (6, &"You are welcome!".into()));
    let beams = predictions(&whole.join("model.beams.jsonl"));
    for (beam, greedy) in beams.iter().zip(&greedy) {
        let scores: Vec<f64> =
            beam["answers"].as_array().unwrap().iter().map(|a| a["sequence_score"].as_f64().unwrap()).collect();
        assert!(scores.len() == 2 && scores[0] >= scores[1], "{scores:?}");
        let greedy = &greedy["answers"][0];
        let sum: f64 = greedy["logprobs"].as_array().unwrap().iter().map(|logprob| logprob.as_f64().unwrap()).sum();
        assert!((sum - greedy["sequence_score"].as_f64().unwrap()).abs() < 1e-5);
    }
    let drawn = predictions(&whole.join("model.drawn.jsonl"));
    let answers = drawn[0]["answers"].as_array().unwrap();
    assert!(answers.len() == 3 && answers[0]["content"] != answers[1]["content"], "{answers:?}");
}

#[test]
fn parts_of_a_file_of_chats_are_the_whole_and_bad_records_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let model = "parity/llama_text/model";
    let ask = |i: usize| {
        format!(r#"{{"id": "q{i}", "messages": [{{"role": "user", "content": "{}"}}]}}"#, "Why? ".repeat(i + 1))
    };
    let mut lines: Vec<String> = (0..5).map(ask).collect();
    let data = folder.path().join("chats.jsonl");
    std::fs::write(&data, lines.join("\n")).unwrap();
    let more = ["--set", "max_new_tokens=4", "--set", "do_sample=true", "--batch-size", "1"];
    let run = |output: &str, also: &[&str]| {
        infer("infer_chat", model, &data, &folder.path().join(output), &[&more[..], also].concat())
    };
    done(run("whole", &[]));
    done(run("parts", &["--shard", "1/2"]));
    done(run("parts", &["--shard", "2/2"]));
    let part = |name: &str| std::fs::read_to_string(folder.path().join("parts").join(name)).unwrap();
    let whole = std::fs::read_to_string(folder.path().join("whole/model.jsonl")).unwrap();
    assert_eq!(part("model.1-of-2.jsonl") + &part("model.2-of-2.jsonl"), whole);
    assert_eq!(whole.lines().count(), 5);
    // More parts than records: some are empty.
    done(run("many", &["--shard", "1/8"]));
    assert!(predictions(&folder.path().join("many/model.1-of-8.jsonl")).is_empty());
    refused(run("parts", &["--shard", "3/2"]), 2, &["counted from 1 to 2"]);
    refused(run("typed", &["--set", "temprature=1"]), 2, &["did you mean `temperature`"]);
    refused(run("typed", &["--format", "chats"]), 2, &["did you mean `chat`"]);
    refused(run("typed", &["--best-of", "4"]), 2, &["--reward-model"]);
    assert!(!folder.path().join("typed").exists());

    lines.insert(2, r#"{"id": "bad", "messages": [{"role": "nobody", "content": "?"}]}"#.to_owned());
    std::fs::write(&data, lines.join("\n")).unwrap();
    refused(run("bad", &[]), 1, &["chats.jsonl:3", "--bad-record skip"]);
    assert!(!folder.path().join("bad").exists());
    let skipped = text(&done(run("skipped", &["--bad-record", "skip"])));
    assert!(skipped.contains("6 records, 1 of them with an error"), "{skipped}");
    let found = predictions(&folder.path().join("skipped/model.jsonl"));
    assert!(found[2]["error"].as_str().unwrap().contains("nobody") && found[3].get("error").is_none());

    std::fs::write(&data, &lines[2]).unwrap();
    for more in [&["--bad-record", "skip"][..], &["--bad-record", "skip", "--resume"]] {
        refused(run("failed", more), 1, &["every record failed", "nobody", "--resume"]);
        assert_eq!(names(&folder.path().join("failed")), [".unfinished", "info.json"]);
    }
}
