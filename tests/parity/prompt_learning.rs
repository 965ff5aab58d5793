//! Prefix tuning, prompt tuning and P-tuning: PEFT's numbers, and files that go out and come back.

use super::case::{
    CPU_NATS, Case, GRADIENT, Largest, LlavaCase, Reference, STATE, TextCase, assert_same_scores, batch, device,
    fixtures, floats, log_probs, nats,
};
use burn::module::Module;
use burn::tensor::{Gradients, Tensor};
use firebrick::adapters::{Adapter, PTuning, PrefixTuning, PromptTuning, Start};
use firebrick::checkpoint::{HostTensor, Shards, bridge, read_json};
use firebrick::data::{Batch, Encoded, PadSide};
use firebrick::generation::Stop;
use firebrick::models::Llama;
use firebrick::nn::{VirtualTokens, params};
use firebrick::objectives::Wants;
use firebrick::projector::Projector;
use firebrick::recipe::{Loaded, Saved, adapter_file, merge, save_final};
use firebrick::trainer::Policy;
use firebrick::vision::VisionEncoder;
use firebrick::vlm::Layout;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::path::PathBuf;

/// Gradients on the CPU, relative to the norm of their parameter's. PEFT's gradients go through other sums of f32, some of
/// which cancel.
const CPU_GRADIENT: f64 = 3e-5;

fn gradient_tolerance() -> f64 {
    if nats() == CPU_NATS { CPU_GRADIENT } else { GRADIENT }
}

/// Hands every case over a language model to `$check`, with its tuner's type.
macro_rules! every_text_case {
    ($check:ident) => {
        $check::<PrefixTuning>("prefix");
        $check::<PrefixTuning>("prefix_projection");
        $check::<PromptTuning>("prompt_random");
        $check::<PromptTuning>("prompt_text_long");
        $check::<PromptTuning>("prompt_text_short");
        $check::<PTuning>("p_tuning_mlp");
        $check::<PTuning>("p_tuning_lstm");
    };
}

/// A case over a language model.
pub struct Tuned<A> {
    pub reference: Reference,
    pub base: TextCase,
    adapter: A,
    rows: Vec<Encoded>,
}

impl<A: Adapter> Tuned<A> {
    /// The base with what PEFT saved on it.
    pub fn saved(name: &str) -> Self {
        let mut case = Self::base(name);
        let dir = case.reference.adapter_dir().unwrap();
        case.base.loaded = adapter_file::load(case.base.loaded, &case.adapter, &dir, &case.base.device).unwrap();
        case.base.loaded.model = frozen(case.base.loaded.model);
        case
    }

    fn base(name: &str) -> Self {
        let reference = Reference::open(&format!("tuners/{name}"));
        let folder = reference.model_dir().canonicalize().unwrap();
        let base = folder.parent().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
        let base = TextCase::text(&base, &device().autodiff());
        let adapter = adapter_file::read_settings(&reference.adapter_dir().unwrap()).unwrap();
        let rows = rows(&base.encoded[0]);
        Self { reference, base, adapter, rows }
    }

    /// The base with a fresh tuner on it, of the settings that were saved.
    pub fn fresh(name: &str) -> Self {
        let mut case = Self::base(name);
        attach(&mut case.base, &case.adapter);
        case
    }

    fn scores(&self) -> Vec<Vec<f32>> {
        log_probs(&self.base.loaded.model, &self.rows, &self.base.device)
    }

    pub fn virtual_tokens(&self) -> &VirtualTokens {
        self.base.loaded.model.virtual_tokens.as_ref().unwrap()
    }

    fn expected(&self) -> Vec<Vec<f32>> {
        self.reference.json["token_logprobs"].as_array().unwrap().iter().map(floats).collect()
    }
}

/// The model as a run trains it: nothing but the tuner.
fn frozen<M: Module>(model: M) -> M {
    params::set_trainable(model, |name| name.contains(".adapter."))
}

