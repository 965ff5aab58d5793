//! `sample_random`, `sample_by_reward` and `sample_rso` as programs.

use super::{program, text};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const RECIPES: [(&str, &[&str]); 4] = [
    ("sample_random", &["--num-samples", "3"]),
    ("sample_by_reward", &["--choose", "best-worst", "--num-samples", "4"]),
    ("sample_by_reward", &["--choose", "best-nth", "--num-samples", "3"]),
    ("sample_rso", &["--num-samples", "4", "--beta", "0.7", "--pairing", "tournament"]),
];

fn record(id: usize) -> Value {
    let answer =
        |n: usize| json!({"id": n.to_string(), "content": format!("answer {n} to {id}"), "sequence_score": -1.5});
    let reward = |n: usize| (n.to_string(), json!(((id * 7 + n * 5) % 11) as f64 / 4.0));
    json!({
        "id": id.to_string(), "dataset_name": "made", "messages": [{"role": "user", "content": format!("question {id}")}],
        "meta": {"kept": true}, "answers": (0..6).map(answer).collect::<Vec<_>>(),
        "rewards": (0..6).map(reward).collect::<serde_json::Map<_, _>>(),
    })
}

fn written(file: &Path, records: &[Value]) {
    std::fs::write(file, records.iter().map(|record| format!("{record}\n")).collect::<String>()).unwrap();
}

