//! Tuners of linear layers and of rows of tokens against PEFT: numbers, gradients, files there and back, merged and off.

use super::case::{
    GRADIENT, Largest, Reference, assert_same_scores, device, encode, fixtures, floats, load, log_probs, nats, records,
};
use burn::tensor::{Device, Int, Tensor};
use firebrick::adapters::lora::{Combine, Init, TokenIndices};
use firebrick::adapters::{Adapter, AdapterError, Ia3, Lora};
use firebrick::checkpoint::{Shards, read_json};
use firebrick::models::{CausalLm, Llama};
use firebrick::nn::{FIXED, RateGroup, SequenceLayout, params, token_log_probs};
use firebrick::projector::{Mlp2xGelu, NoProjector};
use firebrick::recipe::{
    Loaded, RecipeError, Saved, VlmOf, adapter_file, combine, merge, save_adapter, save_final, with_adapter,
};
use firebrick::trainer::{AdamW, GradientSum, Train};
use firebrick::vision::{Clip, NoVision};
use firebrick::vlm::{Layout, VlmInputs, module_to_save};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

type Text = Loaded<Llama, NoVision, NoProjector>;
type Model = VlmOf<Llama, NoVision, NoProjector>;

/// Tokens of one row, and which of them are supervised.
#[derive(Clone)]
struct Row {
    ids: Vec<i32>,
    supervised: Vec<bool>,
}

fn rows(value: &Value) -> Vec<Row> {
    let ids = |list: &Value| list.as_array().unwrap().iter().map(|id| id.as_i64().unwrap() as i32).collect::<Vec<_>>();
    let row = |row: &Value| Row {
        ids: ids(&row["input_ids"]),
        supervised: ids(&row["labels"]).iter().map(|label| *label != -100).collect(),
    };
    value.as_array().unwrap().iter().map(row).collect()
}

fn common_rows() -> Vec<Row> {
    rows(&read_json(&fixtures().join("tuners/batch.json")).unwrap()["rows"])
}

#[derive(Clone, Copy)]
enum Side {
    Left,
    Right,
}

/// Log-probabilities of the supervised tokens of rows in one batch.
fn batch_log_probs(model: &Model, rows: &[Row], side: Side, device: &Device) -> Tensor<1> {
    let width = rows.iter().map(|row| row.ids.len()).max().unwrap();
    let start = |row: &Row| if matches!(side, Side::Left) { width - row.ids.len() } else { 0 };
    let (mut ids, mut predictors, mut wanted) = (vec![2; rows.len() * width], Vec::new(), Vec::new());
    for (number, row) in rows.iter().enumerate() {
        let first = number * width + start(row);
        ids[first..][..row.ids.len()].copy_from_slice(&row.ids);
        for (position, _) in row.supervised.iter().enumerate().filter(|(_, supervised)| **supervised) {
            predictors.push((first + position) as i32 - 1);
            wanted.push(row.ids[position]);
        }
    }
    let ints = |values: &[i32]| Tensor::<1, Int>::from_data(values, device);
    let inputs = VlmInputs {
        ids_bt: ints(&ids).reshape([rows.len(), width]),
        layout: SequenceLayout::with_starts(rows.iter().map(start).collect::<Vec<_>>()),
        images: None,
        embedding_noise: 0.0,
    };
    let hidden = model.hidden_at(&inputs, ints(&predictors));
    token_log_probs(hidden, model.language_model.head(), ints(&wanted))
}

fn loss(model: &Model, rows: &[Row], side: Side, device: &Device) -> Tensor<1> {
    batch_log_probs(model, rows, side, device).mean().neg()
}

fn scalar(value: Tensor<1>) -> f64 {
    f64::from(value.into_scalar::<f32>())
}

fn alone(model: &Model, rows: &[Row], device: &Device) -> Vec<Vec<f32>> {
    let one = |row| batch_log_probs(model, std::slice::from_ref(row), Side::Right, device).into_data().iter().collect();
    rows.iter().map(one).collect()
}

fn base(reference: &Reference, device: &Device) -> Text {
    load(&reference.model_dir(), &NoVision::default(), &NoProjector::default(), device).0
}

/// The base with an adapter as it stands in training.
fn trained<A: Adapter>(base: Text, adapter: &A, dir: &Path, device: &Device) -> Text {
    let mut loaded = adapter_file::load(base, adapter, dir, device).unwrap();
    loaded.model = params::set_trainable(loaded.model, |name| name.contains(".adapter.") && !name.contains(FIXED));
    loaded
}

