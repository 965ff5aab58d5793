//! Several records in one row, and batches of like length.

use super::resume::bits;
use super::{fixture, llava_sft, program, text, tiny};
use serde_json::json;
use std::path::Path;
use std::process::Output;

/// `sft` on the tiny text model and 30 chats of 1 to 37 words.
pub fn sft(folder: &Path, run: &Path, more: &[&str], fault: Option<(&str, String)>) -> Output {
    let data = folder.join("chats.jsonl");
    let chat = |i: usize| {
        let question = "word ".repeat(1 + i * 7 % 10 * 4);
        json!({"messages": [{"role": "user", "content": question}, {"role": "bot", "content": format!("answer {i}")}]})
    };
    let lines: Vec<String> = (0..30).map(|i| chat(i).to_string()).collect();
    std::fs::write(&data, lines.join("\n")).unwrap();
    let mut command = program("sft");
    for (flag, value) in
        [("--model", &fixture("parity/llama_text/model")), ("--data", &data), ("--output", &run.into())]
    {
        command.arg(flag).arg(value);
    }
    for set in [
        "data.template=v1",
        "data.max_tokens_count=500",
        "train.per_device_train_batch_size=2",
        "train.num_train_epochs=2",
        "train.save_steps=2",
        "train.logging_steps=1",
        "adapter.lora_dropout=0.3",
    ] {
        command.args(["--set", set]);
    }
    command.args(["--device", "cpu"]).args(more);
    if let Some((key, value)) = fault {
        command.env(key, value);
    }
    command.output().unwrap()
}

pub fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}", text(output));
    text(output)
}

#[test]
fn packed_rows_are_planned_and_a_killed_run_resumes_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let (run, count) = (folder.path().join("run"), folder.path().join("count"));
    let packed = ["--set", "train.packing=true"];
    let counted = Some(("FIREBRICK_FAULT_COUNT", count.display().to_string()));
    let plan = said(&sft(folder.path(), &run, &packed, counted));
    assert!(plan.contains("of which 30 records are packed") && plan.contains("% padding ("), "{plan}");
    let expected = bits(&run);
    let points = std::fs::read_to_string(&count).unwrap().lines().count();
    for point in [points / 4, points / 2, points * 3 / 4] {
        let run = folder.path().join(format!("crash-{point}"));
        let crashed = sft(folder.path(), &run, &packed, Some(("FIREBRICK_FAULT_AT", point.to_string())));
        assert!(crashed.status.code().is_none(), "point {point} did not abort: {}", text(&crashed));
        said(&sft(folder.path(), &run, &["--set", "train.packing=true", "--resume"], None));
        assert_eq!(bits(&run), expected, "after a crash at point {point}");
    }
}

#[test]
fn batches_of_like_length_have_less_padding() {
    let folder = tempfile::tempdir().unwrap();
    let bucketed = ["--dry-run", "--set", "train.sampler=bucketed"];
    let plan = said(&sft(folder.path(), &folder.path().join("run"), &bucketed, None));
    let line = plan.lines().find(|line| line.starts_with("plan:")).unwrap();
    let shares: Vec<f64> = line.split('%').filter_map(|part| part.rsplit([' ', '(']).next()?.parse().ok()).collect();
    assert!(shares.len() == 2 && shares[0] < shares[1], "{line}");
}

#[test]
fn packing_is_refused_where_it_would_do_nothing_or_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let refused = |output: &Output, says: &str| {
        assert_eq!(output.status.code(), Some(2), "{}", text(output));
        assert!(text(output).contains(says) && text(output).contains("packing"), "{}", text(output));
    };
    refused(&llava_sft().args(tiny(&run)).args(["--set", "train.packing=true"]).output().unwrap(), "vision encoder");
    let both = ["--set", "train.packing=true", "--set", "train.sampler=bucketed"];
    refused(&sft(folder.path(), &run, &both, None), "leave one of the two out");
    let pairs = program("dpo").args(["--set", "train.packing=true", "--dry-run"]).output().unwrap();
    refused(&pairs, "several rows");
}
