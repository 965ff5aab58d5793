//! Sequence heads: transformers' `LlamaForSequenceClassification`, its losses, and its folders.

use super::super::case::{Largest, assert_same_scores, device, fixtures, load, nats};
use super::chain::{Compared, Text, file_name, ids, number, row, single, step};
use super::scores::headed;
use burn::module::Module;
use firebrick::checkpoint::bridge::Hold;
use firebrick::checkpoint::{Shards, read_json};
use firebrick::data::{Batch, Example, PadSide, Padding, collate_examples};
use firebrick::example::{Facts, Label};
use firebrick::models::Llama;
use firebrick::objectives::{Classification, Objective, State};
use firebrick::projector::NoProjector;
use firebrick::recipe::{ModelFolder, Opened, Shape, save_model};
use firebrick::trainer::Policy;
use firebrick::trainer::anchor::Anchor;
use firebrick::vision::NoVision;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const SINGLE: &str = "single_label_classification";

fn reference() -> Value {
    read_json(&fixtures().join("heads/reference.v5.json")).unwrap()
}

fn of(outputs: usize, problem_type: &str) -> Classification {
    Classification { num_labels: Some(outputs), problem_type: problem_type.to_owned(), ..Classification::default() }
}

/// The recorded head of so many outputs.
fn weight(outputs: usize) -> Vec<f32> {
    let file = Shards::open_file(&fixtures().join("heads/score.safetensors")).unwrap();
    file.get(if outputs == 1 { "one" } else { "three" }).unwrap().to_f32().unwrap()
}

/// The rows that the fixtures score, each with its label.
fn batch(labels: &[Option<Label>], side: PadSide, pad: u32) -> Batch {
    let rows = read_json(&fixtures().join("tuners/batch.json")).unwrap();
    let rows = rows["rows"].as_array().unwrap().iter().zip(labels);
    let examples: Vec<Example> = rows
        .filter_map(|(recorded, label)| {
            let facts = Facts { label: Some(label.clone()?), ..Facts::default() };
            Some(single(row(&ids(&recorded["input_ids"]), |_| false), facts))
        })
        .collect();
    collate_examples(&examples, &Padding { token: pad, side, multiple_of: 1 })
}

fn unlabelled(side: PadSide, pad: u32) -> Batch {
    batch(&[(); 3].map(|()| Some(Label::Class(0))), side, pad)
}

/// One row's scores after another's.
fn scores(model: &Text, batch: &Batch) -> Vec<f32> {
    model.sequence_scores(batch, &device()).values.into_data().iter::<f32>().collect()
}

fn flat(rows: &Value) -> Vec<f32> {
    rows.as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap()).map(|v| number(v) as f32).collect()
}

/// Read at the last token that is no padding, on whichever side that is, and whatever the padding is filled with: the
/// reference, which knows padding by its id, is that of an id which is in no row.
#[test]
fn scores_under_either_padding() {
    let reference = reference();
    for (name, outputs) in [("one", 1), ("three", 3)] {
        let problem = if outputs == 1 { "regression" } else { SINGLE };
        let model = headed(&of(outputs, problem), &weight(outputs), None, &device());
        let mut largest = Largest::new(format!("scores of {outputs} outputs"), nats());
        for (side, key) in [(PadSide::Right, "pad_0_right"), (PadSide::Left, "pad_0_left_with_position_ids")] {
            let expected = flat(&reference["padding"][name][key]["logits"]);
            for pad in [0, 2] {
                largest.check_all(&key, &scores(&model, &unlabelled(side, pad)), &expected, 1.0);
            }
        }
    }
}

fn label(value: &Value) -> Option<Label> {
    match value {
        Value::Array(values) => Some(Label::Values(values.iter().map(number).collect())),
        // transformers leaves rows out that are labelled so.
        class if class == -100 => None,
        class => Some(class.as_u64().map_or_else(|| Label::Values(vec![number(class)]), |c| Label::Class(c as usize))),
    }
}