pub fn attach<A: Adapter, V: VisionEncoder, P: Projector>(case: &mut Case<V, P>, adapter: &A) {
    let Loaded { model, tokenizer, processor, .. } = &mut case.loaded;
    let layout = if processor.is_some() { Layout::Composed } else { Layout::Plain };
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let start = Start::Fresh(tokenizer);
    adapter_file::attach::<Llama, A, V, P>(model, adapter, layout, start, &mut rng, &case.device).unwrap();
    *model = frozen(model.clone());
}

/// Gives a fresh tuner the encoder that PEFT had before it saved the table.
fn fill<V: VisionEncoder, P: Projector>(case: &mut Case<V, P>, tensors: Vec<(String, Vec<f32>)>) {
    let model = &mut case.loaded.model;
    let adapter = &model.virtual_tokens.as_ref().unwrap().adapter;
    let mut shapes = HashMap::new();
    for (index, (name, param)) in adapter.rule.matrices().into_iter().zip(&adapter.matrices).enumerate() {
        shapes.insert(name, (format!("virtual_tokens.adapter.matrices.{index}"), param.dims().to_vec()));
    }
    for (index, (name, param)) in adapter.rule.biases().into_iter().zip(&adapter.biases).enumerate() {
        shapes.insert(name, (format!("virtual_tokens.adapter.biases.{index}"), param.dims().to_vec()));
    }
    let mut values = HashMap::new();
    for (name, tensor) in tensors {
        let (parameter, shape) = shapes.remove(&name).unwrap_or_else(|| panic!("no parameter for {name}"));
        values.insert(parameter, HostTensor::from_f32(shape, tensor).unwrap());
    }
    assert!(shapes.is_empty(), "PEFT has no {shapes:?}");
    *model = bridge::assign(model.clone(), values, &case.device);
}

/// The rows of `batch.json`; `like` lends what a row of text has besides.
pub fn rows(like: &Encoded) -> Vec<Encoded> {
    let file = read_json(&fixtures().join("tuners/batch.json")).unwrap();
    let one = |(index, row): (usize, &Value)| {
        let labels: Vec<i32> = serde_json::from_value(row["labels"].clone()).unwrap();
        let input_ids = serde_json::from_value(row["input_ids"].clone()).unwrap();
        let supervised = labels.iter().map(|label| *label >= 0).collect();
        Encoded { input_ids, supervised, id: format!("row {index}"), index, ..like.clone() }
    };
    file["rows"].as_array().unwrap().iter().enumerate().map(one).collect()
}

pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

#[test]
fn rows_alone_and_padded_on_either_side() {
    fn check<A: Adapter>(name: &str) {
        let case = Tuned::<A>::saved(name);
        let mut largest = Largest::new(format!("{name}, log-probabilities"), nats());
        for (row, (found, expected)) in case.scores().iter().zip(case.expected()).enumerate() {
            largest.check_all(&row, found, &expected, 1.0);
        }
        // PEFT's own left-padded batches differ from its rows alone; these do not.
        for side in [PadSide::Right, PadSide::Left] {
            let mut largest = Largest::new(format!("{name}, padded {side:?}"), nats());
            let scored = case.base.loaded.model.score(&batch(&case.rows, side), &case.base.device);
            for (row, (found, expected)) in scored.log_probs.iter().zip(case.expected()).enumerate() {
                largest.check_all(&row, found, &expected, 1.0);
            }
        }
    }
    every_text_case!(check);
}

#[test]
fn gradients_of_a_padded_batch() {
    fn check<A: Adapter>(name: &str) {
        let case =
            match Reference::open(&format!("tuners/{name}")).json["parameters"]["trained"].as_object().unwrap().len() {
                1 => Tuned::<A>::saved(name),
                _ => trained_encoder(name),
            };
        for side in [PadSide::Right, PadSide::Left] {
            let padded = batch(&case.rows, side);
            check_gradients(&format!("{name}, {side:?}"), &case.base, &padded, &case.reference.json["gradients"]);
        }
    }
    every_text_case!(check);
}