/// The key in a file of a parameter inside PEFT's model.
fn key(peft: &str) -> String {
    let key = peft.replace(".default", "");
    key.strip_suffix("lora_magnitude_vector.weight").map_or(key.clone(), |rest| format!("{rest}lora_magnitude_vector"))
}

/// Each row of a list of lists against what was found.
fn check_rows(largest: &mut Largest, found: &[Vec<f32>], expected: &Value) {
    for (row, found) in found.iter().enumerate() {
        largest.check_all(&row, found, &floats(&expected[row]), 1.0);
    }
}

/// A tensor against its norm and some of its values.
fn check_summary(largest: &mut Largest, place: &str, found: &[f32], expected: &Value, scale: f64) {
    let norm = found.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    largest.check(&place, norm, expected["norm"].as_f64().unwrap(), scale);
    for (at, value) in expected["values_at"].as_array().unwrap().iter().zip(floats(&expected["values"])) {
        let at = at.as_u64().unwrap() as usize;
        largest.check(&format_args!("{place}[{at}]"), f64::from(found[at]), f64::from(value), scale);
    }
}

/// What is below this share of the whole gradient is rounding.
const SMALL: f64 = 1e-4;

fn check_gradients(name: &str, loaded: &Text, rows: &[Row], expected: &Value, device: &Device) {
    let mut largest = Largest::new(format!("{name}, gradients"), GRADIENT);
    let mut gradients = loss(&loaded.model, rows, Side::Right, device).backward();
    let mut sum = GradientSum::default();
    let total = expected["grad_norm"].as_f64().unwrap();
    let all = all_gradients(&loaded.model, &gradients);
    sum.add(&loaded.model, &mut gradients);
    largest.check(&"global norm", sum.global_norm(), total, total);
    let names: BTreeMap<String, String> =
        loaded.model.adapter_matrices(Layout::Plain).into_iter().map(|m| (m.key, m.parameter)).collect();
    let expected = expected["parameters"].as_object().unwrap();
    assert_eq!(names.len(), expected.len(), "{name}: {names:?}");
    for (peft, summary) in expected {
        let found = &all[&names[&key(peft)]];
        let norm = summary["norm"].as_f64().unwrap().max(total * SMALL);
        check_summary(&mut largest, peft, found, summary, norm);
    }
}

fn all_gradients(model: &Model, gradients: &burn::tensor::Gradients) -> BTreeMap<String, Vec<f32>> {
    struct Collect<'a>(&'a burn::tensor::Gradients, BTreeMap<String, Vec<f32>>);
    impl params::NamedVisitor for Collect<'_> {
        fn visit<const D: usize>(&mut self, name: &str, param: &burn::module::Param<Tensor<D>>) {
            if let Some(gradient) = param.val().grad(self.0) {
                self.1.insert(name.to_owned(), gradient.into_data().iter().collect());
            }
        }
    }
    let mut collect = Collect(gradients, BTreeMap::new());
    params::visit(model, &mut collect);
    collect.1
}

/// Everything that holds for a tuner whose folder PEFT has written.
fn check<A: Adapter>(case: &str) {
    let reference = Reference::open(&format!("tuners/{case}"));
    let (dir, json, device) = (reference.adapter_dir().unwrap(), &reference.json, device().autodiff());
    let rows = json.get("rows").map_or_else(common_rows, self::rows);
    let adapter: A = adapter_file::read_settings(&dir).unwrap();
    let grown = || {
        let mut base = base(&reference, &device);
        let rows = rows.iter().flat_map(|row| &row.ids).max().unwrap() + 1;
        let wanted = base.model.language_model.vocab_size().max(rows as usize);
        base.model.language_model = base.model.language_model.grow_vocabulary(wanted);
        base
    };
    let plain = alone(&grown().model, &rows, &device);
    let loaded = trained(grown(), &adapter, &dir, &device);

    let mut largest = Largest::new(format!("{case}, log-probabilities"), nats());
    let found = alone(&loaded.model, &rows, &device);
    check_rows(&mut largest, &found, &json["token_logprobs"]);
    for (side, key) in [(Side::Right, "right_padded"), (Side::Left, "left_padded")] {
        let value = scalar(loss(&loaded.model, &rows, side, &device));
        largest.check(&key, value, json[key]["loss"].as_f64().unwrap(), 1.0);
    }
    check_gradients(case, &loaded, &rows, &json["gradients"], &device);

    let out = tempfile::tempdir().unwrap();
    save_adapter(&out.path().join("saved"), &loaded, &adapter).unwrap();
    check_files(case, &dir, &out.path().join("saved"));
    let read: A = adapter_file::read_settings(&out.path().join("saved")).unwrap();
    let again = adapter_file::load(grown(), &read, &out.path().join("saved"), &device).unwrap();
    assert_same_scores(case, &alone(&again.model, &rows, &device), &found);

    assert_same_scores(case, &alone(&loaded.model.without_adapters(), &rows, &device), &plain);
    assert_same_scores(case, &alone(&loaded.model, &rows, &device), &found);
    let mut merged = loaded.model.clone();
    merge(&mut merged).unwrap();
    assert!(params::list(&merged).iter().all(|parameter| !parameter.name.contains(".adapter.")));
    check_rows(&mut largest, &alone(&merged, &rows, &device), &json["token_logprobs"]);
}

