//! Recipes as programs: the command line, bad input, resuming, killing.

mod alignment;
mod chat;
mod cli;
mod evaluate;
mod infer;
mod memory_settings;
mod packing;
mod prompt_learning;
mod resume;
mod sampling;
mod stages;
mod tools;
mod watching;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A file of the committed fixtures.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// `llava_sft`, with nothing inherited that would change what it prints.
pub fn llava_sft() -> Command {
    program("llava_sft")
}

/// A recipe, with nothing inherited that would change what it prints.
pub fn program(name: &str) -> Command {
    let binary = match name {
        "chat" => env!("CARGO_BIN_EXE_chat"),
        "convert" => env!("CARGO_BIN_EXE_convert"),
        "llava_pretrain" => env!("CARGO_BIN_EXE_llava_pretrain"),
        "llava_sft" => env!("CARGO_BIN_EXE_llava_sft"),
        "llava_sft_full" => env!("CARGO_BIN_EXE_llava_sft_full"),
        "merge" => env!("CARGO_BIN_EXE_merge"),
        "score" => env!("CARGO_BIN_EXE_score"),
        "serve" => env!("CARGO_BIN_EXE_serve"),
        "sft" => env!("CARGO_BIN_EXE_sft"),
        "dpo" => env!("CARGO_BIN_EXE_dpo"),
        "infer_chat" => env!("CARGO_BIN_EXE_infer_chat"),
        "infer_classification" => env!("CARGO_BIN_EXE_infer_classification"),
        "infer_multimodal" => env!("CARGO_BIN_EXE_infer_multimodal"),
        "infer_reward" => env!("CARGO_BIN_EXE_infer_reward"),
        "kto" => env!("CARGO_BIN_EXE_kto"),
        "reward_model" => env!("CARGO_BIN_EXE_reward_model"),
        "classification" => env!("CARGO_BIN_EXE_classification"),
        "vlm_dpo" => env!("CARGO_BIN_EXE_vlm_dpo"),
        "vlm_reward_model" => env!("CARGO_BIN_EXE_vlm_reward_model"),
        "distill" => env!("CARGO_BIN_EXE_distill"),
        "preprocess_reference" => env!("CARGO_BIN_EXE_preprocess_reference"),
        "vlm_preprocess_reference" => env!("CARGO_BIN_EXE_vlm_preprocess_reference"),
        "combine" => env!("CARGO_BIN_EXE_combine"),
        "evaluate" => env!("CARGO_BIN_EXE_evaluate"),
        "sample_random" => env!("CARGO_BIN_EXE_sample_random"),
        "sample_by_reward" => env!("CARGO_BIN_EXE_sample_by_reward"),
        "sample_rso" => env!("CARGO_BIN_EXE_sample_rso"),
        other => panic!("no recipe {other}"),
    };
    let mut command = Command::new(binary);
    command.env_remove("FIREBRICK_FAULT_AT").env_remove("FIREBRICK_FAULT_COUNT").env("NO_COLOR", "1");
    command
}

/// Arguments for a tiny real checkpoint and data set.
pub fn tiny(output: &Path) -> Vec<String> {
    let model = fixture("parity/llava_gqa/model");
    let records = fixture("parity/records");
    let mut arguments: Vec<String> = Vec::new();
    for (flag, value) in [
        ("--model", model),
        ("--data", records.join("data.json")),
        ("--eval-data", records.join("data.json")),
        ("--images", records.join("images")),
        ("--output", output.to_owned()),
    ] {
        arguments.push(flag.to_owned());
        arguments.push(value.display().to_string());
    }
    for set in [
        "train.per_device_train_batch_size=2",
        "train.save_steps=2",
        "train.eval_steps=2",
        "train.logging_steps=1",
        "train.eval_generate=0",
        "train.max_new_tokens=4",
        "train.max_steps=6",
        "train.weight_decay=0.1",
        // Drawn anew in each step, so that a resumed run that drew otherwise would show.
        "adapter.lora_dropout=0.3",
    ] {
        arguments.push("--set".to_owned());
        arguments.push(set.to_owned());
    }
    arguments.extend(["--device".to_owned(), "cpu".to_owned()]);
    arguments
}

/// What a program printed, for assertions and their messages.
pub fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
