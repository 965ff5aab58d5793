//! Several records in one row: transformers' numbers under a block-diagonal mask, and our own of the records alone.

use super::case::{GRADIENT, Largest, device, encode, fixtures, floats, load, nats, records};
use super::variants::configured;
use burn::tensor::Tensor;
use firebrick::checkpoint::read_json;
use firebrick::data::{Batch, Encoded, Example, PadSide, Padding, collate_lines};
use firebrick::example::Facts;
use firebrick::models::Llama;
use firebrick::nn::params;
use firebrick::objectives::{Inputs, Objective, Sft, State, StepTotals, Wants};
use firebrick::projector::NoProjector;
use firebrick::recipe::VlmOf;
use firebrick::trainer::{GradientSum, Policy};
use firebrick::vision::NoVision;
use serde_json::Value;
use std::collections::BTreeMap;

type Model = VlmOf<Llama, NoVision, NoProjector>;

/// Both sides are ours: the sums over a batch's tokens are taken in another order, nothing else differs.
const ORDER_OF_SUMS: f64 = 1e-6;

fn batch(encoded: &[Encoded], per_line: usize, side: PadSide, multiple_of: usize) -> Batch {
    let example = |row: &Encoded| Example { rows: vec![row.clone()], facts: Facts::default() };
    let examples: Vec<Example> = encoded.iter().map(example).collect();
    collate_lines(examples.chunks(per_line), &Padding { token: 2, side, multiple_of })
}

/// Loss, log-probabilities by record, and the gradient's norm by parameter.
fn run(model: &Model, batch: &Batch) -> (f64, Vec<Vec<f32>>, BTreeMap<String, f64>) {
    let device = device().autodiff();
    let policy = Policy::log_probs(model, batch, &device, &Wants::default());
    let step = StepTotals { examples: batch.examples(), tokens: batch.supervised_by_place(), training: true };
    let inputs = Inputs { policy, reference: None, mismatched: None, facts: &batch.facts };
    let loss: Tensor<1> = Sft::default().loss(inputs, &step, &mut State::default()).value;
    let value = f64::from(loss.clone().into_scalar::<f32>());
    let mut sum = GradientSum::default();
    sum.add(model, &mut loss.backward());
    (value, model.score(batch, &device).log_probs, sum.norm_by_parameter().into_iter().collect())
}

fn case(case: &Value) -> (Model, Vec<Encoded>) {
    let folder = tempfile::tempdir().unwrap();
    configured(case["model"].as_str().unwrap(), &case["overrides"], folder.path());
    let (loaded, encoder) = load(folder.path(), &NoVision::default(), &NoProjector::default(), &device().autodiff());
    (params::set_trainable(loaded.model, |_| true), encode(&encoder, &records(false)))
}

fn cases() -> Vec<Value> {
    let fixture: Value = read_json(&fixtures().join("packed.json")).unwrap();
    fixture["cases"].as_array().unwrap().clone()
}

#[test]
fn a_packed_row_has_the_reference_numbers() {
    for reference in cases() {
        let name = format!("{}, {}", reference["model"], reference["name"]);
        let (model, encoded) = case(&reference);
        let mut log_probs = Largest::new(format!("packed {name}, log-probabilities"), nats());
        let mut gradients = Largest::new(format!("packed {name}, gradients"), GRADIENT);
        // A whole row, with padding on either side.
        for (side, multiple_of) in [(PadSide::Right, 1), (PadSide::Right, 64), (PadSide::Left, 64)] {
            let (loss, scores, norms) = run(&model, &batch(&encoded, encoded.len(), side, multiple_of));
            log_probs.check(&"loss", loss, reference["loss"].as_f64().unwrap(), 1.0);
            for (index, expected) in reference["token_logprobs"].as_array().unwrap().iter().enumerate() {
                log_probs.check_all(&format!("record {index}"), &scores[index], &floats(expected), 1.0);
            }
            let expected = reference["grad_norms"].as_object().unwrap();
            assert_eq!(norms.len(), expected.len());
            for (parameter, norm) in norms {
                let key = parameter.replace("language_model.", "model.").replace("model.lm_head", "lm_head");
                let wanted = expected[&key].as_f64().unwrap();
                gradients.check(&key, norm, wanted, wanted);
            }
        }
    }
}

#[test]
fn a_packed_step_is_the_unpacked_one() {
    for reference in &cases() {
        let (model, encoded) = case(reference);
        let (loss, scores, norms) = run(&model, &batch(&encoded, 1, PadSide::Right, 8));
        for per_line in [2, 3, encoded.len()] {
            let packed = batch(&encoded, per_line, PadSide::Right, 8);
            assert_eq!((packed.rows, packed.lines()), (encoded.len(), encoded.len().div_ceil(per_line)));
            let (packed_loss, packed_scores, packed_norms) = run(&model, &packed);
            assert!((packed_loss - loss).abs() <= ORDER_OF_SUMS * loss, "{packed_loss} and {loss}");
            for (found, expected) in packed_scores.iter().flatten().zip(scores.iter().flatten()) {
                assert!((found - expected).abs() <= ORDER_OF_SUMS as f32 * expected.abs().max(1.0));
            }
            let whole = norms.values().map(|norm| norm * norm).sum::<f64>().sqrt();
            for (name, norm) in &norms {
                let found = packed_norms[name];
                assert!((found - norm).abs() <= ORDER_OF_SUMS * whole, "{name}: {found} and {norm}");
            }
        }
    }
}
