//! Weights in 8 and 4 bits: folders that bitsandbytes and transformers wrote, and the same made here.

use super::case::{
    GRADIENT, Largest, assert_same_scores, batch, device, encode, fixtures, floats, load, log_probs, nats, records,
};
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use firebrick::adapters::lora::Init;
use firebrick::adapters::{Adapter, Lora, Targets};
use firebrick::checkpoint::bridge::Hold;
use firebrick::checkpoint::{Shards, read_json};
use firebrick::data::{Encoded, PadSide};
use firebrick::models::{CausalLm, Llama};
use firebrick::nn::{Blocks, Levels, QuantFormat, Scales, params};
use firebrick::objectives::Wants;
use firebrick::projector::NoProjector;
use firebrick::recipe::{Bits, Loaded, Opened, Quantize, Saved, Shape, adapter_file, merge, save_final, save_model};
use firebrick::trainer::Policy;
use firebrick::vision::NoVision;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use std::path::Path;

/// The cases, and how many weights of each are quantized.
const CASES: [(&str, usize); 3] = [("bnb_nf4_double", 14), ("bnb_fp4", 13), ("bnb_int8", 14)];

type TextModel = Loaded<Llama, NoVision, NoProjector>;

/// A case's folder with the tokenizer that it was made with.
fn folder(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for from in [fixtures().join("llama_text/model"), fixtures().join(name).join("model")] {
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
    }
    dir
}

fn open(dir: &Path, device: &Device) -> Opened<Llama, NoVision, NoProjector> {
    let (model, vision, projector) = (Llama::default(), NoVision::default(), NoProjector::default());
    Opened::new(dir, &model, &vision, &projector, device).unwrap()
}

fn loaded(opened: Opened<Llama, NoVision, NoProjector>, device: &Device) -> TextModel {
    opened.load(&NoProjector::default(), &|_| Hold::Frozen, device).unwrap()
}

/// The fixtures' records of text.
fn encoded() -> Vec<Encoded> {
    let dir = fixtures().join("llama_text/model");
    let (_, encoder) = load(&dir, &NoVision::default(), &NoProjector::default(), &device());
    encode(&encoder, &records(false))
}

fn whole_weights(model: &TextModel) -> Vec<Vec<f32>> {
    let weights = model.model.quantized_weights();
    weights.iter().map(|(_, weight)| weight.dense().into_data().try_to_vec().unwrap()).collect()
}

#[test]
fn folders_of_bitsandbytes_answer_as_they_do_there() {
    let encoded = encoded();
    for (name, count) in CASES {
        let (dir, device) = (folder(name), device());
        let model = loaded(open(dir.path(), &device), &device);
        assert_eq!(model.model.quantized_weights().len(), count, "{name}");
        let reference = read_json(&fixtures().join(name).join("reference.json")).unwrap();
        let mut largest = Largest::new(format!("{name}, log-probabilities"), nats());
        let scores = log_probs(&model.model, &encoded, &device);
        for (scores, expected) in scores.iter().zip(reference["records"].as_array().unwrap()) {
            largest.check_all(&expected["id"], scores, &floats(&expected["token_logprobs"]), 1.0);
        }

        // Whole again, the weights are the same numbers.
        let mut opened = open(dir.path(), &device);
        opened.dequantize();
        let whole = loaded(opened, &device);
        assert!(whole.model.quantized_weights().is_empty());
        let out = tempfile::tempdir().unwrap();
        let final_ = out.path().join("final");
        save_model(&final_, &whole, Shape::TRAINED).unwrap();
        assert!(read_json(&final_.join("config.json")).unwrap()["quantization_config"].is_null());
        let again = loaded(open(&final_, &device), &device);
        assert_same_scores(
            name,
            &log_probs(&again.model, &encoded, &device),
            &log_probs(&whole.model, &encoded, &device),
        );
        for (weight, expected) in whole_weights(&model).iter().zip(quantized_of(&whole, &model)) {
            assert_eq!(*weight, expected, "{name}");
        }
    }
}

/// The whole weights of `whole` that `model` holds quantized.
fn quantized_of(whole: &TextModel, model: &TextModel) -> Vec<Vec<f32>> {
    let mut found = Vec::new();
    let names: Vec<String> = model.model.quantized_weights().into_iter().map(|(info, _)| info.name).collect();
    whole.model.clone().visit_all_linears(&mut |path, linear| {
        if names.contains(&format!("{path}.weight")) {
            found.push(linear.weight.dense().into_data().try_to_vec().unwrap());
        }
    });
    found
}