/// The three kinds of loss, and the norm of every parameter's gradient.
#[test]
fn losses_and_gradients() {
    let reference = reference();
    let mut compared = Compared::new("classification");
    let cases = reference["losses"].as_object().unwrap();
    assert_eq!(cases.len(), 5);
    for (name, case) in cases {
        let outputs = case["num_labels"].as_u64().unwrap() as usize;
        let objective = of(outputs, case["problem_type_after"].as_str().unwrap());
        let model = headed(&objective, &weight(outputs), None, &device().autodiff());
        let labels: Vec<Option<Label>> = case["labels"].as_array().unwrap().iter().map(label).collect();
        let batches = [batch(&labels, PadSide::Right, 0)];
        let found = step(&objective, &model, &Anchor::None, &batches, &mut State::default());
        compared.loss(name, found.loss, &case["loss"]);
        compared.norm(name, found.norm, number(&case["grad_norm"]));
        let norms: BTreeMap<String, f64> =
            found.gradients.norm_by_parameter().into_iter().map(|(name, norm)| (file_name(&name), norm)).collect();
        let expected = case["grad_norms"].as_object().unwrap();
        assert_eq!(norms.len(), expected.len());
        for (parameter, expected) in expected {
            compared.norm(&format!("{name}, {parameter}"), norms[parameter], number(expected));
        }
    }
}

/// A copy of the folder that transformers saved, with the tokenizer that it does not save.
fn saved_by_transformers(dir: &Path) {
    for (from, name) in [
        ("heads/model", "config.json"),
        ("heads/model", "model.safetensors"),
        ("llama_text/model", "tokenizer.json"),
        ("llama_text/model", "tokenizer_config.json"),
    ] {
        std::fs::copy(fixtures().join(from).join(name), dir.join(name)).unwrap();
    }
}

#[test]
fn folders_of_transformers_load_and_are_saved_alike() {
    let (vision, projector) = (NoVision::default(), NoProjector::default());
    let (reference, folder) = (reference(), tempfile::tempdir().unwrap());
    saved_by_transformers(folder.path());
    let (loaded, _) = load(folder.path(), &vision, &projector, &device());
    let own = loaded.folder.head().unwrap();
    assert_eq!((own.outputs, own.bias, own.problem_type), (3, false, Some(SINGLE)));
    let batch = unlabelled(PadSide::Right, 0);
    let found = scores(&loaded.model.valid(), &batch);
    let expected = flat(&reference["padding"]["three"]["pad_0_right"]["logits"]);
    Largest::new("scores of a saved folder", nats()).check_all(&"three", &found, &expected, 1.0);

    let out = folder.path().join("out");
    save_model(&out, &loaded, Shape::TRAINED).unwrap();
    let (again, _) = load(&out, &vision, &projector, &device());
    assert_same_scores("three", &[scores(&again.model.valid(), &batch)], &[found]);
    // The same keys and shapes, and in the configuration what transformers wrote there.
    let shards = Shards::open(&out).unwrap();
    let keys: BTreeMap<String, Vec<usize>> = shards.iter().map(|v| (v.name.to_owned(), v.shape.to_vec())).collect();
    let saved = &reference["saved"]["three"];
    assert_eq!(serde_json::to_value(keys).unwrap(), sorted(&saved["keys"]));
    let config: Value = read_json(&out.join("config.json")).unwrap();
    for (key, value) in saved["differs_from_causal_config"].as_object().unwrap() {
        assert_eq!(&config[key], value, "{key}");
    }
}

/// transformers' heads read the last token whose id is not `pad_token_id`: were that `</s>`, they would read another token
/// than ours, silently. The folder names the unknown token instead, and its tokenizer pads with the same.
#[test]
fn a_saved_head_is_padded_with_a_token_that_ends_no_row() {
    let (vision, projector) = (NoVision::default(), NoProjector::default());
    for own in [Value::Null, Value::from(2), Value::from(-1)] {
        let folder = tempfile::tempdir().unwrap();
        for file in ["model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
            std::fs::copy(fixtures().join("llama_text/model").join(file), folder.path().join(file)).unwrap();
        }
        let mut config: Value = read_json(&fixtures().join("llama_text/model/config.json")).unwrap();
        config["pad_token_id"] = own;
        std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        let opened = ModelFolder::open(folder.path()).unwrap().with_head(of(2, SINGLE).head()).unwrap();
        let opened = Opened::of(opened, &Llama::default(), &vision, &projector, &device()).unwrap();
        let loaded = opened.load(&projector, &|_| Hold::Frozen, &device()).unwrap();
        let out = folder.path().join("out");
        save_model(&out, &loaded, Shape::TRAINED).unwrap();
        let saved = |file: &str| -> Value { read_json(&out.join(file)).unwrap() };
        assert_eq!(saved("config.json")["pad_token_id"], 0);
        assert_eq!(saved("config.json")["eos_token_id"], 2);
        assert_eq!(saved("tokenizer_config.json")["pad_token"], "<unk>");
    }
}

fn sorted(object: &Value) -> Value {
    let map: BTreeMap<String, Value> = serde_json::from_value(object.clone()).unwrap();
    serde_json::to_value(map).unwrap()
}
