//! Settings that make a run smaller: blocks that run again, the optimizer in the backward walk, moments and weights in fewer bits.

use super::packing::{said, sft};
use super::resume::bits;
use super::{fixture, llava_sft, program, text, tiny};

const AGAIN: &str = "train.gradient_checkpointing=true";
const NO_CLIP: &str = "train.max_grad_norm=0";

fn set(settings: &[&str]) -> Vec<String> {
    settings.iter().flat_map(|setting| ["--set".to_owned(), (*setting).to_owned()]).collect()
}

#[test]
fn blocks_run_again_and_steps_in_the_backward_walk_leave_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, settings: &[&str]| {
        let run = folder.path().join(name);
        let output = llava_sft().args(tiny(&run)).args(set(settings)).output().unwrap();
        assert!(output.status.success(), "{}", text(&output));
        bits(&run)
    };
    assert_eq!(run("again", &[AGAIN]), run("once", &[]), "adapters with dropout, images, accumulation");
    let walked = [AGAIN, NO_CLIP, "train.optimizer_in_backward=true", "train.gradient_accumulation_steps=1"];
    assert_eq!(run("walked", &walked), run("after", &[NO_CLIP, "train.gradient_accumulation_steps=1"]));
}

/// Kills a run of `sft` in the middle; the resumed one must have the bits of the unbroken one.
fn resumes(settings: &[&str]) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let (run, count) = (folder.path().join("run"), folder.path().join("count"));
    let settings = set(settings);
    let mut settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let counted = Some(("FIREBRICK_FAULT_COUNT", count.display().to_string()));
    let first = said(&sft(folder.path(), &run, &settings, counted));
    let expected = bits(&run);
    let point = std::fs::read_to_string(&count).unwrap().lines().count() / 2;
    let run = folder.path().join("crash");
    let crashed = sft(folder.path(), &run, &settings, Some(("FIREBRICK_FAULT_AT", point.to_string())));
    assert!(crashed.status.code().is_none(), "point {point} did not abort: {}", text(&crashed));
    settings.push("--resume");
    said(&sft(folder.path(), &run, &settings, None));
    assert_eq!(bits(&run), expected, "after a crash at point {point}");
    (folder, first)
}

#[test]
fn moments_in_8_bits_are_resumed_to_the_same_bits() {
    // Rank 64: the matrices are large enough for 8 bits.
    let (folder, _) = resumes(&["train.optim=adamw_8bit", "adapter.r=64"]);
    let newest = std::fs::read_dir(folder.path().join("crash")).unwrap().map(|entry| entry.unwrap().path());
    let newest = newest.filter(|path| path.to_string_lossy().contains("checkpoint-")).max().unwrap();
    let files = std::fs::read_dir(newest).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap());
    let holds = |file: Vec<u8>| file.windows(12).any(|bytes| bytes == b"first_codes\"");
    assert!(files.into_iter().any(holds), "no parameter was large enough");
}

#[test]
fn an_adapter_on_a_base_in_4_bits_is_resumed_to_the_same_bits() {
    let (_, said) = resumes(&["quantize.weights=nf4", "quantize.double_quant=true", AGAIN]);
    assert!(said.contains("quantized: ") && said.contains("nf4"), "{said}");
}

#[test]
fn moments_of_another_precision_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    said(&sft(folder.path(), &run, &["--max-steps", "2"], None));
    let other = sft(folder.path(), &run, &["--max-steps", "2", "--set", "train.optim=adamw_8bit", "--resume"], None);
    assert_eq!(other.status.code(), Some(1), "{}", text(&other));
    assert!(text(&other).contains("train.optim"), "{}", text(&other));
}

#[test]
fn what_would_do_nothing_or_cannot_be_obeyed_is_refused_with_both_names() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    let cases: [(&[&str], [&str; 2]); 7] = [
        (
            &["train.gradient_checkpointing_every=2"],
            ["gradient_checkpointing_every", "`gradient_checkpointing` is false"],
        ),
        (&["train.optimizer_in_backward=true"], ["optimizer_in_backward", "`gradient_checkpointing` is false"]),
        (&[AGAIN, "train.optimizer_in_backward=true"], ["optimizer_in_backward", "`max_grad_norm` is 1"]),
        (
            &[AGAIN, NO_CLIP, "train.optimizer_in_backward=true", "train.gradient_accumulation_steps=2"],
            ["optimizer_in_backward", "`gradient_accumulation_steps` is 2"],
        ),
        (&[AGAIN, "train.gradient_checkpointing_offload=true"], ["gradient_checkpointing_offload", "is the CPU"]),
        (&["train.optim=paged_adamw_8bit"], ["paged_adamw_8bit", "take adamw_8bit"]),
        (&["quantize.block_size=128"], ["block_size", "weights in 4 bits"]),
    ];
    for (settings, says) in cases {
        let settings = set(settings);
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let output = sft(folder.path(), &run, &settings, None);
        assert_eq!(output.status.code(), Some(2), "{settings:?}: {}", text(&output));
        for part in says {
            assert!(text(&output).contains(part), "{settings:?} {part}: {}", text(&output));
        }
        assert!(!run.exists(), "{settings:?} left a run folder");
    }
}

#[test]
fn a_plan_shows_what_a_setting_saves() {
    let folder = tempfile::tempdir().unwrap();
    let plan = |settings: &[&str]| -> String {
        let output = program("llava_sft_full")
            .args(["--model", &fixture("parity/llava_gqa/model").display().to_string(), "--dry-run"])
            .args(["--data", &fixture("parity/records/data.json").display().to_string()])
            .args(["--images", &fixture("parity/records/images").display().to_string(), "--device", "cpu"])
            .args(["--output", &folder.path().join("run").display().to_string()])
            .args(set(settings))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", text(&output));
        text(&output).lines().find(|line| line.starts_with("memory: ")).unwrap().to_owned()
    };
    let amount = |line: &str, of: &str| -> f64 {
        let (_, rest) = line.split_once(of).unwrap();
        let mut words = rest.split_whitespace();
        let number: f64 = words.next().unwrap().parse().unwrap();
        match words.next().unwrap().trim_end_matches(',') {
            "KiB" => number * 1024.0,
            "MiB" => number * 1_048_576.0,
            _ => number,
        }
    };
    let (plain, small) = (plan(&[]), plan(&[AGAIN, "train.optim=adamw_8bit"]));
    assert!(amount(&small, "activations ") < amount(&plain, "activations ") * 0.8, "{plain}\n{small}");
    assert!(amount(&small, "moments ") < amount(&plain, "moments "), "{plain}\n{small}");
}
