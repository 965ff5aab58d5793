//! LLaVA's two stages: what the first one leaves, the second one starts from.

use super::{fixture, program, text};
use firebrick::checkpoint::Shards;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs a recipe on a language model and a tower of their own.
fn train(name: &str, output: &Path, set: &[&str]) -> Output {
    command(name, output, set).output().unwrap()
}

fn command(name: &str, output: &Path, set: &[&str]) -> Command {
    let records = fixture("parity/records");
    let mut command = program(name);
    for (flag, path) in [
        ("--model", fixture("parity/llama_text/model")),
        ("--data", records.join("data.json")),
        ("--eval-data", records.join("data.json")),
        ("--images", records.join("images")),
        ("--output", output.to_owned()),
    ] {
        command.arg(flag).arg(path);
    }
    command.arg("--set").arg(format!("vision.from={}", fixture("parity/clip_plain/model").display()));
    let settings = [
        "train.per_device_train_batch_size=2",
        "train.per_device_eval_batch_size=2",
        "train.gradient_accumulation_steps=1",
        "train.save_steps=100",
        "train.eval_steps=3",
        "train.eval_on_start=true",
        "train.eval_generate=0",
        "train.logging_steps=1",
        "train.max_steps=3",
        "train.report_to=none",
        "data.template=v1",
    ];
    for setting in settings.iter().chain(set) {
        command.args(["--set", setting]);
    }
    command.args(["--device", "cpu"]);
    command
}

/// The held-out losses of a run, in order.
fn held_out(run: &Path) -> Vec<f64> {
    let log = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    log.lines().filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["eval_loss"].as_f64()).collect()
}

fn succeeded(output: Output) -> String {
    assert!(output.status.success(), "{}", text(&output));
    text(&output)
}

fn refused(output: Output, says: &[&str]) {
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(says.iter().all(|needle| said.contains(needle)), "{said}");
}

fn from(path: PathBuf) -> String {
    format!("projector.from={}", path.display())
}

#[test]
fn the_second_stage_goes_on_from_the_firsts_projector() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    let said = succeeded(train("llava_pretrain", &first, &[]));
    assert!(said.contains("trained: projector"), "{said}");
    let left = Shards::open_file(&first.join("final/mm_projector.safetensors")).unwrap();
    let mut names: Vec<&str> = left.names().collect();
    names.sort();
    assert_eq!(names, ["0.bias", "0.weight", "2.bias", "2.weight"].map(|rest| format!("model.mm_projector.{rest}")));
    let losses = held_out(&first);
    assert!(losses[1] < losses[0], "{losses:?}");

    // An adapter does nothing before its first step: what was lost at the end is lost at the start.
    let second = folder.path().join("second");
    succeeded(train("llava_sft", &second, &[&from(first.join("final"))]));
    assert!((held_out(&second)[0] - losses[1]).abs() < 1e-6, "{losses:?}, {:?}", held_out(&second));
    // Of its file too; a fresh projector starts elsewhere.
    let third = folder.path().join("third");
    succeeded(train("llava_sft_full", &third, &[&from(first.join("final/mm_projector.safetensors"))]));
    assert!((held_out(&third)[0] - losses[1]).abs() < 1e-6);
    let fresh = folder.path().join("fresh");
    succeeded(train("llava_sft", &fresh, &[]));
    assert!((held_out(&fresh)[0] - losses[1]).abs() > 1e-3);

    refused(train("llava_sft", &folder.path().join("none"), &["projector.from=nowhere"]), &["nowhere"]);
    assert!(!folder.path().join("none").exists());
}

#[test]
fn start_and_end_tokens_are_trained_saved_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let first = folder.path().join("first");
    let said = succeeded(train("llava_pretrain", &first, &["image.start_end=true", "train.weight_decay=0.1"]));
    assert!(said.contains("start and end tokens"), "{said}");
    let left = Shards::open_file(&first.join("final/mm_projector.safetensors")).unwrap();
    let rows = left.get("model.embed_tokens.weight").expect("the rows of the new tokens");
    let values = rows.to_f32().unwrap();
    let (start, end) = values.split_at(values.len() / 2);
    assert_eq!(rows.shape[0], 2);
    // Both started as the mean of the table.
    assert_ne!(start, end);
    let config: Value = serde_json::from_slice(&std::fs::read(first.join("final/config.json")).unwrap()).unwrap();
    assert_eq!(config["mm_use_im_start_end"], true);
    let losses = held_out(&first);

    // The folder says by itself that it was trained with them.
    for (recipe, name) in [("llava_sft", "lora"), ("llava_sft_full", "full")] {
        let second = folder.path().join(name);
        succeeded(train(recipe, &second, &[&from(first.join("final"))]));
        let again = held_out(&second);
        assert!((again[0] - losses[1]).abs() < 1e-6, "{recipe}: {losses:?}, {again:?}");
        // No folder but this one has the rows: the model is saved whole, and needs nothing but itself.
        let third = folder.path().join(format!("{name}_again"));
        let mut command = program("llava_sft");
        let records = fixture("parity/records");
        let images = records.join("images");
        command.arg("--model").arg(second.join("final")).arg("--data").arg(records.join("data.json"));
        command.arg("--eval-data").arg(records.join("data.json")).arg("--images").arg(images);
        command.arg("--output").arg(&third).args(["--max-steps", "1", "--device", "cpu"]);
        for set in ["train.eval_on_start=true", "train.eval_generate=0", "train.report_to=none", "data.template=v1"] {
            command.args(["--set", set]);
        }
        command.args(["--set", "train.per_device_eval_batch_size=2"]);
        succeeded(command.output().unwrap());
        let last = again[again.len() - 1];
        assert!((held_out(&third)[0] - last).abs() < 1e-5, "{recipe}: {again:?}, {:?}", held_out(&third));
    }

    let none = folder.path().join("none");
    let without = train("llava_sft", &none, &[&from(first.join("final")), "image.start_end=false"]);
    refused(without, &["model.embed_tokens.weight", "image.start_end=true"]);
    assert!(!none.exists());
}

