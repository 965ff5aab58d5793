//! PEFT's folders.

use super::files::{cut, edit, edit_tensors, fixture, set};
use super::program::Work;
use super::{Case, Program, check};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

const READERS: &[Program] = &[Program::TrainFrom, Program::ScoreAdapter, Program::Merge];

fn config(work: &Work) -> PathBuf {
    work.adapter().join("adapter_config.json")
}

fn weights(work: &Work) -> PathBuf {
    work.adapter().join("adapter_model.safetensors")
}

fn say(work: &Work, key: &str, value: Value) {
    set(&config(work), &format!("/{key}"), value);
}

#[test]
fn configurations_of_no_adapter() {
    const FILE: &str = "adapter_config.json";
    check(
        READERS,
        &[
            Case { name: "none", damage: |w| fs::remove_file(config(w)).unwrap(), says: &[FILE] },
            Case { name: "cut", damage: |w| cut(&config(w), 99), says: &[FILE] },
            Case { name: "a list", damage: |w| edit(&config(w), |c| *c = json!([1])), says: &[FILE] },
            Case { name: "another kind", damage: |w| say(w, "peft_type", json!("ADALORA")), says: &[FILE, "ADALORA"] },
            Case { name: "no rank", damage: |w| say(w, "r", json!(0)), says: &[FILE, "r", "at least 1"] },
            Case { name: "a negative rank", damage: |w| say(w, "r", json!(-4)), says: &[FILE, "-4"] },
            Case { name: "a rank in words", damage: |w| say(w, "r", json!("four")), says: &[FILE, "four"] },
            Case {
                name: "a rank beyond measure",
                damage: |w| say(w, "r", json!(1_000_000_000_000u64)),
                says: &["1000000000000"],
            },
            Case { name: "no targets", damage: |w| say(w, "target_modules", json!([])), says: &["target_modules"] },
            Case {
                name: "targets that are not there",
                damage: |w| say(w, "target_modules", json!(["zzz"])),
                says: &["zzz"],
            },
            Case {
                name: "a pattern that cannot be compiled",
                damage: |w| say(w, "target_modules", json!("(((")),
                says: &["(((", "target_modules"],
            },
            Case {
                name: "a pattern beyond measure",
                damage: |w| say(w, "target_modules", json!("(((a{1000}){1000}){1000})")),
                says: &["target_modules"],
            },
            Case {
                name: "a number of targets",
                damage: |w| say(w, "target_modules", json!(3)),
                says: &[FILE, "target_modules", "3"],
            },
            Case {
                name: "arithmetic of another adapter",
                damage: |w| say(w, "lora_bias", json!(true)),
                says: &[FILE, "lora_bias"],
            },
            Case {
                name: "an alpha in words",
                damage: |w| say(w, "lora_alpha", json!("big")),
                says: &[FILE, "lora_alpha", "big"],
            },
        ],
    );
}

#[test]
fn weights_of_another_adapter() {
    const FILE: &str = "adapter_model.safetensors";
    check(
        READERS,
        &[
            Case { name: "none", damage: |w| fs::remove_file(weights(w)).unwrap(), says: &["adapter", FILE] },
            Case { name: "cut", damage: |w| cut(&weights(w), 3000), says: &[FILE, "it is truncated"] },
            Case {
                name: "another rank",
                damage: |w| say(w, "r", json!(5)),
                says: &["adapter", "misshapen", "lora_A", "5"],
            },
            Case {
                name: "fewer tensors than targets",
                damage: |w| say(w, "target_modules", json!(["q_proj"])),
                says: &["adapter", "unexpected", "lora_A"],
            },
            Case {
                name: "a tensor nobody knows",
                damage: |w| {
                    edit_tensors(&weights(w), |file| {
                        let end = file.data.len();
                        file.data.extend([0; 4]);
                        file.header["base_model.model.surprise"] =
                            json!({"dtype": "F32", "shape": [1], "data_offsets": [end, end + 4]});
                    });
                },
                says: &["adapter", "unexpected", "base_model.model.surprise"],
            },
            Case {
                name: "a tensor under another name",
                damage: |w| {
                    edit_tensors(&weights(w), |file| {
                        let name = file.first();
                        let entry = file.header.as_object_mut().unwrap().shift_remove(&name).unwrap();
                        file.header[format!("{name}.other")] = entry;
                    });
                },
                says: &["adapter", "missing", ".other"],
            },
            Case {
                name: "not a number",
                damage: |w| {
                    edit_tensors(&weights(w), |file| {
                        let name = file.first();
                        file.bytes_of(&name)[..4].copy_from_slice(&f32::NAN.to_le_bytes());
                    });
                },
                says: &[FILE, "NaN"],
            },
            Case {
                name: "integers",
                damage: |w| {
                    edit_tensors(&weights(w), |file| {
                        let name = file.first();
                        file.header[&name]["dtype"] = json!("I32");
                    });
                },
                says: &[FILE, "of type I32"],
            },
        ],
    );
}

#[test]
fn an_adapter_that_calls() {
    fn pickled(work: &Work, file: &str) {
        fs::remove_file(weights(work)).unwrap();
        fs::copy(fixture("pickle/hostile").join(file), work.adapter().join("adapter_model.bin")).unwrap();
    }
    check(
        READERS,
        &[
            Case {
                name: "a function",
                damage: |w| pickled(w, "system.pt"),
                says: &["adapter_model.bin", "posix.system"],
            },
            Case { name: "an evaluation", damage: |w| pickled(w, "eval.pt"), says: &["adapter_model.bin", "eval"] },
        ],
    );
}
