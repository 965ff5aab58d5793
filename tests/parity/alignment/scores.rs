//! Objectives over scores: TRL's reward and process reward trainers.

use super::super::case::{Largest, device, fixtures, nats};
use super::chain::{
    Compared, Step, Text, answered, batch, evaluate, ids, number, recorded, row, setting, single, step,
};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use firebrick::checkpoint::Shards;
use firebrick::checkpoint::bridge::Hold;
use firebrick::data::{Batch, Example};
use firebrick::example::Facts;
use firebrick::models::Llama;
use firebrick::nn::{Linear, Weight, params};
use firebrick::objectives::{Objective, ProcessReward, RewardModel, RewardModelMargin, State};
use firebrick::projector::NoProjector;
use firebrick::recipe::{ModelFolder, Opened};
use firebrick::trainer::Policy;
use firebrick::trainer::anchor::Anchor;
use firebrick::vision::NoVision;
use serde_json::Value;
use std::path::Path;

/// The checkpoint with the head that `objective` reads, every parameter trained.
pub fn headed<O: Objective>(objective: &O, weight: &[f32], bias: Option<&[f32]>, device: &Device) -> Text {
    let (vision, projector) = (NoVision::default(), NoProjector::default());
    let folder = ModelFolder::open(&fixtures().join("llama_text/model")).unwrap().with_head(objective.head()).unwrap();
    let opened = Opened::of(folder, &Llama::default(), &vision, &projector, device).unwrap();
    let mut model = opened.load(&projector, &|_| Hold::Frozen, device).unwrap().model;
    let width = weight.len() / objective.head().unwrap().outputs;
    let drawn = model.score.take().expect("the objective asks for a head");
    assert_eq!((drawn.weight.shape(), drawn.bias.is_some()), ([weight.len() / width, width], bias.is_some()));
    let weight = TensorData::new(weight.to_vec(), [weight.len() / width, width]);
    model.score = Some(Linear {
        weight: Weight::Dense(Param::from_tensor(Tensor::from_data(weight, device))),
        bias: bias.map(|values| Param::from_tensor(Tensor::from_data(values, device))),
        adapter: None,
    });
    params::set_trainable(model, |_| true)
}

/// The tensors of a head's file.
fn head(name: &str) -> (Vec<f32>, Option<Vec<f32>>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/objectives").join(name);
    let file = Shards::open_file(&path).unwrap();
    let tensor = |name: &str| file.get(name).map(|view| view.to_f32().unwrap());
    (tensor("score.weight").unwrap(), tensor("score.bias"))
}

fn learned<O: Objective<Signal: firebrick::trainer::Signal>>(objective: &O, model: &Text, batches: &[Batch]) -> Step {
    step(objective, model, &Anchor::None, batches, &mut State::default())
}

/// TRL's scores of a tokenizer whose pad id is in no row, so that they are read where ours are, at the last token. With
/// `</s>` as the pad id, its default here, transformers reads them at the last token that is none: one before the end.
#[test]
fn reward_models() {
    let (fixture, records) = (recorded("objectives_scores.json"), recorded("records.json"));
    let side = |name: &str| -> Vec<_> {
        let rows = fixture["ids"][name].as_array().unwrap();
        rows.iter().map(|row_ids| row(&ids(row_ids), |_| false)).collect()
    };
    let margins = records["pairs"].as_array().unwrap().iter().map(|pair| pair["margin"].as_f64());
    let examples: Vec<Example> = side("chosen")
        .into_iter()
        .zip(side("rejected"))
        .zip(margins)
        .map(|((w, l), margin)| Example { rows: vec![w, l], facts: Facts { margin, ..Facts::default() } })
        .collect();
    let batches = [batch(&examples)];
    let model = headed(&RewardModel::default(), &head("reward_head.safetensors").0, None, &device().autodiff());

    let mut scores = Largest::new("scores of the reward model", nats());
    let found: Vec<f32> =
        model.valid().sequence_scores(&batches[0], &device()).values.into_data().iter::<f32>().collect();
    for (side, name) in ["chosen", "rejected"].into_iter().enumerate() {
        for (pair, expected) in fixture["pad_is_unk_scores"][name].as_array().unwrap().iter().enumerate() {
            scores.check(&format_args!("{name} {pair}"), f64::from(found[2 * pair + side]), number(expected), 1.0);
        }
    }

    let mut compared = Compared::new("reward model");
    let cases = fixture["pad_is_unk"].as_array().unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        let center_rewards_coefficient = setting(case, "center_rewards_coefficient", 0.0);
        let plain = RewardModel { center_rewards_coefficient, regularization: 0.0 };
        let margin = RewardModelMargin { center_rewards_coefficient, regularization: 0.0 };
        let place = case["settings"].to_string();
        let (found, (loss, metrics)) = match case["margin"] == true {
            true => (
                learned(&margin, &model, &batches),
                evaluate(&margin, &model, &Anchor::None, &batches[0], &State::default()),
            ),
            false => (
                learned(&plain, &model, &batches),
                evaluate(&plain, &model, &Anchor::None, &batches[0], &State::default()),
            ),
        };
        compared.step(&place, &found, case, &[]);
        compared.loss(&place, loss, &case["evaluation"]["eval_loss"]);
        compared.metrics(&place, &metrics, &case["evaluation"], "eval_", &[]);
    }
}

