//! Scores of a sequence head behind virtual tokens.

use super::case::{Largest, Reference, TextCase, batch, device, floats, nats};
use super::prompt_learning::rows;
use burn::module::{Param, ParamId};
use burn::tensor::{Device, Tensor, TensorData};
use firebrick::adapters::{Adapter, ChaCha8Rng, PTuning, PrefixTuning, PromptTuning, Start};
use firebrick::checkpoint::{Shards, read_json};
use firebrick::data::PadSide;
use firebrick::nn::{Linear, VirtualTokens, Weight};
use firebrick::vlm::{VlmInputs, last_tokens};
use rand_chacha::rand_core::SeedableRng;

/// PEFT's own right-padded batches with embedded prompts score padding, and its left-padded ones leave it between prompt and
/// text; what is right are its rows alone.
#[test]
fn the_last_token_of_a_padded_row_scores_as_the_row_alone() {
    fn check<A: Adapter>(name: &str) {
        let device = device();
        let mut case = TextCase::text("llama_text", &device);
        let reference = Reference::open("tuners/classification");
        let expected = reference.json["tuners"][name]["logits"].as_array().unwrap().clone();
        let dir = super::case::fixtures().join("tuners/classification").join(name);
        let file = Shards::open_stem(&dir, "adapter_model").unwrap();
        let matrix = |key: &str| {
            let view = file.get(key).unwrap();
            parameter(view.to_f32().unwrap(), [view.shape[0], view.shape[1]], &device)
        };
        let adapter = A::from_peft_config(&read_json(&dir.join("adapter_config.json")).unwrap()).unwrap();
        let model = &mut case.loaded.model;
        let mut rng = ChaCha8Rng::seed_from_u64(0);
        let made = adapter.virtual_tokens(&model.language_model, Start::Saved, &mut rng, &device).unwrap().unwrap();
        let table = matrix("prompt_embeddings");
        assert_eq!(made.table().dims(), table.dims(), "{name}");
        model.virtual_tokens = Some(VirtualTokens::from_table(table, made.place));
        model.score = Some(Linear {
            weight: Weight::Dense(matrix("base_model.score.weight")),
            ..Linear::new(32, 3, false, &device)
        });

        let mut largest = Largest::new(format!("{name}, scores"), nats());
        for side in [PadSide::Right, PadSide::Left] {
            let padded = batch(&rows(&case.encoded[0]), side);
            let hidden = model.hidden_at(&VlmInputs::upload(&padded, &device), last_tokens(&padded, &device));
            let scores: Vec<f32> = model.scores(hidden).unwrap().into_data().iter::<f32>().collect();
            for (row, (found, expected)) in scores.chunks(3).zip(&expected).enumerate() {
                largest.check_all(&format_args!("{side:?} {row}"), found, &floats(expected), 1.0);
            }
        }
    }
    check::<PrefixTuning>("prefix");
    check::<PromptTuning>("prompt");
    check::<PTuning>("p_tuning");
}

fn parameter(values: Vec<f32>, shape: [usize; 2], device: &Device) -> Param<Tensor<2>> {
    Param::initialized(ParamId::new(), Tensor::from_data(TensorData::new(values, shape), device))
}