/// Both folders hold the same keys, shapes and bits.
fn check_files(case: &str, theirs: &Path, ours: &Path) {
    let theirs = Shards::open_stem(theirs, "adapter_model").unwrap();
    let ours = Shards::open_stem(ours, "adapter_model").unwrap();
    assert_eq!(theirs.len(), ours.len(), "{case}");
    for view in theirs.iter() {
        let found = ours.get(view.name).unwrap_or_else(|| panic!("{case}: no {}", view.name));
        assert_eq!((found.shape, found.to_f32().unwrap()), (view.shape, view.to_f32().unwrap()), "{}", view.name);
    }
}

#[test]
fn dora() {
    check::<Lora>("dora");
}

#[test]
fn rslora_with_ranks_and_alphas_by_layer() {
    check::<Lora>("rslora");
}

#[test]
fn ia3_without_feedforward() {
    check::<Ia3>("ia3_attention");
}

#[test]
fn ia3_scales_biases() {
    check::<Ia3>("ia3_default");
}

#[test]
fn ia3_of_inputs() {
    check::<Ia3>("ia3_llama");
}

#[test]
fn rows_of_the_token_table() {
    check::<Lora>("tokens_untied");
}

#[test]
fn rows_of_table_and_head() {
    check::<Lora>("tokens_untied_both");
}

#[test]
fn rows_of_a_table_that_is_the_head() {
    check::<Lora>("tokens_tied");
}

#[test]
fn rows_of_a_grown_vocabulary() {
    check::<Lora>("tokens_grown");
}

/// A fresh adapter changes nothing, and starts where PEFT's does.
#[test]
fn fresh_adapters_change_nothing() {
    let reference = Reference::open("tuners/dora");
    let device = device();
    let rows = common_rows();
    let plain = alone(&base(&reference, &device).model, &rows, &device);
    let mut largest = Largest::new("fresh adapters", nats());
    let tokens = TokenIndices { embed_tokens: vec![2, 35], lm_head: Vec::new() };
    check_fresh(&reference, &Ia3::default(), &plain, &rows, &mut largest);
    for use_dora in [false, true] {
        for init_lora_weights in [Init::Default, Init::Gaussian, Init::Pissa] {
            let lora =
                Lora { r: 3, use_dora, init_lora_weights, trainable_token_indices: tokens.clone(), ..Lora::default() };
            check_fresh(&reference, &lora, &plain, &rows, &mut largest);
        }
    }
}

fn check_fresh<A: Adapter>(
    reference: &Reference,
    adapter: &A,
    plain: &[Vec<f32>],
    rows: &[Row],
    largest: &mut Largest,
) {
    let mut loaded = base(reference, &device());
    let model = loaded.model.language_model;
    loaded.model.language_model =
        adapter.attach(model, "model.", &mut ChaCha8Rng::seed_from_u64(0), &device()).unwrap();
    for (found, plain) in alone(&loaded.model, rows, &device()).iter().zip(plain) {
        largest.check_all(&A::NAME, found, plain, 1.0);
    }
}