fn steps_of(rows: &[Value]) -> Vec<Example> {
    let example = |recorded: &Value| {
        let at: Vec<u64> = recorded["at"].as_array().unwrap().iter().map(|at| at.as_u64().unwrap()).collect();
        let steps = recorded["labels"].as_array().unwrap().iter().map(|label| label == 1).collect();
        let facts = Facts { steps, ..Facts::default() };
        single(row(&ids(&recorded["ids"]), |position| at.contains(&(position as u64))), facts)
    };
    rows.iter().map(example).collect()
}

#[test]
fn process_reward_models() {
    let fixture = recorded("objectives_scores.json");
    let (weight, bias) = head("prm_head.safetensors");
    let objective = ProcessReward::default();
    let model = headed(&objective, &weight, bias.as_deref(), &device().autodiff());
    let (mut compared, mut scores) = (Compared::new("process reward model"), Largest::new("scores of steps", nats()));
    let cases = fixture["prm"].as_array().unwrap();
    assert_eq!(cases.len(), 5);
    for case in &cases[..4] {
        let (place, rows) = (case["settings"].to_string(), case["rows"].as_array().unwrap());
        let batches = [batch(&steps_of(rows))];
        let found = model.valid().token_scores(&batches[0], &device()).values.into_data();
        let expected = rows.iter().flat_map(|row| row["logits"].as_array().unwrap());
        let expected: Vec<f64> = expected.flat_map(|pair| pair.as_array().unwrap()).map(number).collect();
        assert_eq!(found.num_elements(), expected.len());
        for (i, (found, expected)) in found.iter::<f32>().zip(expected).enumerate() {
            scores.check(&format_args!("{place}[{i}]"), f64::from(found), expected, 1.0);
        }
        compared.step(&place, &learned(&objective, &model, &batches), case, &[]);
        let (loss, metrics) = evaluate(&objective, &model, &Anchor::None, &batches[0], &State::default());
        compared.loss(&place, loss, &case["evaluation"]["eval_loss"]);
        compared.metrics(&place, &metrics, &case["evaluation"], "eval_", &[]);
    }
    // TRL 1.10 adds up the means of accumulated batches, 3.82 here; ours are one mean, as of one batch.
    let (whole, last) = (&cases[0], &cases[4]);
    let size = setting(last, "per_device_train_batch_size", 0.0) as usize;
    let examples = steps_of(whole["rows"].as_array().unwrap());
    let batches: Vec<Batch> = examples.chunks(size).map(batch).collect();
    assert_eq!(batches.len() as f64, setting(last, "gradient_accumulation_steps", 0.0));
    compared.step("accumulated", &learned(&objective, &model, &batches), whole, &[]);
    // Of a mean over the batches' means TRL's number is so many times as much.
    let each: f64 = batches.iter().map(|batch| learned(&objective, &model, std::slice::from_ref(batch)).loss).sum();
    compared.loss("the sum of the batches' means", each, &last["loss"]);
}

/// A row's score does not depend on where its answer begins, nor on the batch beside it.
#[test]
fn a_score_is_of_its_row_alone() {
    let fixture = recorded("objectives_scores.json");
    let model = headed(&RewardModel::default(), &head("reward_head.safetensors").0, None, &device()).valid();
    let rows: Vec<Vec<u32>> = fixture["ids"]["chosen"].as_array().unwrap().iter().map(ids).collect();
    let together: Vec<Example> = rows.iter().map(|ids| single(answered(ids, ids.len()), Facts::default())).collect();
    let scores = |batch: &Batch| model.sequence_scores(batch, &device()).values.into_data().iter::<f32>().collect();
    let found: Vec<f32> = scores(&batch(&together));
    let mut largest = Largest::new("scores alone and together", nats());
    for (i, ids) in rows.iter().enumerate() {
        let alone: Vec<f32> = scores(&batch(&[single(answered(ids, 3), Facts::default())]));
        largest.check(&i, f64::from(alone[0]), f64::from(found[i]), 1.0);
    }
}
