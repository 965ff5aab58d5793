//! Folders of LLaVA's original code against the same weights in transformers, and from each layout to the other.

use super::case::{Largest, assert_same_scores, device, encode, fixtures, floats, log_probs, nats, records};
use firebrick::adapters::Lora;
use firebrick::checkpoint::bridge::Hold;
use firebrick::checkpoint::read_json;
use firebrick::data::{Encoder, ImageEncoding, Overlong};
use firebrick::image::AspectRatio;
use firebrick::models::Llama;
use firebrick::projector::Mlp;
use firebrick::recipe::{Loaded, ModelFolder, Opened, Shape, adapter_file, merge, save_model, save_original};
use firebrick::text::ChatTemplate;
use firebrick::vision::Clip;
use std::path::{Path, PathBuf};

type Model = Loaded<Llama, Clip, Mlp>;

fn home() -> PathBuf {
    fixtures().join("original")
}

fn open(folder: ModelFolder, vision: &Clip, projector: &Mlp) -> (Model, Encoder) {
    let opened = Opened::of(folder, &Llama::default(), vision, projector, &device()).unwrap();
    let (processor, (token, token_id)) = (opened.processor.clone().unwrap(), opened.image_token.clone().unwrap());
    let tokens_per_image = opened.model.tokens_per_image();
    let encoder = Encoder {
        tokenizer: opened.tokenizer.clone(),
        template: ChatTemplate::llava("v1").unwrap(),
        image: Some(ImageEncoding {
            processor,
            tokens_per_image,
            token,
            token_id,
            apart: opened.folder.encodes_apart(),
        }),
        max_length: usize::MAX,
        overlong: Overlong::Error,
        options: Default::default(),
    };
    (opened.load(projector, &|_| Hold::Frozen, &device()).unwrap(), encoder)
}

fn scores((loaded, encoder): &(Model, Encoder)) -> Vec<Vec<f32>> {
    log_probs(&loaded.model, &encode(encoder, &records(true)), &device())
}

/// Ids, labels and log-probabilities are the reference's.
fn check(name: &str, case: &(Model, Encoder)) {
    let reference = read_json(&home().join("reference.json")).unwrap();
    let rows = reference[name].as_array().unwrap();
    let encoded = encode(&case.1, &records(true));
    assert_eq!(encoded.len(), rows.len());
    let mut largest = Largest::new(format!("original/{name}, log-probabilities"), nats());
    for ((record, row), found) in encoded.iter().zip(rows).zip(scores(case)) {
        assert_eq!(serde_json::json!(record.input_ids), row["input_ids"], "{name}, {}", record.id);
        largest.check_all(&record.id, &found, &floats(&row["token_logprobs"]), 1.0);
    }
}

fn mlp(depth: usize) -> Mlp {
    Mlp { depth, ..Mlp::default() }
}

fn whole(name: &str, depth: usize) -> (Model, Encoder) {
    open(ModelFolder::open(&home().join(name)).unwrap(), &Clip::default(), &mlp(depth))
}

#[test]
fn pickled_shards_with_the_tower_elsewhere() {
    let case = whole("full", 2);
    assert_eq!(case.0.processor.as_ref().unwrap().aspect_ratio, AspectRatio::Pad);
    check("full", &case);
}

#[test]
fn a_trained_tower_inside_and_a_linear_projector() {
    check("inside", &whole("inside", 1));
}

#[test]
fn a_pretrained_projector_over_a_plain_language_model() {
    let vision = Clip { from: Some(home().join("tower").display().to_string()), ..Clip::default() };
    for path in [home().join("pretrained"), home().join("pretrained/mm_projector.bin")] {
        let projector = Mlp { from: Some(path.display().to_string()), ..Mlp::default() };
        check("pretrained", &open(ModelFolder::open(&home().join("base")).unwrap(), &vision, &projector));
    }
}

#[test]
fn a_lora_with_its_projector_over_a_plain_language_model() {
    check("lora", &lora());
}

fn lora() -> (Model, Encoder) {
    let adapter = home().join("lora");
    let folder = ModelFolder::open(&home().join("base")).unwrap().beside(&adapter).unwrap();
    let (loaded, encoder) = open(folder, &Clip::default(), &mlp(2));
    let settings: Lora = adapter_file::read_settings(&adapter).unwrap();
    assert_eq!((settings.r, settings.lora_alpha), (4, 8.0));
    (adapter_file::load(loaded, &settings, &adapter, &device()).unwrap(), encoder)
}

fn reopened(dir: &Path, depth: usize) -> (Model, Encoder) {
    open(ModelFolder::open(dir).unwrap(), &Clip::default(), &mlp(depth))
}

#[test]
fn there_and_back_in_either_order_gives_the_same_bits() {
    for (name, depth, mut case) in [("full", 2, whole("full", 2)), ("lora", 2, lora())] {
        let folder = tempfile::tempdir().unwrap();
        merge(&mut case.0.model).unwrap();
        let expected = scores(&case);
        let [hub, original, again] = ["hub", "original", "again"].map(|name| folder.path().join(name));
        save_model(&hub, &case.0, Shape::TRAINED).unwrap();
        let there = reopened(&hub, depth);
        assert_same_scores(&format!("{name} for transformers"), &scores(&there), &expected);
        save_original(&original, &there.0, Shape::TRAINED).unwrap();
        let back = reopened(&original, depth);
        assert_same_scores(&format!("{name} back"), &scores(&back), &expected);
        let aspect = |case: &(Model, Encoder)| case.0.processor.as_ref().unwrap().aspect_ratio;
        assert_eq!(aspect(&back), aspect(&case));
        save_model(&again, &back.0, Shape { max_shard_size: 20_000, ..Shape::TRAINED }).unwrap();
        assert!(again.join("model.safetensors.index.json").is_file(), "not sharded");
        assert_same_scores(&format!("{name} in shards"), &scores(&reopened(&again, depth)), &expected);
    }
}
