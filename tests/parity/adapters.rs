//! Adapters that go out and come back, and adapters merged into the weights they stand beside.

use super::case::{Largest, LlavaCase, Reference, assert_same_scores, device, load, log_probs, nats};
use firebrick::adapters::{Adapter, Lora};
use firebrick::checkpoint::{Shards, read_json};
use firebrick::nn::params;
use firebrick::projector::Mlp2xGelu;
use firebrick::recipe::{Saved, adapter_file, merge, save_final};
use firebrick::vision::Clip;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// The case as it stands after training: what the adapter does not hold is frozen.
fn frozen(name: &str) -> (LlavaCase, Lora) {
    let mut case = LlavaCase::llava(name, &device().autodiff());
    let lora = case.adapter.clone().unwrap();
    let projector = !lora.modules_to_save.is_empty();
    case.loaded.model = params::set_trainable(case.loaded.model, |parameter| {
        parameter.contains(".adapter.") || (projector && parameter.starts_with("multi_modal_projector."))
    });
    (case, lora)
}

#[test]
fn what_is_saved_has_pefts_keys_and_loads_with_the_same_bits() {
    for name in ["peft_lora", "peft_rslora", "peft_old_prefix"] {
        let (case, lora) = frozen(name);
        let out = tempfile::tempdir().unwrap();
        let dir = out.path().join("final");
        assert_eq!(save_final(&dir, &case.loaded, &lora).unwrap(), Saved::Adapter, "{name}");

        // The current keys, whichever the file had that was read.
        let current = if name == "peft_rslora" { name } else { "peft_lora" };
        let theirs = Shards::open_stem(&Reference::open(current).adapter_dir().unwrap(), "adapter_model").unwrap();
        let ours = Shards::open_stem(&dir, "adapter_model").unwrap();
        assert_eq!(theirs.len(), ours.len(), "{name}");
        for view in theirs.iter() {
            let found = ours.get(view.name).unwrap_or_else(|| panic!("{name}: no {}", view.name));
            assert_eq!(found.shape, view.shape, "{}", view.name);
            assert_eq!(found.to_f32().unwrap(), view.to_f32().unwrap(), "{}", view.name);
        }

        let read: Lora = adapter_file::read_settings(&dir).unwrap();
        assert_eq!((read.r, read.lora_alpha, read.use_rslora), (lora.r, lora.lora_alpha, lora.use_rslora), "{name}");
        let (base, _) = load(&case.reference.model_dir(), &Clip::default(), &Mlp2xGelu::default(), &device());
        let again = adapter_file::load(base, &read, &dir, &device()).unwrap();
        assert_same_scores(
            name,
            &log_probs(&again.model, &case.encoded, &device()),
            &log_probs(&case.loaded.model, &case.encoded, &case.device),
        );
    }
}

/// The merged weight is rounded to f32 once, which the two separate products are not.
#[test]
fn merged_equals_beside() {
    for name in ["peft_lora", "peft_rslora"] {
        let mut case = LlavaCase::llava(name, &device());
        let mut largest = Largest::new(format!("{name}, merged"), nats());
        let beside = log_probs(&case.loaded.model, &case.encoded, &case.device);
        merge(&mut case.loaded.model).unwrap();
        assert!(params::list(&case.loaded.model).iter().all(|parameter| !parameter.name.contains(".adapter.")));
        for (index, (found, expected)) in
            log_probs(&case.loaded.model, &case.encoded, &case.device).iter().zip(&beside).enumerate()
        {
            largest.check_all(&index, found, expected, 1.0);
        }
    }
}

#[test]
fn a_fresh_adapter_changes_nothing() {
    let mut case = LlavaCase::llava("llava_gqa", &device());
    let before = log_probs(&case.loaded.model, &case.encoded, &case.device);
    let (lora, mut rng) = (Lora::default(), ChaCha8Rng::seed_from_u64(0));
    let model = case.loaded.model.language_model.clone();
    case.loaded.model.language_model = lora.attach(model, "model.language_model.", &mut rng, &case.device).unwrap();
    let mut largest = Largest::new("fresh adapter", nats());
    for (index, found) in log_probs(&case.loaded.model, &case.encoded, &case.device).iter().enumerate() {
        largest.check_all(&index, found, &before[index], 1.0);
    }
}

#[test]
fn an_adapter_of_another_rank_names_tensor_both_shapes_and_file() {
    let case = LlavaCase::llava("llava_gqa", &device());
    let dir = Reference::open("peft_lora").adapter_dir().unwrap();
    let lora: Lora = adapter_file::read_settings(&dir).unwrap();
    let wrong = Lora { r: lora.r + 1, ..lora };
    let error = adapter_file::load(case.loaded, &wrong, &dir, &device()).unwrap_err().to_string();
    for part in ["layers.0.mlp.down_proj.lora_A.weight", "[4, 96]", "[5, 96]", "adapter_model.safetensors"] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn the_saved_settings_name_the_layers_of_the_language_model_only() {
    let (case, lora) = frozen("peft_lora");
    let out = tempfile::tempdir().unwrap();
    save_final(out.path(), &case.loaded, &lora).unwrap();
    let config = read_json(&out.path().join("adapter_config.json")).unwrap();
    let pattern = regex::Regex::new(&format!("^(?:{})$", config["target_modules"].as_str().unwrap())).unwrap();
    assert!(pattern.is_match("model.language_model.layers.1.mlp.down_proj"));
    // The tower has layers of the same name.
    assert!(!pattern.is_match("model.vision_tower.encoder.layers.1.self_attn.q_proj"));
    assert!(!pattern.is_match("model.vision_tower.vision_model.encoder.layers.1.self_attn.q_proj"));
}
