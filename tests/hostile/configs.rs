//! `config.json` and the image processor's file.

use super::files::{cut, edit, nested, set};
use super::program::Work;
use super::{Case, Program, check};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// A dry run and a run of a tool: two ways through the code.
const READERS: &[Program] = &[Program::DryRun, Program::Chat];

fn config(work: &Work) -> PathBuf {
    work.model().join("config.json")
}

/// Sets a field of the language model.
fn text(work: &Work, key: &str, value: Value) {
    set(&config(work), &format!("/text_config/{key}"), value);
}

/// Sets a field of the tower.
fn vision(work: &Work, key: &str, value: Value) {
    set(&config(work), &format!("/vision_config/{key}"), value);
}

/// Sets a field of the image processor.
fn image(work: &Work, key: &str, value: Value) {
    set(&work.model().join("processor_config.json"), &format!("/image_processor/{key}"), value);
}

#[test]
fn files_that_are_no_configuration() {
    check(
        READERS,
        &[
            Case {
                name: "none",
                damage: |w| fs::remove_file(config(w)).unwrap(),
                says: &["config.json", "reading failed"],
            },
            Case { name: "empty", damage: |w| cut(&config(w), 0), says: &["config.json:1:0", "not valid JSON"] },
            Case { name: "cut", damage: |w| cut(&config(w), 700), says: &["config.json:", "not valid JSON"] },
            Case {
                name: "a list",
                damage: |w| fs::write(config(w), "[1]").unwrap(),
                says: &["config.json", "expected an object"],
            },
            Case {
                name: "nested without end",
                damage: |w| fs::write(config(w), nested(5_000_000)).unwrap(),
                says: &["config.json", "recursion limit"],
            },
            Case {
                name: "binary",
                damage: |w| fs::write(config(w), [0u8, 159, 146, 150, 255, 254].repeat(1000)).unwrap(),
                says: &["config.json", "not valid JSON"],
            },
            Case {
                name: "a folder",
                damage: |w| {
                    fs::remove_file(config(w)).unwrap();
                    fs::create_dir(config(w)).unwrap();
                },
                says: &["config.json", "reading failed"],
            },
            Case {
                name: "nothing known of the language model",
                damage: |w| text(w, "model_type", json!("mamba")),
                says: &["config.json", "mamba"],
            },
            Case {
                name: "nothing known of the tower",
                damage: |w| vision(w, "model_type", json!("siglip_vision_model")),
                says: &["config.json", "siglip_vision_model"],
            },
            Case {
                name: "a list for a part",
                damage: |w| set(&config(w), "/text_config", json!([1, 2])),
                says: &["config.json", "expected an object"],
            },
            Case {
                name: "another activation in the projector",
                damage: |w| set(&config(w), "/projector_hidden_act", json!("relu")),
                says: &["config.json", "projector_hidden_act", "relu"],
            },
        ],
    );
}