#[test]
fn quantizing_while_loading_gives_the_numbers_of_bitsandbytes() {
    let settings = |weights| Quantize { weights, ..Quantize::default() };
    let skip = vec!["layers.1.mlp.down_proj".to_owned()];
    for (name, settings) in [
        ("bnb_fp4", Quantize { skip_modules: skip, ..settings(Bits::Fp4) }),
        ("bnb_int8", settings(Bits::Int8)),
        ("bnb_nf4_double", Quantize { double_quant: true, ..settings(Bits::Nf4) }),
    ] {
        let device = device();
        let mut opened = open(&fixtures().join("llama_text/model"), &device);
        opened.quantize(&settings, &|name| name.contains("lm_head")).unwrap();
        let formats: Vec<usize> = params::list(&opened.model)
            .iter()
            .filter(|info| info.name.ends_with("_proj.weight"))
            .map(|info| opened.bytes_held(info, false))
            .collect();
        let ours = loaded(opened, &device);
        let dir = folder(name);
        let theirs = loaded(open(dir.path(), &device), &device);
        let held: usize = ours.model.quantized_weights().iter().map(|(_, weight)| weight.bytes_held()).sum();
        let skipped = if name == "bnb_fp4" { 32 * 72 * 4 } else { 0 };
        assert_eq!(formats.iter().sum::<usize>(), held + skipped, "{name}");
        for (ours, theirs) in whole_weights(&ours).iter().zip(whole_weights(&theirs)) {
            // Quantized scales may be one step of theirs away: see `nested` of the encoder.
            let tolerance = if settings.double_quant { 0.02 } else { 0.0 };
            assert_eq!(ours.len(), theirs.len());
            for (a, b) in ours.iter().zip(theirs) {
                assert!((a - b).abs() <= tolerance * b.abs(), "{name}: {a} instead of {b}");
            }
        }
    }
}

#[test]
fn codes_and_scales_are_those_of_bitsandbytes() {
    let file = Shards::open_file(&fixtures().join("bnb_codes/reference.safetensors")).unwrap();
    let floats = |name: &str| file.get(name).unwrap().to_f32().unwrap();
    let shape = [37, 53];
    let check = |weight: &str, format: QuantFormat, name: &str, scales: &str| {
        let blocks = Blocks::quantize(&floats(weight), shape, format);
        assert_eq!(blocks.codes(), file.get(&format!("{name}.codes")).unwrap().bytes, "{name}");
        assert_eq!(blocks.scales(), &Scales::Plain(floats(&format!("{name}.{scales}"))), "{name}");
        if let Some(values) = file.get(&format!("{name}.values")) {
            assert_eq!(blocks.dequantize(), values.to_f32().unwrap(), "{name}");
        }
    };
    for (levels, kind) in [(Levels::Nf4, "nf4"), (Levels::Fp4, "fp4")] {
        for block_size in [64, 128] {
            let format = QuantFormat::FourBit { levels, block_size, double: false };
            check("weight", format, &format!("{kind}.{block_size}"), "absmax");
        }
    }
    check("bf16", QuantFormat::FourBit { levels: Levels::Nf4, block_size: 64, double: false }, "bf16", "absmax");
    check("weight", QuantFormat::Int8, "int8", "scales");
    let double = QuantFormat::FourBit { levels: Levels::Nf4, block_size: 64, double: true };
    let Scales::Nested { levels, .. } = Blocks::quantize(&floats("weight"), shape, double).scales().clone() else {
        panic!("double quantization")
    };
    assert_eq!(levels, floats("dynamic"));
}

fn lora() -> Lora {
    let names = ["q_proj", "down_proj"].map(str::to_owned).to_vec();
    Lora {
        r: 4,
        lora_alpha: 8.0,
        target_modules: Targets::Suffixes(names),
        modules_to_save: Vec::new(),
        ..Lora::default()
    }
}

/// A quantized model with PEFT's matrices on it, and the file that holds them.
fn with_lora(dir: &Path, device: &Device) -> (TextModel, Shards) {
    let file = Shards::open_file(&fixtures().join("bnb_nf4_double/reference.safetensors")).unwrap();
    let mut model = loaded(open(dir, device), device);
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    model.model.language_model = lora().attach(model.model.language_model.clone(), "model.", &mut rng, device).unwrap();
    model.model.language_model.visit_linears(&mut |path, linear| {
        let Some(slot) = &mut linear.adapter else { return };
        let names: Vec<&str> = slot.rule.names().to_vec();
        for (param, name) in slot.params.iter_mut().zip(names) {
            let view = file.get(&format!("value.base_model.model.model.{path}.{name}")).unwrap();
            let shape = [view.shape[0], view.shape[1]];
            *param = Param::from_tensor(Tensor::from_data(TensorData::new(view.to_f32().unwrap(), shape), device));
        }
    });
    (model, file)
}

