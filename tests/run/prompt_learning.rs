//! Runs that train virtual tokens: saved alone, resumed to the bit, trained on, scored, and refused where they must be.

use super::fixture;
use clap::Parser;
use firebrick::adapters::{Adapter, PTuning, PrefixTuning, PromptTuning};
use firebrick::checkpoint::Shards;
use firebrick::data::LlavaData;
use firebrick::device::DeviceRequest;
use firebrick::models::Llama;
use firebrick::projector::Mlp2xGelu;
use firebrick::recipe::tools::{Merge, Score};
use firebrick::recipe::{Arguments, Experiment, describe, fits};
use firebrick::settings::{Component, Given};
use firebrick::vision::Clip;
use serde_json::Value;
use std::path::{Path, PathBuf};

struct Runs(tempfile::TempDir);

impl Runs {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn arguments(&self, output: &str) -> Arguments {
        let records = fixture("parity/records");
        let settings = [
            "train.per_device_train_batch_size=2",
            "train.learning_rate=0.05",
            "train.logging_steps=1",
            "train.save_steps=2",
            "train.eval_steps=100",
            "train.eval_on_start=true",
            "train.eval_generate=0",
            "train.report_to=none",
        ];
        Arguments {
            model: Some(fixture("parity/llava_gqa/model")),
            data: vec![records.join("data.json")],
            eval_data: vec![records.join("data.json")],
            images: vec![records.join("images")],
            output: Some(self.path(output)),
            device: DeviceRequest::Cpu,
            set: settings.map(str::to_owned).to_vec(),
            max_steps: Some(6),
            ..Arguments::default()
        }
    }

    /// The first and the last loss on the held-out records.
    fn train<A: Adapter>(&self, adapter: impl Into<Given<A>>, arguments: &Arguments) -> anyhow::Result<(f64, f64)> {
        let experiment = Experiment::builder()
            .name("prompt_learning")
            .model(Llama::given())
            .adapter(adapter)
            .vision(Clip::given())
            .projector(Mlp2xGelu::given())
            .data(LlavaData::given())
            .with(fits());
        experiment.run(arguments)?;
        let log = std::fs::read_to_string(arguments.output.as_ref().unwrap().join("metrics.jsonl")).unwrap();
        let rows = log.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let losses: Vec<f64> = rows.filter_map(|row| row["eval_loss"].as_f64()).collect();
        Ok((losses[0], losses[losses.len() - 1]))
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
}

/// A run, the same run after it lost its end, and one that goes on from what it saved.
fn check<A: Adapter>(name: &str, adapter: Given<A>) {
    let runs = Runs::new();
    let arguments = runs.arguments("run");
    let (before, after) = runs.train(adapter.clone(), &arguments).unwrap();
    assert!(after < before - 0.05, "{name}: the held-out loss went from {before} to {after}");
    let saved = Shards::open_stem(&runs.path("run/final"), "adapter_model").unwrap();
    assert_eq!(saved.names().collect::<Vec<_>>(), ["prompt_embeddings"], "{name}");

    let expected = runs.bytes("run/final/adapter_model.safetensors");
    for lost in ["run/final", "run/checkpoint-6", "run/checkpoint-4"] {
        std::fs::remove_dir_all(runs.path(lost)).unwrap();
    }
    let resumed = Arguments { resume: true, ..arguments };
    assert_eq!(runs.train(adapter.clone(), &resumed).unwrap(), (before, after), "{name}, resumed");
    assert_eq!(runs.bytes("run/final/adapter_model.safetensors"), expected, "{name}, resumed");

    // What was saved is a table, and goes on as one.
    let more = Arguments { adapter: Some(runs.path("run/final")), ..runs.arguments("more") };
    let (again, on) = runs.train(adapter, &more).unwrap();
    assert!((again - after).abs() < 1e-6, "{name}: {after} at the end, {again} at the start of the next run");
    assert!(on < again, "{name}: trained on, the held-out loss went from {again} to {on}");
    check_tools(name, &runs);
}

/// `score` takes the folder, `merge` refuses it.
fn check_tools(name: &str, runs: &Runs) {
    let text = |path: PathBuf| path.display().to_string();
    let arguments = |program: &str, output: &str, more: &[&str]| -> Vec<String> {
        let (model, adapter) = (text(fixture("parity/llava_gqa/model")), text(runs.path("run/final")));
        let output = text(runs.path(output));
        let fixed = [program, "--model", &model, "--adapter", &adapter, "--output", &output, "--device", "cpu"];
        fixed.iter().chain(more).map(|part| (*part).to_owned()).collect()
    };
    let (data, images) = (text(fixture("parity/records/data.json")), text(fixture("parity/records/images")));
    let score = arguments("score", "scores.jsonl", &["--data", &data, "--images", &images]);
    Score::try_parse_from(score).unwrap().main().unwrap();
    let scores = std::fs::read_to_string(runs.path("scores.jsonl")).unwrap();
    assert_eq!(scores.lines().count(), 5, "{name}");

    let refused = Merge::try_parse_from(arguments("merge", "merged", &[])).unwrap().main().unwrap_err();
    assert!(describe(&refused).contains("cannot be merged"), "{name}: {}", describe(&refused));
    assert!(!runs.path("merged").exists(), "{name}");
}

#[test]
fn prefix_tuning_with_a_projection() {
    let prefix = PrefixTuning::builder().num_virtual_tokens(4).prefix_projection(true).encoder_hidden_size(Some(16));
    check("prefix", Given::<PrefixTuning>::from(prefix));
}

#[test]
fn prompt_tuning_from_a_text() {
    let text = Some("Describe the picture.".to_owned());
    let prompt = PromptTuning::builder().num_virtual_tokens(6).prompt_tuning_init("TEXT".to_owned());
    check("prompt", Given::<PromptTuning>::from(prompt.prompt_tuning_init_text(text)));
}

#[test]
fn p_tuning_through_an_lstm() {
    let lstm = PTuning::builder().encoder_reparameterization_type("LSTM".to_owned()).encoder_hidden_size(Some(12));
    check("p_tuning", Given::<PTuning>::from(lstm.num_virtual_tokens(4)));
}

#[test]
fn a_whole_model_that_could_not_be_saved_with_them_is_refused_before_training() {
    let runs = Runs::new();
    let mut arguments = runs.arguments("whole");
    arguments.set.push("train.language_model=true".to_owned());
    let error = runs.train(PromptTuning::given(), &arguments).unwrap_err();
    assert!(describe(&error).contains("cannot be merged"), "{}", describe(&error));
    assert!(!runs.path("whole/metrics.jsonl").exists());
}

#[test]
fn a_made_model_is_not_trained_whole_beside_them() {
    let runs = Runs::new();
    let output = Some(runs.path("made"));
    let device = DeviceRequest::Cpu;
    let arguments = Arguments { output, device, max_steps: Some(1), ..Arguments::default() };
    runs.train(PTuning::builder().num_virtual_tokens(3), &arguments).unwrap();
    assert!(Path::new(&runs.path("made/final/adapter_config.json")).is_file());

    let output = Some(runs.path("dry"));
    let arguments = Arguments { output, device, dry_run: true, ..Arguments::default() };
    let text = Some("A picture.".to_owned());
    let prompt = PromptTuning::builder().prompt_tuning_init("TEXT".to_owned()).prompt_tuning_init_text(text);
    let experiment = Experiment::builder()
        .model(Llama::given())
        .adapter(prompt)
        .vision(Clip::given())
        .projector(Mlp2xGelu::given())
        .data(LlavaData::given())
        .with(fits());
    experiment.run(&arguments).unwrap();
}