/// The case with the encoder that PEFT trained.
fn trained_encoder<A: Adapter>(name: &str) -> Tuned<A> {
    let mut case = Tuned::<A>::fresh(name);
    let encoder = case.reference.tensors("");
    fill(&mut case.base, encoder);
    case
}

fn check_gradients<V: VisionEncoder, P: Projector>(name: &str, case: &Case<V, P>, batch: &Batch, expected: &Value) {
    let model = &case.loaded.model;
    let loss = Policy::log_probs(model, batch, &case.device, &Wants::default()).values.mean().neg();
    let mut losses = Largest::new(format!("{name}, loss"), nats());
    losses.check(&name, f64::from(loss.clone().into_scalar::<f32>()), expected["loss"].as_f64().unwrap(), 1.0);
    let gradients = loss.backward();
    let found = named_gradients(model.virtual_tokens.as_ref().unwrap(), &gradients);
    let expected = expected["parameters"].as_object().unwrap();
    assert_eq!(found.len(), expected.len(), "{name}");
    let mut norms = Largest::new(format!("{name}, gradient norms"), gradient_tolerance());
    let mut singles = Largest::new(format!("{name}, gradient values"), gradient_tolerance());
    for (parameter, gradient) in found {
        let expected = &expected[&format!("prompt_encoder.default.{parameter}")];
        let norm = gradient.iter().map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        let wanted = expected["norm"].as_f64().unwrap();
        norms.check(&parameter, norm, wanted, wanted);
        let at: Vec<usize> = serde_json::from_value(expected["values_at"].clone()).unwrap();
        let picked: Vec<f32> = at.into_iter().map(|index| gradient[index]).collect();
        singles.check_all(&parameter, &picked, &floats(&expected["values"]), wanted);
    }
}

fn named_gradients(tokens: &VirtualTokens, gradients: &Gradients) -> Vec<(String, Vec<f32>)> {
    let adapter = &tokens.adapter;
    let matrices = adapter.matrices.iter().map(|p| values(p.val().grad(gradients).unwrap()));
    let biases = adapter.biases.iter().map(|p| values(p.val().grad(gradients).unwrap()));
    let names = adapter.rule.matrices().into_iter().chain(adapter.rule.biases());
    names.zip(matrices.chain(biases)).collect()
}

#[test]
fn an_encoder_yields_the_table_that_peft_saves() {
    fn check<A: Adapter>(name: &str) {
        let (case, saved) = (trained_encoder::<A>(name), Tuned::<A>::saved(name));
        let mut tables = Largest::new(format!("{name}, evaluated"), STATE);
        let expected = values(saved.virtual_tokens().table());
        tables.check_all(&name, &values(case.virtual_tokens().table()), &expected, 1.0);
        // What is saved of it is that table, which then scores as the encoder does.
        let out = tempfile::tempdir().unwrap();
        assert_eq!(save_final(&out.path().join("final"), &case.base.loaded, &case.adapter).unwrap(), Saved::Adapter);
        let again = reload(&case, &out.path().join("final"));
        assert_same_scores(name, &again.scores(), &case.scores());
    }
    check::<PrefixTuning>("prefix_projection");
    check::<PTuning>("p_tuning_mlp");
    check::<PTuning>("p_tuning_lstm");
}

fn reload<A: Adapter>(case: &Tuned<A>, dir: &std::path::Path) -> Tuned<A> {
    let name = case.reference.name.trim_start_matches("tuners/");
    let mut again = Tuned::<A>::base(name);
    let settings: A = adapter_file::read_settings(dir).unwrap();
    again.base.loaded = adapter_file::load(again.base.loaded, &settings, dir, &again.base.device).unwrap();
    again
}