#[test]
fn what_does_not_suit_the_model_is_refused() {
    let attach = |case: &str, lora: Lora| {
        let model = base(&Reference::open(case), &device()).model.language_model;
        lora.attach(model, "model.", &mut ChaCha8Rng::seed_from_u64(0), &device()).err().map(|error| error.to_string())
    };
    let lora = Lora { modules_to_save: Vec::new(), ..Lora::default() };
    let tokens = |embed_tokens, lm_head| TokenIndices { embed_tokens, lm_head };
    let refused = |case: &str, lora: Lora, expected: &str| {
        let error = attach(case, lora).unwrap();
        assert!(error.contains(expected), "{error}");
    };
    refused("tuners/dora", Lora { r: 9, init_lora_weights: Init::Pissa, ..lora.clone() }, "8 × 32");
    refused("tuners/dora", Lora { trainable_token_indices: tokens(vec![398], vec![]), ..lora.clone() }, "token 398");
    refused("tuners/dora", Lora { trainable_token_indices: tokens(vec![], vec![2]), ..lora.clone() }, "lm_head");
    refused("tuners/dora", Lora { modules_to_save: vec!["embed_tokens".into()], ..lora.clone() }, "are one");
    assert_eq!(attach("tuners/rslora", Lora { trainable_token_indices: tokens(vec![], vec![2]), ..lora }), None);
}

/// Singular vectors have no sign of their own: products and norms are compared.
#[test]
fn pissa_starts_and_learns_as_pefts() {
    let reference = Reference::open("tuners/pissa");
    let (json, device, rows) = (&reference.json, device().autodiff(), common_rows());
    let lora: Lora = adapter_file::read_settings(&reference.adapter_dir().unwrap()).unwrap();
    assert_eq!(lora.init_lora_weights, Init::Pissa);
    let mut loaded = base(&reference, &device);
    let plain = alone(&loaded.model, &rows, &device);
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    loaded.model.language_model = lora.attach(loaded.model.language_model, "model.", &mut rng, &device).unwrap();
    loaded.model = params::set_trainable(loaded.model, |name| name.contains(".adapter.") && !name.contains(FIXED));

    let mut products = Largest::new("pissa, products", 1e-5);
    loaded.model.visit_adapters(&mut |path, slot| {
        let module = &json["modules"][&format!("model.{path}")];
        let product = slot.params[1].val().matmul(slot.params[0].val()) * module["scaling"].as_f64().unwrap();
        let found: Vec<f32> = product.into_data().iter().collect();
        check_summary(&mut products, path, &found, &module["product"], 1.0);
    });
    let mut norms = Largest::new("pissa, norms of gradients", GRADIENT);
    let mut sum = GradientSum::default();
    sum.add(&loaded.model, &mut loss(&loaded.model, &rows, Side::Right, &device).backward());
    let found = sum.norm_by_parameter();
    for matrix in loaded.model.adapter_matrices(Layout::Plain) {
        let peft = matrix.key.replace(".weight", ".default.weight");
        let expected = json["gradients_at_start"]["parameters"][&peft]["norm"].as_f64().unwrap();
        norms.check(&peft, found[&matrix.parameter], expected, expected);
    }
    assert_eq!(found.len(), json["gradients_at_start"]["parameters"].as_object().unwrap().len());

    let losses = floats(&json["training"]["losses"]);
    let settings = Train { learning_rate: 1e-2, ..Train::default() };
    let mut largest = Largest::new("pissa, losses of 3 steps", nats());
    let mut adam = AdamW::default();
    for (step, expected) in losses.iter().enumerate() {
        let value = loss(&loaded.model, &rows, Side::Right, &device);
        largest.check(&step, scalar(value.clone()), f64::from(*expected), 1.0);
        if step + 1 < losses.len() {
            let mut sum = GradientSum::default();
            sum.add(&loaded.model, &mut value.backward());
            loaded.model = adam.step(loaded.model, sum, &settings, 1.0, 1.0);
        }
    }
    let after = alone(&loaded.model, &rows, &device);
    check_rows(&mut largest, &after, &json["token_logprobs"]);
    assert_same_scores("pissa, off", &alone(&loaded.model.without_adapters(), &rows, &device), &plain);

    // What is saved is a plain LoRA over the base as it was.
    let out = tempfile::tempdir().unwrap();
    save_adapter(&out.path().join("saved"), &loaded, &lora).unwrap();
    let config = read_json(&out.path().join("saved/adapter_config.json")).unwrap();
    assert_eq!((config["r"].as_u64(), config["lora_alpha"].as_f64()), (Some(8), Some(12.0)));
    assert_eq!(config["init_lora_weights"], true);
    let read: Lora = adapter_file::read_settings(&out.path().join("saved")).unwrap();
    let again = adapter_file::load(base(&reference, &device), &read, &out.path().join("saved"), &device).unwrap();
    for (found, expected) in alone(&again.model, &rows, &device).iter().zip(&after) {
        largest.check_all(&"saved", found, expected, 1.0);
    }
    merge(&mut loaded.model).unwrap();
    check_rows(&mut largest, &alone(&loaded.model, &rows, &device), &json["token_logprobs"]);
}

