//! Objectives over judged answers: TRL's KTO and BCO trainers.

use super::super::case::device;
use super::chain::{Compared, Text, answered, batch, ids, moved, plain, recorded, sequence, setting, single, step};
use burn::module::Module;
use firebrick::data::{Batch, Example};
use firebrick::example::Facts;
use firebrick::objectives::{ApoZeroUnpaired, Bco, Kto, State};
use firebrick::trainer::anchor::Anchor;
use serde_json::Value;

/// The recorded rows with their judgements.
pub fn examples(sequences: &[Value]) -> Vec<Example> {
    let facts = |row: &Value| Facts { desirable: row["label"].as_bool(), ..Facts::default() };
    sequences.iter().map(|row| single(sequence(&row["own"]), facts(row))).collect()
}

/// The same questions, each with the answer of the row before it; the first with the last one's.
pub fn rotated(sequences: &[Value]) -> Vec<Example> {
    let split = |row: &Value| {
        let (whole, start) = (ids(&row["own"]["ids"]), row["own"]["start"].as_u64().unwrap() as usize);
        (whole[..start].to_vec(), whole[start..].to_vec())
    };
    let rows: Vec<_> = sequences.iter().map(split).collect();
    let answers = rows.iter().cycle().skip(rows.len() - 1);
    let mismatched = rows.iter().zip(answers).map(|((question, _), (_, answer))| {
        single(answered(&[question.as_slice(), answer].concat(), question.len()), Facts::default())
    });
    mismatched.collect()
}

/// A batch with its mismatched rows.
pub fn judged(sequences: &[Value]) -> Batch {
    Batch { mismatched: Some(Box::new(batch(&rotated(sequences)))), ..batch(&examples(sequences)) }
}

/// Once the checkpoint is the policy and its moved copy the reference, once the other way round.
fn both(check: impl Fn(&str, &Value, &Text, &Anchor<Text>)) {
    let (fixture, device) = (recorded("objectives_unpaired.json"), device().autodiff());
    let (plain, moved) = (plain(&device), moved(&device));
    for (name, policy, reference) in [("policy_plain", &plain, &moved), ("policy_perturbed", &moved, &plain)] {
        check(name, &fixture[name], policy, &Anchor::Model(reference.valid(), None));
    }
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap()
}

#[test]
fn mismatched_rows_are_the_recorded_ones() {
    let fixture = recorded("objectives_unpaired.json");
    let sequences = list(&fixture["policy_plain"], "sequences");
    for (row, example) in sequences.iter().zip(rotated(sequences)) {
        assert_eq!(example.rows[0], sequence(&row["mismatched"]));
    }
}

#[test]
fn kto_and_apo_zero() {
    both(|name, fixture, policy, anchor| {
        let mut compared = Compared::new(&format!("KTO, {name}"));
        let batches = [judged(list(fixture, "sequences"))];
        assert_eq!(list(fixture, "kto").len(), 8);
        for case in list(fixture, "kto") {
            let [beta, desirable_weight, undesirable_weight] =
                [("beta", 0.1), ("desirable_weight", 1.0), ("undesirable_weight", 1.0)]
                    .map(|(name, default)| setting(case, name, default));
            assert_eq!(case["metrics"]["num_tokens"], batches[0].num_tokens());
            let (found, but): (_, &[&str]) = match case["settings"]["loss_type"].as_str() {
                Some("kto") => {
                    let objective = Kto { beta, desirable_weight, undesirable_weight };
                    (step(&objective, policy, anchor, &batches, &mut State::default()), &[])
                }
                _ => {
                    let objective = ApoZeroUnpaired { beta, desirable_weight, undesirable_weight };
                    // TRL logs a constant 0.
                    (step(&objective, policy, anchor, &batches, &mut State::default()), &["kl"])
                }
            };
            compared.step(&case["settings"].to_string(), &found, case, but);
        }
    });
}

/// The estimate belongs to a micro-batch: answers are rotated within it.
#[test]
fn kto_in_smaller_batches() {
    both(|name, fixture, policy, anchor| {
        let mut compared = Compared::new(&format!("KTO in batches, {name}"));
        let sequences = list(fixture, "sequences");
        let mut seen = 0;
        for run in list(fixture, "kto_batches") {
            let size = run["batch_size"].as_u64().unwrap() as usize;
            for (rows, expected) in sequences.chunks(size).zip(list(run, "steps")) {
                let found = step(&Kto::default(), policy, anchor, &[judged(rows)], &mut State::default());
                compared.step(&format!("batches of {size}"), &found, expected, &[]);
                // A class without rows is not logged.
                let classes = ["rewards/chosen", "rewards/rejected", "rewards/margins"];
                let there = classes.map(|name| expected["metrics"].get(name).is_some());
                assert_eq!(classes.map(|name| found.metrics.contains_key(name)), there);
                seen += 1;
            }
        }
        assert_eq!(seen, 2 + 3 + 4);
    });
}

/// TRL's are sums over a whole padded row and the vocabulary; ours are KTO's means.
pub const SUMS: [&str; 2] = ["logits/chosen", "logits/rejected"];

#[test]
fn bco() {
    both(|name, fixture, policy, anchor| {
        let mut compared = Compared::new(&format!("BCO, {name}"));
        let sequences = list(fixture, "sequences");
        assert_eq!(list(fixture, "bco").len(), 5);
        for case in list(fixture, "bco") {
            let objective = Bco { beta: setting(case, "beta", 0.1) };
            let size = setting(case, "per_device_train_batch_size", 8.0) as usize;
            // One case trains; its first step alone is of this checkpoint.
            let steps = if setting(case, "learning_rate", 0.0) > 0.0 { 1 } else { list(case, "steps").len() };
            let mut state = State::default();
            for (rows, expected) in sequences.chunks(size).zip(list(case, "steps")).take(steps) {
                let found = step(&objective, policy, anchor, &[batch(&examples(rows))], &mut state);
                compared.step(&case["settings"].to_string(), &found, expected, &SUMS);
            }
        }
    });
}