#[test]
fn what_is_saved_has_pefts_key_and_settings_and_loads_with_the_same_bits() {
    fn check<A: Adapter>(name: &str) {
        let case = Tuned::<A>::saved(name);
        let out = tempfile::tempdir().unwrap();
        let dir = out.path().join("final");
        assert_eq!(save_final(&dir, &case.base.loaded, &case.adapter).unwrap(), Saved::Adapter, "{name}");
        let theirs = case.reference.adapter_dir().unwrap();
        let open = |dir: &std::path::Path| Shards::open_stem(dir, "adapter_model").unwrap();
        let (ours, expected) = (open(&dir), open(&theirs));
        assert_eq!((ours.len(), expected.len()), (1, 1), "{name}");
        let (ours, expected) = (ours.get("prompt_embeddings").unwrap(), expected.get("prompt_embeddings").unwrap());
        assert_eq!((ours.shape, ours.to_f32().unwrap()), (expected.shape, expected.to_f32().unwrap()), "{name}");

        let [ours, expected] = [&dir, &theirs].map(|dir| read_json(&dir.join("adapter_config.json")).unwrap());
        for (key, expected) in expected.as_object().unwrap() {
            match key.as_str() {
                // What PEFT notes about itself, and where this machine has the base.
                "auto_mapping" | "peft_version" | "revision" => {}
                "base_model_name_or_path" | "tokenizer_name_or_path" if expected.is_string() => {
                    let base = case.reference.model_dir().canonicalize().unwrap();
                    assert_eq!(PathBuf::from(ours[key].as_str().unwrap()), base, "{name}, {key}");
                }
                _ => assert_eq!(&ours[key], expected, "{name}, {key}"),
            }
        }
        assert_same_scores(name, &reload(&case, &dir).scores(), &case.scores());
    }
    every_text_case!(check);
}

#[test]
fn greedy_answers_alone_and_in_a_left_padded_batch() {
    fn check<A: Adapter>(name: &str) {
        let case = Tuned::<A>::saved(name);
        let expected = case.reference.json["generation"].as_array().unwrap();
        let prompts: Vec<Encoded> = expected
            .iter()
            .zip(&case.rows)
            .map(|(one, row)| {
                let input_ids: Vec<u32> = serde_json::from_value(one["prompt"].clone()).unwrap();
                Encoded { supervised: vec![false; input_ids.len()], input_ids, ..row.clone() }
            })
            .collect();
        let stop = Stop { end_tokens: Vec::new(), max_new_tokens: 6 };
        let generate = |prompts: &[Encoded]| {
            case.base.loaded.model.generate(&batch(prompts, PadSide::Left), &stop, &case.base.device, &mut |_, _| true)
        };
        let together = generate(&prompts);
        for (row, one) in expected.iter().enumerate() {
            assert_eq!(json!(generate(&prompts[row..=row])[0]), one["output_ids"], "{name}, {row} alone");
            assert_eq!(json!(together[row]), one["output_ids"], "{name}, {row} in a batch");
        }
    }
    every_text_case!(check);
}

#[test]
fn pictures_behind_virtual_tokens() {
    fn check<A: Adapter>(name: &str) {
        let mut case = LlavaCase::llava("llava_gqa", &device().autodiff());
        let reference = Reference::open("tuners/llava");
        let expected = &reference.json["tuners"][name];
        let dir = fixtures().join("tuners/llava").join(name);
        let adapter: A = adapter_file::read_settings(&dir).unwrap();
        let plain = log_probs(&case.loaded.model, &case.encoded, &case.device);
        case.loaded = adapter_file::load(case.loaded, &adapter, &dir, &case.device).unwrap();
        case.loaded.model = frozen(case.loaded.model);

        let mut largest = Largest::new(format!("llava, {name}"), nats());
        let both = [case.encoded[0].clone(), case.encoded[2].clone()];
        let wanted = [0, 2].map(|index| floats(&expected[format!("record_{index}")]["token_logprobs"]));
        for (found, wanted) in log_probs(&case.loaded.model, &both, &case.device).iter().zip(&wanted) {
            largest.check_all(&"alone", found, wanted, 1.0);
        }
        for side in [PadSide::Right, PadSide::Left] {
            let scored = case.loaded.model.score(&batch(&both, side), &case.device);
            for (found, wanted) in scored.log_probs.iter().zip(&wanted) {
                largest.check_all(&format_args!("{side:?}"), found, wanted, 1.0);
            }
        }
        let encoder = reference.tensors(&format!("{name}."));
        if !encoder.is_empty() {
            attach(&mut case, &adapter);
            fill(&mut case, encoder);
        }
        for (index, record) in [(0, &both[0]), (2, &both[1])] {
            let alone = batch(std::slice::from_ref(record), PadSide::Right);
            check_gradients(
                &format!("llava, {name}, {index}"),
                &case,
                &alone,
                &expected[format!("record_{index}")]["gradients"],
            );
        }
        // Without them it is the base again.
        case.loaded.model = case.loaded.model.without_adapters();
        assert_same_scores(name, &log_probs(&case.loaded.model, &case.encoded, &case.device), &plain);
    }
    check::<PrefixTuning>("prefix");
    check::<PromptTuning>("prompt");
    check::<PTuning>("p_tuning");
}