#[test]
fn pissa_folders_load_in_both_forms() {
    let reference = Reference::open("tuners/pissa");
    let (device, rows) = (device(), common_rows());
    let dir = reference.model_dir().parent().unwrap().parent().unwrap().join("tuners/pissa");
    for form in ["adapter", "converted"] {
        let mut largest = Largest::new(format!("pissa, {form}"), nats());
        let loaded = with_adapter(base(&reference, &device), &dir.join(form), &device).unwrap();
        check_rows(&mut largest, &alone(&loaded.model, &rows, &device), &reference.json["token_logprobs"]);
    }
}

/// A token table and a head that are trained whole go out under PEFT's keys and come back.
#[test]
fn modules_are_saved_whole() {
    let reference = Reference::open("tuners/rslora");
    let (device, rows) = (device().autodiff(), common_rows());
    let whole = ["embed_tokens", "lm_head"].map(str::to_owned).to_vec();
    let lora = Lora { modules_to_save: whole.clone(), ..Lora::default() };
    let mut loaded = base(&reference, &device);
    let mut rng = ChaCha8Rng::seed_from_u64(0);
    loaded.model.language_model = lora.attach(loaded.model.language_model, "model.", &mut rng, &device).unwrap();
    loaded.model = params::set_trainable(loaded.model, |name| {
        name.contains(".adapter.") || module_to_save(name).is_some_and(|module| whole.iter().any(|w| w == module))
    });
    let mut sum = GradientSum::default();
    sum.add(&loaded.model, &mut loss(&loaded.model, &rows, Side::Right, &device).backward());
    let settings = Train { learning_rate: 1e-2, ..Train::default() };
    loaded.model = AdamW::default().step(loaded.model, sum, &settings, 1.0, 1.0);
    let out = tempfile::tempdir().unwrap();
    let dir = out.path().join("final");
    assert_eq!(save_final(&dir, &loaded, &lora).unwrap(), Saved::Adapter);
    let files = Shards::open_stem(&dir, "adapter_model").unwrap();
    for key in ["base_model.model.model.embed_tokens.weight", "base_model.model.lm_head.weight"] {
        assert_eq!(files.get(key).unwrap().shape, [398, 32], "{key}");
    }
    assert_eq!(adapter_file::read_settings::<Lora>(&dir).unwrap().modules_to_save, whole);
    let again = with_adapter(base(&reference, &device), &dir, &device).unwrap();
    let found = alone(&loaded.model, &rows, &device);
    assert_same_scores("modules saved whole", &alone(&again.model, &rows, &device), &found);
    let plain = alone(&base(&reference, &device).model, &rows, &device);
    assert!(plain[0].iter().zip(&found[0]).any(|(a, b)| (a - b).abs() > 0.01), "nothing was trained");
}

