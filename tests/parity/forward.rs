//! Token ids, labels, pixels, features, hidden states and log-probabilities.

use super::case::{Case, LLAVA, Largest, LlavaCase, PIXEL, STATE, batch, device, every_case, floats, log_probs, nats};
use burn::tensor::{Tensor, TensorData};
use firebrick::data::PadSide;
use firebrick::models::CausalLm;
use firebrick::projector::{Projector, ProjectorModel};
use firebrick::trainer::Policy;
use firebrick::vision::{VisionEncoder, VisionTower};
use firebrick::vlm::VlmInputs;

mod records_alone {
    super::every_case!(super::records_alone, super::device());
}

fn records_alone<V: VisionEncoder, P: Projector>(case: &Case<V, P>) {
    let mut largest = Largest::new(format!("{}, log-probabilities", case.reference.name), nats());
    let scores = log_probs(&case.loaded.model, &case.encoded, &case.device);
    assert_eq!(case.encoded.len(), case.reference.records().len());
    for ((record, expected), scores) in case.encoded.iter().zip(case.reference.records()).zip(scores) {
        let one = batch(std::slice::from_ref(record), PadSide::Right);
        assert_eq!(record.id, expected["id"]);
        assert_eq!(serde_json::json!(one.input_ids), expected["input_ids"], "{}", record.id);
        assert_eq!(serde_json::json!(one.labels()), expected["labels"], "{}", record.id);
        largest.check_all(&record.id, &scores, &floats(&expected["token_logprobs"]), 1.0);
    }
}

mod padded_batches {
    super::every_case!(super::padded_batches, super::device());
}

fn padded_batches<V: VisionEncoder, P: Projector>(case: &Case<V, P>) {
    let mut largest = Largest::new(format!("{}, padded", case.reference.name), nats());
    for (side, key) in [(PadSide::Right, "right_padded"), (PadSide::Left, "left_padded")] {
        let scored = case.loaded.model.score(&case.batch(side), &case.device);
        for (scores, expected) in scored.log_probs.iter().zip(case.reference.records()) {
            let place = format!("{key} {}", expected["id"]);
            largest.check_all(&place, scores, &floats(&expected["token_logprobs"]), 1.0);
        }
        let sum: f64 = scored.log_probs.iter().flatten().map(|&v| f64::from(v)).sum();
        let expected = case.reference.json[key]["loss"].as_f64().unwrap();
        largest.check(&key, -sum / scored.total as f64, expected, 1.0);
    }
}

#[test]
fn pixels_and_features() {
    for name in LLAVA {
        let case = LlavaCase::llava(name, &device());
        let mut pixels = Largest::new(format!("{name}, pixels"), PIXEL);
        let mut features = Largest::new(format!("{name}, image features"), STATE);
        let model = &case.loaded.model;
        let mut seen = 0;
        for (index, record) in case.encoded.iter().enumerate() {
            let Some(expected) = case.reference.tensor(&format!("pixel_values.{index}")) else {
                continue;
            };
            pixels.check_all(&index, &record.pixel_values, &expected, 1.0);
            let (h, w) = record.image_size;
            let shape = [record.image_positions.len(), 3, h, w];
            let input = Tensor::from_data(TensorData::new(record.pixel_values.clone(), shape), &case.device);
            let output = model.multi_modal_projector.forward(model.vision_tower.encode(input));
            let expected = case.reference.tensor(&format!("image_features.{index}")).unwrap();
            features.check_all(&index, &values(output), &expected, 1.0);
            seen += shape[0];
        }
        assert_eq!(seen, 5, "{name}: pictures");
    }
}

#[test]
fn states_before_the_first_block_and_after_the_last_norm() {
    for name in LLAVA {
        let case = LlavaCase::llava(name, &device());
        let mut largest = Largest::new(format!("{name}, hidden states"), STATE);
        let inputs = VlmInputs::upload(&batch(&case.encoded[..1], PadSide::Right), &case.device);
        let model = &case.loaded.model;
        let last = case.reference.tensors("hidden_states.0.").len() - 1;
        let expected = |depth: usize| case.reference.tensor(&format!("hidden_states.0.{depth}")).unwrap();
        let embedded = model.embed(&inputs);
        largest.check_all(&"embedded", &values(embedded.clone()), &expected(0), 1.0);
        let hidden = model.language_model.hidden(embedded, &inputs.layout, None);
        largest.check_all(&"last", &values(hidden), &expected(last), 1.0);
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}
