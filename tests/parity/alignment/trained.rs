//! TRL's trajectories once more, from its records in their own form through the library's training loop: data kinds,
//! template, loader, optimizer steps, evaluation, the rows of `metrics.jsonl`.

use super::super::case::{Largest, device, fixtures, load, nats};
use super::chain::{Compared, Text, check_weights, moved, number, plain, recorded};
use super::{pairs, unpaired};
use burn::module::Module;
use firebrick::data::{
    BadRecord, DataKind, Dataset, Encoded, Encoder, LoaderSettings, MessagesData, Outcome, PadSide, Padding,
    PreferenceData, Sampler, UnpairedPreferenceData,
};
use firebrick::generation::Stop;
use firebrick::objectives::{Bco, Dpo, Kto, Objective, Sft};
use firebrick::projector::NoProjector;
use firebrick::trainer::anchor::{Anchor, Others, Sync};
use firebrick::trainer::track::Trackers;
use firebrick::trainer::{EvalData, Plan, Said, Signal, Train, TrainData, Trained, Trainer, Watch};
use firebrick::vision::NoVision;
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The records of one kind, as TRL was given them.
fn dataset<K: DataKind>(folder: &Path, kind: K, name: &str) -> Dataset<K> {
    let file = folder.join("records.json");
    std::fs::write(&file, recorded("records.json")[name].to_string()).unwrap();
    Dataset::open(kind, &[file], &[]).unwrap()
}

fn encoder() -> Encoder {
    load(&fixtures().join("llama_text/model"), &NoVision::default(), &NoProjector::default(), &device()).1
}

/// The rows of every record, as the loader would have them.
fn rows<K: DataKind>(kind: K, name: &str) -> Vec<Encoded> {
    let (folder, encoder) = (tempfile::tempdir().unwrap(), encoder());
    let data = dataset(folder.path(), kind, name);
    let encode = |index| match encoder.encode(&data.sample(index).unwrap(), index).unwrap() {
        Outcome::Whole(example) => example.rows,
        other => panic!("record {index}: {other:?}"),
    };
    (0..data.len()).flat_map(encode).collect()
}

fn assert_same_rows(found: &[Encoded], expected: &[Encoded]) {
    assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert_eq!(found.input_ids, expected.input_ids, "row {index}");
        assert_eq!(found.supervised, expected.supervised, "row {index}");
    }
}

#[test]
fn records_become_the_tokens_that_trl_saw() {
    let flat = |examples: Vec<firebrick::data::Example>| examples.into_iter().flat_map(|e| e.rows).collect::<Vec<_>>();
    let expected = flat(pairs::examples(&recorded("objectives_pairs.json")));
    assert_same_rows(&rows(PreferenceData::default(), "pairs"), &expected);
    let fixture = recorded("objectives_unpaired.json");
    let expected = flat(unpaired::examples(fixture["policy_plain"]["sequences"].as_array().unwrap()));
    assert_same_rows(&rows(UnpairedPreferenceData::default(), "unpaired"), &expected);
    let expected = flat(super::supervised::examples(&recorded("supervised.json")["ids_answers"]));
    assert_same_rows(&rows(MessagesData::default(), "supervised"), &expected);
}

/// Settings under which the loop does what TRL's trainers were told to do.
fn settings(steps: usize, size: usize, accumulation: usize, learning_rate: f64, weight_decay: f64) -> Train {
    Train {
        learning_rate,
        weight_decay,
        max_steps: Some(steps),
        per_device_train_batch_size: size,
        per_device_eval_batch_size: 8,
        gradient_accumulation_steps: accumulation,
        lr_scheduler_type: "constant".to_owned(),
        warmup_ratio: 0.0,
        logging_steps: 1,
        eval_steps: Some(steps),
        eval_generate: 0,
        ..Train::default()
    }
}

/// Trains on the records called `name`.
fn train<O: Objective<Signal: Signal>, K: DataKind>(
    objective: &O,
    kind: K,
    name: &str,
    settings: &Train,
    sync: Option<Sync>,
) -> Trained<Text> {
    let folder = tempfile::tempdir().unwrap();
    let (dataset, encoder) = (Arc::new(dataset(folder.path(), kind, name)), Arc::new(encoder()));
    let loader = LoaderSettings {
        workers: 1,
        prefetch: 1,
        bad_record: BadRecord::Error,
        padding: Padding { token: 2, side: PadSide::Right, multiple_of: 1 },
        mismatched: objective.compares_mismatched(),
    };
    let device = device().autodiff();
    let plan = Plan::new(settings, Sampler::Sequential, &vec![-1; dataset.len()]);
    let stop = Stop { end_tokens: vec![2], max_new_tokens: 1 };
    let trainer = Trainer {
        objective,
        settings,
        data: TrainData { dataset: dataset.clone(), encoder: encoder.clone(), loader, plan },
        facts: Vec::new(),
        eval: Some(EvalData {
            usable: (0..dataset.len()).collect(),
            dataset,
            encoder,
            batch_size: settings.per_device_eval_batch_size,
            loader,
            stop,
            decoding: None,
        }),
        picks: Vec::new(),
        watch: Watch::default(),
        before: Said::default(),
        device: device.clone(),
        run_dir: &folder.path().join("run"),
        interrupt: &AtomicBool::new(false),
    };
    std::fs::create_dir(trainer.run_dir).unwrap();
    let anchor = match objective.compares() {
        true => Anchor::Model(moved(&device).valid(), sync),
        false => Anchor::None,
    };
    trainer.run(plain(&device), Others { anchor, observer: None }, None, &mut Trackers::default()).unwrap()
}