#[test]
fn sizes_that_no_model_has() {
    // A million million layers or a table of that many rows must be refused before anything of the size is made.
    const HUGE: u64 = 1_000_000_000_000;
    check(
        READERS,
        &[
            Case {
                name: "no heads",
                damage: |w| text(w, "num_attention_heads", json!(0)),
                says: &["config.json", "num_attention_heads", "0", "at least 1"],
            },
            Case {
                name: "no width",
                damage: |w| text(w, "hidden_size", json!(0)),
                says: &["config.json", "hidden_size", "at least 1"],
            },
            Case {
                name: "no vocabulary",
                damage: |w| text(w, "vocab_size", json!(0)),
                says: &["config.json", "vocab_size", "at least 1"],
            },
            Case {
                name: "a negative width",
                damage: |w| text(w, "hidden_size", json!(-48)),
                says: &["config.json", "hidden_size", "-48", "a whole number"],
            },
            Case {
                name: "a width in words",
                damage: |w| text(w, "hidden_size", json!("large")),
                says: &["config.json", "hidden_size", "large", "a whole number"],
            },
            Case {
                name: "half a layer",
                damage: |w| text(w, "num_hidden_layers", json!(2.5)),
                says: &["config.json", "num_hidden_layers", "2.5"],
            },
            Case {
                name: "heads that do not divide",
                damage: |w| text(w, "num_key_value_heads", json!(3)),
                says: &["config.json", "num_key_value_heads", "a divisor of num_attention_heads"],
            },
            Case {
                name: "an odd head",
                damage: |w| text(w, "head_dim", json!(11)),
                says: &["config.json", "head_dim", "11", "an even number"],
            },
            Case {
                name: "countless layers",
                damage: |w| text(w, "num_hidden_layers", json!(HUGE)),
                says: &["config.json", "num_hidden_layers", "1000000000000"],
            },
            Case {
                name: "a width that overflows",
                damage: |w| {
                    text(w, "hidden_size", json!(1u64 << 40));
                    text(w, "num_attention_heads", json!(1u64 << 38));
                    text(w, "num_key_value_heads", json!(1u64 << 38));
                },
                says: &["config.json"],
            },
            Case {
                name: "a head beyond measure",
                damage: |w| text(w, "head_dim", json!(HUGE)),
                says: &["config.json", "head_dim", "1000000000000"],
            },
            Case {
                name: "a vocabulary beyond measure",
                damage: |w| text(w, "vocab_size", json!(HUGE)),
                says: &["config.json", "vocab_size", "1000000000000"],
            },
            Case {
                name: "an MLP beyond measure",
                damage: |w| text(w, "intermediate_size", json!(u64::MAX)),
                says: &["config.json", "intermediate_size"],
            },
            Case {
                name: "a tower of countless layers",
                damage: |w| vision(w, "num_hidden_layers", json!(HUGE)),
                says: &["config.json", "num_hidden_layers", "1000000000000"],
            },
            Case {
                name: "a tower for huge images",
                damage: |w| vision(w, "image_size", json!(HUGE)),
                says: &["config.json", "image_size", "1000000000000"],
            },
            Case {
                name: "a tower without width",
                damage: |w| vision(w, "hidden_size", json!(0)),
                says: &["config.json", "hidden_size"],
            },
            Case {
                name: "a tower beyond measure",
                damage: |w| vision(w, "hidden_size", json!(1u64 << 60)),
                says: &["config.json", "hidden_size"],
            },
            Case {
                name: "no patch",
                damage: |w| vision(w, "patch_size", json!(0)),
                says: &["config.json", "patch_size", "at least 1"],
            },
            Case {
                name: "countless patches",
                damage: |w| {
                    vision(w, "image_size", json!(60_000));
                    vision(w, "patch_size", json!(1));
                },
                says: &["config.json", "patch_size", "60000"],
            },
            Case {
                name: "a layer that is not there",
                damage: |w| set(&config(w), "/vision_feature_layer", json!(99)),
                says: &["config.json", "vision_feature_layer", "99", "3 layers"],
            },
            Case {
                name: "a layer at the end of what a number holds",
                damage: |w| set(&config(w), "/vision_feature_layer", json!(i64::MIN)),
                says: &["config.json", "vision_feature_layer"],
            },
            Case {
                name: "a wavelength of nothing",
                damage: |w| text(w, "rope_parameters", json!({"rope_theta": 0, "rope_type": "default"})),
                says: &["config.json", "rope_theta"],
            },
            Case {
                name: "an unknown rotation",
                damage: |w| text(w, "rope_parameters", json!({"rope_theta": 1e4, "rope_type": "longrope"})),
                says: &["config.json", "rope_type", "longrope"],
            },
            Case {
                name: "quantized",
                damage: |w| text(w, "quantization_config", json!({"bits": 4})),
                says: &["config.json", "quantization_config"],
            },
        ],
    );
}

#[test]
fn image_processors_that_make_no_image() {
    const FILE: &str = "processor_config.json";
    check(
        READERS,
        &[
            Case { name: "cut", damage: |w| cut(&w.model().join(FILE), 100), says: &[FILE] },
            Case {
                name: "no crop",
                damage: |w| image(w, "crop_size", json!({"height": 0, "width": 28})),
                says: &[FILE, "crop_size", "from 1 to"],
            },
            Case {
                name: "a negative size",
                damage: |w| image(w, "size", json!({"shortest_edge": -5})),
                says: &[FILE, "size", "-5"],
            },
            Case {
                name: "a huge size",
                damage: |w| image(w, "size", json!({"shortest_edge": 4_000_000_000u64})),
                says: &[FILE, "size", "from 1 to"],
            },
            Case {
                name: "another crop than the tower's image",
                damage: |w| image(w, "crop_size", json!({"height": 56, "width": 56})),
                says: &["56", "28"],
            },
            Case {
                name: "division by zero",
                damage: |w| image(w, "image_std", json!([0, 0.5, 0.5])),
                says: &[FILE, "image_std", "0"],
            },
            Case {
                name: "two channels",
                damage: |w| image(w, "image_mean", json!([0.5, 0.5])),
                says: &[FILE, "image_mean", "three numbers"],
            },
            Case {
                name: "a mean in words",
                damage: |w| image(w, "image_mean", json!("grey")),
                says: &[FILE, "image_mean", "grey"],
            },
            Case {
                name: "an endless factor",
                damage: |w| image(w, "rescale_factor", json!("1e999")),
                says: &[FILE, "rescale_factor"],
            },
            Case {
                name: "another resampling",
                damage: |w| image(w, "resample", json!(77)),
                says: &[FILE, "resample", "77"],
            },
            Case { name: "a list", damage: |w| edit(&w.model().join(FILE), |v| *v = json!([1])), says: &[FILE] },
        ],
    );
}
