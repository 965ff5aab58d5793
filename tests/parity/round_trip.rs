//! What is saved loads again with the same bits; a language model that learns to see saves as a LLaVA.

use super::case::{Case, LlavaCase, TextCase, assert_same_scores, device, encode, fixtures, load, log_probs, records};
use firebrick::checkpoint::{Shards, read_json};
use firebrick::projector::{Mlp2xGelu, NoProjector, Projector};
use firebrick::recipe::{Shape, save_model};
use firebrick::vision::{Clip, NoVision, VisionEncoder};

#[test]
fn llava_folders() {
    for name in ["llava_gqa", "llava_tied", "llava_nested"] {
        check(&LlavaCase::llava(name, &device()), &Clip::default(), &Mlp2xGelu::default());
    }
}

#[test]
fn language_models() {
    for name in ["llama_text", "mistral_text", "qwen2_text"] {
        check(&TextCase::text(name, &device()), &NoVision::default(), &NoProjector::default());
    }
}

fn check<V: VisionEncoder, P: Projector>(case: &Case<V, P>, vision: &V, projector: &P) {
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("saved");
    save_model(&dir, &case.loaded, Shape::TRAINED).unwrap();
    let (again, encoder) = load(&dir, vision, projector, &device());
    let name = &case.reference.name;
    let encoded = encode(&encoder, &case.samples);
    assert_eq!(encoded, case.encoded, "{name}: ids, masks and pixels");
    let before = log_probs(&case.loaded.model, &case.encoded, &device());
    assert_same_scores(name, &log_probs(&again.model, &encoded, &device()), &before);
    // Saved once more, nothing changes: every setting of the folder was read as it was written.
    let twice = out.path().join("twice");
    save_model(&twice, &again, Shape::TRAINED).unwrap();
    for file in std::fs::read_dir(&dir).unwrap() {
        let file = file.unwrap().file_name();
        let bytes = |dir: &std::path::Path| std::fs::read(dir.join(&file)).unwrap();
        assert!(bytes(&dir) == bytes(&twice), "{name}: {} changed", file.display());
    }
}

#[test]
fn a_language_model_that_gets_a_tower_and_a_fresh_projector() {
    let text = fixtures().join("llama_text/model");
    for clip in ["model", "model_vision"] {
        let from = fixtures().join("clip_plain").join(clip).display().to_string();
        let vision = Clip { from: Some(from), ..Clip::default() };
        let (loaded, encoder) = load(&text, &vision, &Mlp2xGelu::default(), &device());
        let (image, pad) = (loaded.image_token.clone().unwrap().1, loaded.tokenizer.pad().unwrap());
        assert_eq!((image, pad), (398, 399), "added behind the vocabulary of 398");
        let samples = records(true);
        let encoded = encode(&encoder, &samples);
        let scores = log_probs(&loaded.model, &encoded, &device());
        assert!(scores.iter().flatten().all(|v| v.is_finite() && *v < 0.0));

        let out = tempfile::tempdir().unwrap();
        save_model(out.path(), &loaded, Shape::TRAINED).unwrap();
        let shards = Shards::open(out.path()).unwrap();
        for key in ["language_model.model.embed_tokens.weight", "language_model.lm_head.weight"] {
            assert_eq!(shards.get(key).unwrap().shape, [400, 32], "{key}");
        }
        let config = read_json(&out.path().join("config.json")).unwrap();
        assert_eq!(config["text_config"]["vocab_size"], 400);
        assert_eq!((&config["image_token_index"], &config["pad_token_id"]), (&398.into(), &399.into()));

        let (again, encoder) = load(out.path(), &Clip::default(), &Mlp2xGelu::default(), &device());
        assert_eq!(again.tokenizer.pad(), Some(pad));
        assert_same_scores(clip, &log_probs(&again.model, &encode(&encoder, &samples), &device()), &scores);
    }
}

/// New rows are the mean of the old ones, so that a new token starts as an average one.
#[test]
fn grown_rows_are_the_mean() {
    let from = fixtures().join("clip_plain/model").display().to_string();
    let vision = Clip { from: Some(from), ..Clip::default() };
    let (loaded, _) = load(&fixtures().join("llama_text/model"), &vision, &Mlp2xGelu::default(), &device());
    let table = loaded.model.language_model.embed_tokens.weight.val();
    let mean = table.clone().narrow(0, 0, 398).mean_dim(0);
    let furthest = (table.narrow(0, 398, 2) - mean).abs().max().into_scalar::<f32>();
    assert!(furthest < 1e-6, "{furthest}");
}

/// Each of these made transformers 4 refuse the folder, or load it with other numbers and no more than a warning.
#[test]
fn what_transformers_4_needs_is_written() {
    let case = LlavaCase::llava("llava_gqa", &device());
    let out = tempfile::tempdir().unwrap();
    save_model(out.path(), &case.loaded, Shape::TRAINED).unwrap();
    let json = |file: &str| read_json(&out.path().join(file)).unwrap();
    let (config, tokenizer) = (json("config.json"), json("tokenizer_config.json"));
    assert_eq!(config["text_config"]["rope_theta"], 10_000.0);
    assert_eq!(tokenizer["tokenizer_class"], "PreTrainedTokenizerFast");
    assert_eq!(tokenizer["additional_special_tokens"], serde_json::json!(["<image>"]));
    assert!(tokenizer.get("extra_special_tokens").is_none());
    assert!(out.path().join("preprocessor_config.json").is_file());
    let shards = Shards::open(out.path()).unwrap();
    let mut tower = shards.names().filter(|name| name.starts_with("vision_tower."));
    assert!(tower.all(|name| name.starts_with("vision_tower.vision_model.")));
}
