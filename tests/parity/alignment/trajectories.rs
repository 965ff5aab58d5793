//! Five steps of TRL's DPO and KTO trainers: the optimizer, clipping, accumulation, and a reference that follows.

use super::super::case::{Largest, device, nats};
use super::chain::{Compared, Text, batch, check_weights, evaluate, moved, number, plain, recorded, step};
use super::{pairs, unpaired};
use burn::module::Module;
use firebrick::data::Batch;
use firebrick::objectives::{Dpo, Kto, Objective, State};
use firebrick::trainer::anchor::{Anchor, Sync};
use firebrick::trainer::{AdamW, Signal, Train};
use serde_json::Value;

/// What is trained on, one list of micro-batches for each step, and what is asked about afterwards.
struct Data {
    steps: Vec<Vec<Batch>>,
    all: Batch,
}

/// TRL's settings of a run.
fn settings(given: &Value) -> Train {
    let optimizer = &given["optimizer"];
    let of = |name: &str| number(&optimizer[name]);
    Train {
        learning_rate: of("learning_rate"),
        adam_beta1: number(&optimizer["betas"][0]),
        adam_beta2: number(&optimizer["betas"][1]),
        adam_epsilon: of("eps"),
        weight_decay: of("weight_decay"),
        max_grad_norm: of("max_grad_norm"),
        ..Train::default()
    }
}

/// Follows one recorded run.
fn follow<O: Objective<Signal: Signal>>(name: &str, objective: &O, sync: Option<Sync>, data: &Data) {
    let recorded = recorded("trajectories.json");
    let (settings, run) = (settings(&recorded), &recorded[name]);
    let device = device().autodiff();
    let mut model = plain(&device);
    let mut anchor = Anchor::Model(moved(&device).valid(), sync);
    let mut compared = Compared::new(name);
    let (mut adam, mut state, mut tokens) = (AdamW::default(), State::default(), 0);
    let expected = run["steps"].as_array().unwrap();
    assert_eq!(expected.len(), data.steps.len());
    for (number, (expected, batches)) in expected.iter().zip(&data.steps).enumerate() {
        let found = step(objective, &model, &anchor, batches, &mut state);
        compared.step(&format!("step {number}"), &found, expected, &[]);
        tokens += batches.iter().map(Batch::num_tokens).sum::<usize>();
        assert_eq!(expected["metrics"]["num_tokens"], tokens);
        // As the trainer clips.
        let clip = (settings.max_grad_norm / (found.norm + 1e-6)).min(1.0);
        model = adam.step(model, found.gradients, &settings, 1.0, clip);
        anchor = anchor.follow(&model, number + 1);
    }
    let (loss, metrics) = evaluate(objective, &model, &anchor, &data.all, &state);
    compared.loss("evaluation", loss, &run["evaluation_after"]["eval_loss"]);
    compared.metrics("evaluation", &metrics, &run["evaluation_after"], "eval_", &[]);
    let mut weights = Largest::new(format!("{name}, weights"), nats());
    check_weights(&mut weights, &model, &run["weights_after"]);
    if let Anchor::Model(reference, Some(_)) = &anchor {
        check_weights(&mut weights, reference as &Text, &run["reference_after"]);
    }
}

/// Steps of `size` pairs in `micro` batches each, round and round.
fn of_pairs(size: usize, micro: usize) -> Data {
    let examples = pairs::examples(&recorded("objectives_pairs.json"));
    let batches: Vec<Batch> = examples.chunks(size).map(batch).collect();
    let steps = (0..5).map(|step| (0..micro).map(|i| batches[(step * micro + i) % batches.len()].clone()).collect());
    Data { steps: steps.collect(), all: batch(&examples) }
}

#[test]
fn dpo() {
    follow("dpo", &Dpo::default(), None, &of_pairs(8, 1));
}

#[test]
fn dpo_in_batches_of_four() {
    follow("dpo_batches_of_four", &Dpo::default(), None, &of_pairs(4, 1));
}

#[test]
fn dpo_accumulated() {
    follow("dpo_accumulated", &Dpo::default(), None, &of_pairs(2, 4));
}

#[test]
fn dpo_with_a_reference_that_follows() {
    follow("dpo_synced", &Dpo::default(), Some(Sync { every: 2, alpha: 0.6 }), &of_pairs(8, 1));
}

/// Answers are rotated within each batch of `size`, those of the evaluation in its one batch of eight too.
fn of_judged(size: usize) -> Data {
    let fixture = recorded("objectives_unpaired.json");
    let sequences = fixture["policy_plain"]["sequences"].as_array().unwrap();
    let batches: Vec<Batch> = sequences.chunks(size).map(unpaired::judged).collect();
    let rotated: Vec<_> = sequences.chunks(size).flat_map(unpaired::rotated).collect();
    let all = Batch { mismatched: Some(Box::new(batch(&rotated))), ..unpaired::judged(sequences) };
    Data { steps: (0..5).map(|step| vec![batches[step % batches.len()].clone()]).collect(), all }
}

#[test]
fn kto() {
    follow("kto", &Kto::default(), None, &of_judged(8));
}

#[test]
fn kto_in_batches_of_four() {
    follow("kto_batches_of_four", &Kto::default(), None, &of_judged(4));
}