#[test]
fn lora_plus_takes_pefts_groups_and_steps() {
    let reference = Reference::open("tuners/loraplus_rows");
    let (json, device, rows) = (&reference.json, device().autodiff(), common_rows());
    let dir = fixtures().join("tuners/loraplus_rows/start");
    let lora: Lora = adapter_file::read_settings(&dir).unwrap();
    let mut loaded = trained(base(&reference, &device), &lora, &dir, &device);
    let given = |key: &str| json["settings"][key].as_f64().unwrap();
    let settings = Train {
        learning_rate: given("lr"),
        loraplus_lr_ratio: Some(given("loraplus_lr_ratio")),
        weight_decay: given("loraplus_weight_decay"),
        ..Train::default()
    };
    let mut raised: Vec<String> = loaded
        .model
        .adapter_matrices(Layout::Plain)
        .into_iter()
        .filter(|matrix| matrix.rate_group == RateGroup::Raised)
        .map(|matrix| matrix.key)
        .collect();
    let mut expected: Vec<String> =
        json["groups"][2]["parameters"].as_array().unwrap().iter().map(|name| key(name.as_str().unwrap())).collect();
    expected.sort();
    raised.sort();
    assert_eq!(raised, expected);

    let mut adam = AdamW { rate_groups: loaded.model.rate_groups(), ..AdamW::default() };
    let mut largest = Largest::new("LoRA+, losses of 3 steps", nats());
    let losses = floats(&json["losses"]);
    for (step, expected) in losses.iter().enumerate() {
        let value = loss(&loaded.model, &rows, Side::Right, &device);
        largest.check(&step, scalar(value.clone()), f64::from(*expected), 1.0);
        if step + 1 < losses.len() {
            let mut sum = GradientSum::default();
            sum.add(&loaded.model, &mut value.backward());
            loaded.model = adam.step(loaded.model, sum, &settings, 1.0, 1.0);
        }
    }
    // Adam's first steps are of the rate's size whatever the gradient's: compared on the scale of such a step.
    let mut largest = Largest::new("LoRA+, weights after 3 steps", 1e-3);
    let tensors: BTreeMap<String, Vec<f32>> = loaded
        .model
        .adapter_tensors(Layout::Plain)
        .into_iter()
        .map(|(key, _, tensor)| (key, tensor.into_data().iter().collect()))
        .collect();
    for (peft, summary) in json["after"].as_object().unwrap() {
        check_summary(&mut largest, peft, &tensors[&key(peft)], summary, 1.0);
    }
}

#[test]
fn dropout_is_off_in_evaluation() {
    let reference = Reference::open("tuners/dropout");
    let rows = common_rows();
    let tuner = "dora";
    let dir = fixtures().join("tuners/dropout").join(tuner);
    let loaded = with_adapter(base(&reference, &device()), &dir, &device()).unwrap();
    let mut largest = Largest::new(format!("dropout, {tuner}"), nats());
    let expected = reference.json["tuners"][tuner]["loss_in_eval"].as_f64().unwrap();
    largest.check(&tuner, scalar(loss(&loaded.model, &rows, Side::Right, &device())), expected, 1.0);
}

#[test]
fn tuners_of_llava() {
    let reference = Reference::open("tuners/llava_linear");
    let device = device();
    for tuner in ["ia3", "dora_tokens"] {
        let dir = fixtures().join("tuners/llava_linear").join(tuner);
        let open = || load(&reference.model_dir(), &Clip::default(), &Mlp2xGelu::default(), &device);
        let (base, encoder) = open();
        let encoded = encode(&encoder, &records(true));
        let plain = log_probs(&base.model, &encoded, &device);
        let loaded = with_adapter(base, &dir, &device).unwrap();
        let found = log_probs(&loaded.model, &encoded, &device);
        let mut largest = Largest::new(format!("llava, {tuner}"), nats());
        for record in [0, 2] {
            let expected = &reference.json["tuners"][tuner][format!("record_{record}")]["token_logprobs"];
            largest.check_all(&record, &found[record], &floats(expected), 1.0);
        }
        assert_same_scores(tuner, &log_probs(&loaded.model.without_adapters(), &encoded, &device), &plain);
        let out = tempfile::tempdir().unwrap();
        let saved = out.path().join("saved");
        match tuner {
            "ia3" => save_adapter(&saved, &loaded, &adapter_file::read_settings::<Ia3>(&dir).unwrap()).unwrap(),
            _ => save_adapter(&saved, &loaded, &adapter_file::read_settings::<Lora>(&dir).unwrap()).unwrap(),
        }
        check_files(tuner, &dir, &saved);
        let again = with_adapter(open().0, &saved, &device).unwrap();
        assert_same_scores(tuner, &log_probs(&again.model, &encoded, &device), &found);
    }
}

/// The Bernoulli draws of a combination, in their order.
fn masks(name: &str) -> Vec<Vec<bool>> {
    let file = Shards::open_file(&fixtures().join("tuners/weighted/reference.safetensors")).unwrap();
    let mask = |index: usize| file.get(&format!("{name}.mask.{index}"));
    (0..).map_while(mask).map(|view| view.bytes.iter().map(|byte| *byte != 0).collect()).collect()
}