/// Runs a recipe with `--output out.jsonl --pairs pairs.jsonl`, and takes what it wrote.
#[track_caller]
fn run(name: &str, folder: &Path, more: &[&str], threads: &str, code: i32) -> (String, Vec<Value>, Vec<Value>) {
    let (output, pairs) = (folder.join("out.jsonl"), folder.join("pairs.jsonl"));
    let mut recipe = program(name);
    recipe
        .env("RAYON_NUM_THREADS", threads)
        .arg("--predictions")
        .arg(folder.join("p.jsonl"))
        .arg("--output")
        .arg(&output);
    let ran = recipe.arg("--pairs").arg(&pairs).args(more).output().unwrap();
    let said = text(&ran);
    assert_eq!(ran.status.code(), Some(code), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    let taken = |path: &PathBuf| -> Vec<Value> {
        let lines = std::fs::read_to_string(path).unwrap_or_default();
        let _ = std::fs::remove_file(path);
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    (said, taken(&output), taken(&pairs))
}

#[test]
fn a_record_s_draw_is_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.jsonl");
    let records: Vec<Value> = (0..40).map(record).collect();
    for (name, more) in RECIPES {
        written(&file, &records);
        let (said, all, pairs) = run(name, folder.path(), more, "1", 0);
        assert!(said.contains("to 40 of 40 records") && said.contains(&format!("{} pairs", pairs.len())), "{said}");
        assert_eq!((all.len(), pairs.is_empty()), (40, false));
        assert_eq!(run(name, folder.path(), more, "4", 0), (said, all.clone(), pairs.clone()), "on four threads");
        // Every third record alone, last one first.
        let some: Vec<Value> = records.iter().rev().step_by(3).cloned().collect();
        written(&file, &some);
        let (_, fewer, _) = run(name, folder.path(), more, "2", 0);
        let expected: Vec<Value> = all.iter().rev().step_by(3).cloned().collect();
        assert_eq!(fewer, expected, "{name}");
        let (_, other, _) = run(name, folder.path(), &[more, &["--seed", "5"]].concat(), "2", 0);
        assert_eq!(other == fewer, name == "sample_by_reward", "{name}: rewards leave nothing to chance");
    }
}

#[test]
fn what_is_written_is_the_record_with_its_choice_and_pairs_that_prefer_the_higher_reward() {
    let folder = tempfile::tempdir().unwrap();
    written(&folder.path().join("p.jsonl"), &(0..12).map(record).collect::<Vec<_>>());
    for (name, more) in RECIPES {
        let (_, records, pairs) = run(name, folder.path(), more, "2", 0);
        for (i, chosen) in records.iter().enumerate() {
            let whole = record(i);
            let answers = chosen["answers"].as_array().unwrap();
            assert!(answers.iter().all(|answer| whole["answers"].as_array().unwrap().contains(answer)), "{chosen}");
            let rewards = chosen["rewards"].as_object().unwrap();
            assert_eq!(rewards.len(), answers.len());
            assert!(
                answers
                    .iter()
                    .all(|one| rewards[one["id"].as_str().unwrap()] == whole["rewards"][one["id"].as_str().unwrap()])
            );
            for key in ["id", "dataset_name", "messages", "meta"] {
                assert_eq!(chosen[key], whole[key]);
            }
        }
        for pair in &pairs {
            let id: usize = pair["id"].as_str().unwrap().split('-').next().unwrap().parse().unwrap();
            assert_eq!(pair["context"], record(id)["messages"]);
            let reward = |key: &str| {
                let number = pair[key]["content"].as_str().unwrap().split(' ').nth(1).unwrap().to_owned();
                record(id)["rewards"][number].as_f64().unwrap()
            };
            let margin = reward("answer_w") - reward("answer_l");
            assert!(margin > 0.0 && (pair["precomputed_margin"].as_f64().unwrap() - margin).abs() < 1e-12, "{pair}");
        }
    }
    let (_, best, _) = run("sample_by_reward", folder.path(), &["--choose", "best", "-n", "1"], "2", 0);
    let highest =
        |record: &Value| record.as_object().unwrap().values().filter_map(Value::as_f64).fold(f64::MIN, f64::max);
    for (i, chosen) in best.iter().enumerate() {
        assert_eq!(highest(&chosen["rewards"]), highest(&record(i)["rewards"]));
    }
}

#[test]
fn what_cannot_be_chosen_from_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.jsonl");
    let refused = |name: &str, records: &[Value], more: &[&str], code: i32, says: &str| {
        written(&file, records);
        let (said, ..) = run(name, folder.path(), more, "2", code);
        assert!(said.contains(says), "{says:?} is not in:\n{said}");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind: {said}");
    };
    let good = record(0);
    let mut without = record(1);
    without["rewards"].as_object_mut().unwrap().remove("4");
    refused(
        "sample_rso",
        &[good.clone(), without],
        &["-n", "2"],
        1,
        "p.jsonl:2, record `1`: `rewards` has none for the answer `4`",
    );
    refused(
        "sample_random",
        &[good.clone(), good.clone()],
        &["-n", "2"],
        1,
        "p.jsonl:2, record `0`: a record of this id and data set stands at",
    );
    refused(
        "sample_random",
        std::slice::from_ref(&good),
        &["-n", "7"],
        1,
        "p.jsonl:1, record `0`: answers to choose from: 6, wanted: 7",
    );
    refused(
        "sample_random",
        std::slice::from_ref(&good),
        &["-n", "7", "--few", "skip"],
        1,
        "every record has fewer answers",
    );
    for (name, more, says) in [
        ("sample_rso", &["-n", "2", "--beta", "0"][..], "above 0"),
        ("sample_rso", &[], "--num-samples"),
        ("sample_random", &["-n", "0"], "at least 1"),
        ("sample_by_reward", &["-n", "1"], "two answers at least"),
        ("sample_by_reward", &["--choose", "middle"], "best-nth"),
        ("sample_random", &["-n", "2", "--min-margin", "-1"], "at least 0"),
    ] {
        refused(name, std::slice::from_ref(&good), more, 2, says);
    }
    let output = folder.path().join("out.jsonl");
    std::fs::write(&output, "precious").unwrap();
    let mut recipe = program("sample_random");
    recipe.arg("--predictions").arg(&file).arg("--output").arg(&output).args(["-n", "2"]);
    let ran = recipe.output().unwrap();
    assert!(ran.status.code() == Some(1) && text(&ran).contains("holds something already"), "{}", text(&ran));
    assert_eq!(std::fs::read_to_string(&output).unwrap(), "precious");
}