#[test]
fn a_first_stage_with_start_and_end_tokens_resumes_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let set = ["image.start_end=true", "train.save_steps=2", "train.save_total_limit=9"];
    let (whole, broken) = (folder.path().join("whole"), folder.path().join("broken"));
    succeeded(train("llava_pretrain", &whole, &set));
    succeeded(train("llava_pretrain", &broken, &set));
    // As a crash between the last checkpoint and the end leaves it.
    std::fs::remove_dir_all(broken.join("final")).unwrap();
    std::fs::remove_dir_all(broken.join("checkpoint-3")).unwrap();
    std::fs::remove_file(broken.join("report.html")).unwrap();
    succeeded(command("llava_pretrain", &broken, &set).arg("--resume").output().unwrap());
    let file = "final/mm_projector.safetensors";
    assert_eq!(std::fs::read(whole.join(file)).unwrap(), std::fs::read(broken.join(file)).unwrap());
}

#[test]
fn what_no_folder_says_is_not_left_to_an_adapter() {
    let folder = tempfile::tempdir().unwrap();
    // Another layer than the base's configuration names: an adapter alone would be read with the base's.
    let run = folder.path().join("run");
    let records = fixture("parity/records");
    let model = fixture("parity/llava_gqa/model");
    let mut command = program("llava_sft");
    command.arg("--model").arg(&model).arg("--data").arg(records.join("data.json"));
    command.arg("--eval-data").arg(records.join("data.json")).arg("--images").arg(records.join("images"));
    command.arg("--output").arg(&run).args(["--max-steps", "2", "--device", "cpu", "--set", "vision.select_layer=-1"]);
    for set in ["train.eval_generate=0", "train.report_to=none"] {
        command.args(["--set", set]);
    }
    succeeded(command.output().unwrap());
    assert!(!run.join("final/adapter_config.json").exists());
    let config: Value = serde_json::from_slice(&std::fs::read(run.join("final/config.json")).unwrap()).unwrap();
    assert_eq!(config["vision_feature_layer"], -1);

    // A projector is not put on other features than it was trained on, unless its own folder says so.
    let first = folder.path().join("first");
    succeeded(train("llava_pretrain", &first, &["vision.select_layer=-1"]));
    let second = folder.path().join("second");
    succeeded(train("llava_sft", &second, &[&from(first.join("final"))]));
    assert!((held_out(&second)[0] - held_out(&first)[1]).abs() < 1e-6);
    let third = folder.path().join("third");
    let other = train("llava_sft", &third, &[&from(first.join("final")), "vision.select_layer=-2"]);
    refused(other, &["vision_feature_layer = -1", "here it is -2"]);
    assert!(!third.exists());
}

#[test]
fn a_run_that_learns_nothing_is_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let records = fixture("parity/records");
    let whole = std::fs::read(records.join("images/ridge.png")).unwrap();
    // The header is sound, so that only decoding shows it.
    std::fs::write(folder.path().join("a.png"), &whole[..whole.len() / 2]).unwrap();
    let turns = r#"[{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A ridge."}]"#;
    let data = folder.path().join("data.json");
    std::fs::write(&data, format!(r#"[{{"id": "a", "image": "a.png", "conversations": {turns}}}]"#)).unwrap();
    let run = folder.path().join("run");
    let mut command = program("llava_sft");
    command.arg("--model").arg(fixture("parity/llava_gqa/model")).arg("--data").arg(&data);
    command.arg("--images").arg(folder.path()).arg("--output").arg(&run);
    command.args(["--device", "cpu", "--max-steps", "2", "--set", "data.bad_record=skip"]);
    refused(command.output().unwrap(), &["nothing is trained", "left out"]);
    assert!(!run.join("final").exists());
}