#[test]
fn gradients_of_an_adapter_are_pefts() {
    let (dir, device) = (folder("bnb_nf4_double"), device().autodiff());
    let (mut model, file) = with_lora(dir.path(), &device);
    model.model = params::set_trainable(model.model, |name| name.contains(".adapter."));
    let batch = batch(&encoded(), PadSide::Right);
    let log_probs = Policy::log_probs(&model.model, &batch, &device, &Wants::default());
    let loss = log_probs.values.mean().neg();
    let reference = read_json(&fixtures().join("bnb_nf4_double/reference.json")).unwrap();
    let mut largest = Largest::new("loss over a quantized base", nats());
    let value = f64::from(loss.clone().into_scalar::<f32>());
    largest.check(&"loss", value, reference["lora_loss"].as_f64().unwrap(), 1.0);
    let gradients = loss.backward();
    let mut largest = Largest::new("gradients over a quantized base", GRADIENT);
    let mut checked = 0;
    model.model.visit_adapters(&mut |path, slot| {
        for (param, name) in slot.params.iter().zip(slot.rule.names()) {
            let expected = file.get(&format!("grad.base_model.model.model.{path}.{name}")).unwrap().to_f32().unwrap();
            let found: Vec<f32> = param.val().grad(&gradients).unwrap().into_data().try_to_vec().unwrap();
            let norm = expected.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            largest.check_all(&format_args!("{path}.{name}"), &found, &expected, norm);
            checked += 1;
        }
    });
    assert_eq!(checked, 8);
}

#[test]
fn an_adapter_goes_off_is_saved_alone_and_merges_into_whole_weights() {
    // Only there does a parameter know that it is trained.
    let (dir, device) = (folder("bnb_nf4_double"), device().autodiff());
    let encoded = encoded();
    let base = loaded(open(dir.path(), &device), &device);
    let expected = log_probs(&base.model, &encoded, &device);
    let (mut model, _) = with_lora(dir.path(), &device);
    let adapted = log_probs(&model.model, &encoded, &device);
    assert_ne!(adapted, expected);
    assert_same_scores("adapter off", &log_probs(&model.model.without_adapters(), &encoded, &device), &expected);

    model.model = params::set_trainable(model.model, |name| name.contains(".adapter."));
    let out = tempfile::tempdir().unwrap();
    let final_ = out.path().join("final");
    assert_eq!(save_final(&final_, &model, &lora()).unwrap(), Saved::Adapter);
    let read: Lora = adapter_file::read_settings(&final_).unwrap();
    let again = adapter_file::load(base, &read, &final_, &device).unwrap();
    assert_same_scores("adapter", &log_probs(&again.model, &encoded, &device), &adapted);

    // Layers without an adapter would still be quantized: a whole model is not written unasked.
    let refused = save_model(&out.path().join("whole"), &model, Shape::TRAINED).unwrap_err().to_string();
    assert!(refused.contains("--dequantize"), "{refused}");
    merge(&mut model.model).unwrap();
    let mut largest = Largest::new("merged into dequantized weights", nats());
    for (index, scores) in log_probs(&model.model, &encoded, &device).iter().enumerate() {
        largest.check_all(&index, scores, &adapted[index], 1.0);
    }
    assert_eq!(model.model.quantized_weights().len(), 10);
}

#[test]
fn what_cannot_be_is_refused() {
    let (dir, device) = (folder("bnb_nf4_double"), device());
    let mut opened = open(dir.path(), &device);
    let error = opened.quantize(&Quantize::default(), &|_| true).unwrap_err().to_string();
    assert!(error.contains("would be trained") && error.contains("nf4 in blocks of 64, double"), "{error}");
    let int8 = Quantize { weights: Bits::Int8, ..Quantize::default() };
    let error = opened.quantize(&int8, &|_| false).unwrap_err().to_string();
    assert!(error.contains("is quantized already"), "{error}");
    let mut plain = open(&fixtures().join("llama_text/model"), &device);
    let error = plain.quantize(&int8, &|_| true).unwrap_err().to_string();
    assert!(error.contains("would do nothing"), "{error}");

    let model = loaded(opened, &device);
    let pissa = Lora { init_lora_weights: Init::Pissa, ..lora() };
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    let error = pissa.attach(model.model.language_model, "model.", &mut rng, &device).unwrap_err().to_string();
    assert!(error.contains("pissa") && error.contains("nf4"), "{error}");
}

/// Damages one byte of a tensor of a folder's file.
fn damage(dir: &Path, tensor: &str, offset: usize, value: u8) {
    let path = dir.join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let fields: serde_json::Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = fields[tensor]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[8 + header + start + offset] = value;
    std::fs::write(&path, bytes).unwrap();
}

#[test]
fn damaged_parts_are_named() {
    let layer = "model.layers.0.self_attn.q_proj";
    for (case, tensor, offset, value, part) in [
        ("bnb_nf4_double", format!("{layer}.weight.quant_state.bitsandbytes__nf4"), 0, b'!', "not valid JSON"),
        ("bnb_nf4_double", format!("{layer}.weight.quant_map"), 3, 0, "quant_map that is not nf4's"),
        ("bnb_int8", format!("{layer}.weight_format"), 0, 2, "ordered for one kind of GPU"),
    ] {
        let dir = folder(case);
        damage(dir.path(), &tensor, offset, value);
        let opened = open(dir.path(), &device());
        let result = opened.load(&NoProjector::default(), &|_| Hold::Frozen, &device());
        match result {
            Err(error) => assert!(error.to_string().contains(part), "{tensor}: {error}"),
            Ok(_) => panic!("{tensor} was taken"),
        }
    }
}