#[test]
fn virtual_tokens_are_not_merged() {
    let case = Tuned::<PrefixTuning>::saved("prefix");
    let error = merge(&mut case.base.loaded.model.clone()).unwrap_err().to_string();
    assert!(error.contains("cannot be merged"), "{error}");
    // Nor is a whole model saved without them.
    let mut loaded = case.base.loaded;
    loaded.model = params::set_trainable(loaded.model, |_| true);
    let out = tempfile::tempdir().unwrap();
    let error = save_final(&out.path().join("final"), &loaded, &case.adapter).unwrap_err();
    assert!(format!("{:#}", anyhow::Error::from(error)).contains("cannot be merged"));
    assert!(!out.path().join("final").exists());
}

#[test]
fn a_projector_trained_beside_them_goes_out_and_comes_back() {
    let mut case = LlavaCase::llava("llava_gqa", &device().autodiff());
    let module = || vec!["multi_modal_projector".to_owned()];
    let prompt = PromptTuning::builder().num_virtual_tokens(3).modules_to_save(module()).build().unwrap();
    attach(&mut case, &prompt);
    let moved = |name: &str| name.contains(".adapter.") || name.starts_with("multi_modal_projector.");
    case.loaded.model = params::set_trainable(case.loaded.model, moved);
    let projector = bridge::to_host(&case.loaded.model, |name, _| name.starts_with("multi_modal_projector."));
    let doubled = projector.into_iter().map(|(name, tensor)| {
        let values = tensor.to_f32().unwrap().iter().map(|value| 2.0 * value).collect();
        (name, HostTensor::from_f32(tensor.shape().to_vec(), values).unwrap())
    });
    case.loaded.model = bridge::assign(case.loaded.model, doubled.collect(), &case.device);

    let out = tempfile::tempdir().unwrap();
    assert_eq!(save_final(&out.path().join("final"), &case.loaded, &prompt).unwrap(), Saved::Adapter);
    let dir = out.path().join("final");
    let names: Vec<String> = Shards::open_stem(&dir, "adapter_model").unwrap().names().map(str::to_owned).collect();
    assert!(names.contains(&"base_model.model.multi_modal_projector.linear_1.weight".to_owned()), "{names:?}");
    let base = LlavaCase::llava("llava_gqa", &device().autodiff());
    let read: PromptTuning = adapter_file::read_settings(&dir).unwrap();
    assert_eq!(read.modules_to_save, module());
    let again = adapter_file::load(base.loaded, &read, &dir, &base.device).unwrap();
    assert_same_scores(
        "projector",
        &log_probs(&again.model, &case.encoded, &case.device),
        &log_probs(&case.loaded.model, &case.encoded, &case.device),
    );
}

#[test]
fn a_table_of_another_size_names_tensor_both_shapes_and_file() {
    let case = Tuned::<PrefixTuning>::base("prefix");
    let wrong = PrefixTuning { num_virtual_tokens: 4, ..case.adapter };
    let dir = case.reference.adapter_dir().unwrap();
    let error = adapter_file::load(case.base.loaded, &wrong, &dir, &device()).unwrap_err().to_string();
    for part in ["prompt_embeddings", "[3, 64]", "[4, 64]", "adapter_model.safetensors"] {
        assert!(error.contains(part), "{part} in {error}");
    }
}