/// The rows of a phase.
fn logged(trained: &Trained<Text>, phase: &str) -> Vec<BTreeMap<String, f64>> {
    let numbers = |row: &Map<String, Value>| {
        row.iter().filter_map(|(name, value)| Some((name.clone(), value.as_f64()?))).collect::<BTreeMap<_, _>>()
    };
    trained.metrics.iter().filter(|row| row["phase"] == phase).map(numbers).collect()
}

fn check_steps(compared: &mut Compared, trained: &Trained<Text>, steps: &Value, but: &[&str]) {
    let (found, expected) = (logged(trained, "train"), steps.as_array().unwrap());
    assert_eq!(found.len(), expected.len());
    for (number, (found, expected)) in found.iter().zip(expected).enumerate() {
        let place = format!("step {}", number + 1);
        compared.loss(&place, found["loss"], &expected["loss"]);
        if let Some(norm) = expected["grad_norm"].as_f64() {
            compared.norm(&place, found["grad_norm"], norm);
        }
        compared.metrics(&place, found, &expected["metrics"], "", but);
        if let Some(tokens) = expected["metrics"].get("num_tokens") {
            assert_eq!(found["num_tokens"], super::chain::number(tokens));
        }
    }
}

fn check_evaluation(compared: &mut Compared, trained: &Trained<Text>, expected: &Value) {
    let found = logged(trained, "eval");
    let [found] = found.as_slice() else { panic!("one evaluation, not {found:?}") };
    compared.loss("evaluation", found["eval_loss"], &expected["eval_loss"]);
    let found = found.iter().filter_map(|(name, value)| Some((name.strip_prefix("eval_")?.to_owned(), *value)));
    compared.metrics("evaluation", &found.collect(), expected, "eval_", &[]);
}

fn check(name: &str, trained: &Trained<Text>, run: &Value) {
    let mut compared = Compared::new(&format!("{name}, trained"));
    check_steps(&mut compared, trained, &run["steps"], &[]);
    check_evaluation(&mut compared, trained, &run["evaluation_after"]);
    let mut weights = Largest::new(format!("{name}, trained, weights"), nats());
    check_weights(&mut weights, &trained.model, &run["weights_after"]);
}

fn five_steps(size: usize, accumulation: usize) -> Train {
    settings(5, size, accumulation, 1e-3, 0.01)
}

#[test]
fn dpo() {
    let runs = recorded("trajectories.json");
    for (name, size, sync) in
        [("dpo", 8, None), ("dpo_batches_of_four", 4, None), ("dpo_synced", 8, Some(Sync { every: 2, alpha: 0.6 }))]
    {
        let trained = train(&Dpo::default(), PreferenceData::default(), "pairs", &five_steps(size, 1), sync);
        check(name, &trained, &runs[name]);
    }
}

/// Losses, gradients and metrics of micro-batches are those of the whole batch. TRL joins what is a mean over tokens
/// without weights.
#[test]
fn dpo_accumulated() {
    let runs = recorded("trajectories.json");
    let trained = train(&Dpo::default(), PreferenceData::default(), "pairs", &five_steps(2, 4), None);
    check("accumulated", &trained, &runs["dpo"]);
    let over_tokens = ["entropy", "logits/chosen", "logits/rejected", "mean_token_accuracy"];
    let mut compared = Compared::new("accumulated, trained");
    check_steps(&mut compared, &trained, &runs["dpo_accumulated"]["steps"], &over_tokens);
}

#[test]
fn kto() {
    let runs = recorded("trajectories.json");
    let of = |size| train(&Kto::default(), UnpairedPreferenceData::default(), "unpaired", &five_steps(size, 1), None);
    check("kto", &of(8), &runs["kto"]);
    // TRL rotates the answers of an evaluation by the training's batch size, ours by its own.
    let mut compared = Compared::new("kto_batches_of_four, trained");
    check_steps(&mut compared, &of(4), &runs["kto_batches_of_four"]["steps"], &[]);
}

/// The running mean goes from step to step.
#[test]
fn bco() {
    let case = &recorded("objectives_unpaired.json")["policy_plain"]["bco"][4];
    assert_eq!(number(&case["settings"]["learning_rate"]), 1e-3);
    let settings = settings(5, 4, 1, 1e-3, 0.0);
    let trained = train(&Bco::default(), UnpairedPreferenceData::default(), "unpaired", &settings, None);
    check_steps(&mut Compared::new("bco, trained"), &trained, &case["steps"], &unpaired::SUMS);
    let (mut state, running) = (Largest::new("the running mean", nats()), &case["running_after"]);
    for (name, expected) in [("rewards_mean", "mean"), ("rewards_variance", "var"), ("rewards_count", "count")] {
        let found = trained.counters.objective.get(name).unwrap();
        state.check(&name, found, number(&running[expected]), number(&running[expected]));
    }
}

#[test]
fn sft() {
    let run = &recorded("supervised.json")["sft_trajectory"];
    let objective = Sft { token_metrics: true, ..Sft::default() };
    let trained = train(&objective, MessagesData::default(), "supervised", &settings(10, 8, 1, 1e-2, 0.0), None);
    let mut compared = Compared::new("sft, trained");
    check_steps(&mut compared, &trained, &run["steps"], &[]);
    check_evaluation(&mut compared, &trained, &run["evaluation_after"]);
}
