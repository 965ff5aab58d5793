//! A run that was killed anywhere and resumed has the bits of one that was not.

use super::{llava_sft, text, tiny};
use serde_json::{Map, Value};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Columns that tell the time, which no two runs share.
const TIMES: &[&str] = &["tokens_per_second", "eval_seconds"];

/// What a run leaves that does not tell the time: adapter bytes, and metrics.
#[derive(Debug, PartialEq)]
pub struct Bits {
    adapter: Vec<u8>,
    metrics: Vec<Map<String, Value>>,
}

pub fn bits(run: &Path) -> Bits {
    let adapter = std::fs::read(run.join("final/adapter_model.safetensors")).unwrap();
    let log = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let metrics = log
        .lines()
        .map(|line| {
            let mut row: Map<String, Value> = serde_json::from_str(line).unwrap();
            row.retain(|key, _| !TIMES.contains(&key.as_str()));
            row
        })
        .collect();
    Bits { adapter, metrics }
}

fn unbroken(folder: &Path) -> Bits {
    let run = folder.join("unbroken");
    let output = llava_sft().args(tiny(&run)).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    bits(&run)
}

fn resume(run: &Path) -> String {
    let output = llava_sft().args(tiny(run)).arg("--resume").output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

#[test]
fn every_crash_resumes_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let expected = unbroken(folder.path());
    let count = folder.path().join("count");
    let counted = folder.path().join("counted");
    let output = llava_sft().args(tiny(&counted)).env("FIREBRICK_FAULT_COUNT", &count).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let points = std::fs::read_to_string(&count).unwrap().lines().count();
    // Three checkpoints with their files, the log, settings, `final/` and the report.
    assert!(points > 100, "only {points} fault points: something is written past them");
    let next = AtomicUsize::new(1);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let point = next.fetch_add(1, Ordering::Relaxed);
                    if point > points {
                        return;
                    }
                    let run = folder.path().join(format!("crash-{point}"));
                    let crashed =
                        llava_sft().args(tiny(&run)).env("FIREBRICK_FAULT_AT", point.to_string()).output().unwrap();
                    assert!(crashed.status.code().is_none(), "point {point} did not abort: {}", text(&crashed));
                    resume(&run);
                    assert_eq!(bits(&run), expected, "after a crash at point {point}");
                    std::fs::remove_dir_all(&run).unwrap();
                }
            });
        }
    });
}

#[test]
fn a_damaged_checkpoint_is_noticed_and_the_one_before_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let expected = unbroken(folder.path());
    let run = folder.path().join("unbroken");
    std::fs::remove_dir_all(run.join("final")).unwrap();
    let newest = run.join("checkpoint-6/trainable.safetensors");
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).unwrap();
    let said = resume(&run);
    assert!(said.contains("checkpoint-6 is damaged") && said.contains("checkpoint-4"), "{said}");
    assert_eq!(bits(&run), expected);
}

#[test]
fn a_finished_run_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let output = llava_sft().args(tiny(&run)).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let before = bits(&run);
    let said = resume(&run);
    assert!(said.contains("is finished"), "{said}");
    assert_eq!(bits(&run), before);
}

#[test]
fn changed_settings_are_refused_by_key() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let output = llava_sft().args(tiny(&run)).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let changed = llava_sft()
        .args(tiny(&run))
        .args(["--resume", "--set", "train.learning_rate=0.5", "--set", "train.logging_steps=3"])
        .output()
        .unwrap();
    let said = text(&changed);
    assert_eq!(changed.status.code(), Some(1), "{said}");
    assert!(said.contains("train.learning_rate") && !said.contains("train.logging_steps"), "{said}");
}

/// Starts a run, waits until it has logged `rows` rows, and presses Ctrl-C.
#[cfg(unix)]
fn interrupted(run: &Path, arguments: &[String], rows: usize) -> Option<i32> {
    let mut child = llava_sft()
        .args(arguments)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let log = run.join("metrics.jsonl");
    let started = std::time::Instant::now();
    while std::fs::read_to_string(&log).map_or(0, |t| t.lines().count()) < rows {
        assert!(started.elapsed().as_secs() < 60, "the run never logged");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let signalled = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(signalled.success());
    child.wait().unwrap().code()
}

#[cfg(unix)]
fn newest_checkpoint(run: &Path) -> Option<usize> {
    let names = std::fs::read_dir(run).unwrap().map(|e| e.unwrap().file_name());
    names.filter_map(|name| name.to_str()?.strip_prefix("checkpoint-")?.parse().ok()).max()
}

#[cfg(unix)]
#[test]
fn ctrl_c_finishes_the_step_and_the_resumed_run_has_the_same_bits() {
    const STEPS: usize = 60;
    let folder = tempfile::tempdir().unwrap();
    let long = |run: &Path| {
        let mut arguments = tiny(run);
        arguments.extend(["--max-steps".to_owned(), STEPS.to_string()]);
        arguments
    };
    let unbroken = folder.path().join("unbroken");
    let output = llava_sft().args(long(&unbroken)).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    let expected = bits(&unbroken);
    for rows in [2, 9] {
        let run = folder.path().join(format!("run-{rows}"));
        assert_eq!(interrupted(&run, &long(&run), rows), Some(130));
        let step = newest_checkpoint(&run).expect("no checkpoint was written");
        assert!(step > 0 && step < STEPS, "interrupted at step {step}");
        let output = llava_sft().args(long(&run)).arg("--resume").output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        assert_eq!(bits(&run), expected, "interrupted after step {step}");
    }
}