#[test]
fn weighted_sums() {
    let reference = Reference::open("tuners/weighted");
    let folder = fixtures().join("tuners/weighted");
    let (device, rows) = (device(), common_rows());
    let mut losses = Largest::new("weighted sums, losses", nats());
    let mut deltas = Largest::new("weighted sums, updates", 1e-5);
    let combinations = reference.json["combinations"].as_object().unwrap();
    assert!(combinations.len() > 10);
    // PEFT takes `linear` for a single adapter, whatever was asked; and clamps by quantiles that depend on arbitrary signs.
    for (name, given) in combinations.iter().filter(|(name, _)| !["single", "svd_clamp"].contains(&name.as_str())) {
        let how = Combine {
            density: given["density"].as_f64(),
            majority_sign: given["majority_sign_method"].as_str().unwrap_or("total").parse().unwrap(),
            svd_rank: given["svd_rank"].as_u64().map(|rank| rank as usize),
            ..Combine::new(given["combination_type"].as_str().unwrap().parse().unwrap())
        };
        let dirs: Vec<PathBuf> =
            given["adapters"].as_array().unwrap().iter().map(|name| folder.join(name.as_str().unwrap())).collect();
        let dirs: Vec<&Path> = dirs.iter().map(PathBuf::as_path).collect();
        let weights: Vec<f64> = given["weights"].as_array().unwrap().iter().map(|w| w.as_f64().unwrap()).collect();
        let masks = masks(name);
        let out = tempfile::tempdir().unwrap();
        let output = out.path().join("combined");
        if masks.is_empty() {
            combine(&dirs, &weights, &how, &output).unwrap();
        } else {
            let mut masks = masks.into_iter();
            firebrick::recipe::combine_with(&dirs, &weights, &how, &output, &mut |n| {
                let mask = masks.next().unwrap();
                assert_eq!(mask.len(), n);
                mask
            })
            .unwrap();
            assert!(masks.next().is_none());
        }
        let config = read_json(&output.join("adapter_config.json")).unwrap();
        assert_eq!(
            (&config["r"], config["lora_alpha"].as_f64()),
            (&given["r"], given["lora_alpha"].as_f64()),
            "{name}"
        );
        let loaded = with_adapter(base(&reference, &device), &output, &device).unwrap();
        loaded.model.visit_adapters(&mut |path, slot| {
            let product = slot.params[1].val().matmul(slot.params[0].val());
            let found: Vec<f32> = product.into_data().iter().collect();
            let expected = &given["delta"][&format!("model.{path}")];
            check_summary(&mut deltas, &format!("{name}, {path}"), &found, expected, 1.0);
        });
        losses.check(
            name,
            scalar(loss(&loaded.model, &rows, Side::Right, &device)),
            given["loss"].as_f64().unwrap(),
            1.0,
        );
    }
}

#[test]
fn what_has_no_weighted_sum_is_refused() {
    let folder = fixtures().join("tuners");
    let out = tempfile::tempdir().unwrap();
    let refused = |names: &[&str], weights: &[f64], kind: &str, expected: &str| {
        let dirs: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
        let dirs: Vec<&Path> = dirs.iter().map(PathBuf::as_path).collect();
        let how = Combine::new(kind.parse().unwrap());
        let error = combine(&dirs, weights, &how, &out.path().join("none")).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert!(!out.path().join("none").exists());
    };
    refused(&["weighted/a", "weighted/b"], &[1.0], "cat", "2 adapters and 1 weights");
    refused(&["weighted/a", "weighted/c"], &[1.0, 1.0], "linear", "[4, 2]");
    refused(&["weighted/a", "weighted/b"], &[1.0, 1.0], "ties", "density");
    refused(&["weighted/a", "dora/adapter"], &[1.0, 1.0], "cat", "DoRA");
    refused(&["weighted/a", "pissa/adapter"], &[1.0, 1.0], "cat", "PiSSA");
    refused(&["ia3_llama/adapter"], &[1.0], "cat", "IA3");
    refused(&["tokens_untied/adapter", "tokens_untied_both/adapter"], &[1.0, 1.0], "cat", "trained whole");
}

#[test]
fn a_tuner_that_is_not_there_is_named() {
    let dir = fixtures().join("tuners/ia3_llama/adapter");
    let error = adapter_file::read_settings::<Lora>(&dir).unwrap_err();
    assert!(matches!(&error, RecipeError::AdapterFolder { source: AdapterError::Kind { .. }, .. }), "{error}");
}
