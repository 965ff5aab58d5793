//! The recipe trains on files, and what it leaves is loaded, resumed and merged: all through the public face.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use firebrick::checkpoint::bridge::Hold;
use firebrick::checkpoint::{DirWriter, Manifest, Pending, bridge, write_model};
use firebrick::device::DeviceRequest;
use firebrick::recipe::{Arguments, Finished, Opened};
use firebrick::settings::Component;
use firebrick_external::{MergePatches, PatchTower, PatchTowerModel, Pictures, recipe, recipe_by_hand};
use serde_json::{Map, Value, json};

/// Colours that the pictures have, and that are the answers.
const COLOURS: [(&str, [u8; 3]); 4] =
    [("red", [220, 30, 30]), ("green", [30, 200, 40]), ("blue", [30, 40, 210]), ("white", [245, 245, 245])];

/// Columns that tell the time, which no two runs share.
const TIMES: [&str; 2] = ["tokens_per_second", "eval_seconds"];

/// The device's random generator belongs to the process: runs at the same time would draw each other's numbers.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A folder with a tower, pictures and records; the language model is one of the library's own fixtures.
struct Files {
    folder: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Files {
    fn new() -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let files = Self { folder: tempfile::tempdir().unwrap(), _alone: alone };
        files.write_tower();
        let mut records = Vec::new();
        for (index, (colour, rgb)) in COLOURS.iter().cycle().take(32).enumerate() {
            let name = format!("{index}.png");
            let shade = (index * 7 % 30) as u8;
            let pixel = image::Rgb(rgb.map(|value| value.saturating_sub(shade)));
            image::RgbImage::from_pixel(16, 16, pixel).save(files.path(&name)).unwrap();
            records.push(json!({"picture": name, "question": "What colour is it?", "answer": colour}));
        }
        let lines = |records: &[Value]| records.iter().map(|record| format!("{record}\n")).collect::<String>();
        std::fs::write(files.path("train.jsonl"), lines(&records[..24])).unwrap();
        std::fs::write(files.path("eval.jsonl"), lines(&records[24..])).unwrap();
        files
    }

    /// The folder that `vision.from` names: a configuration and weights, as a training of the tower would leave them.
    fn write_tower(&self) {
        let device = firebrick::device::choose(DeviceRequest::Cpu).unwrap().device;
        device.seed(7);
        let weights = bridge::to_host(&PatchTowerModel::new(24, 16, 4, &device), |_, _| true);
        let mut folder = DirWriter::create(&self.path("tower")).unwrap();
        let tensors = weights.into_iter().map(|(name, tensor)| Pending::host(name, tensor)).collect();
        write_model(&mut folder, "model", tensors, None).unwrap();
        let config = json!({"model_type": "patch_tower", "hidden_size": 24, "image_size": 16, "patch_size": 4});
        folder.write_json("config.json", &config).unwrap();
        folder.commit(Manifest::Omitted).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `steps` steps on the records; the model is given by the caller.
    fn arguments(&self, output: &str, steps: usize) -> Arguments {
        let settings = [
            "train.logging_steps=1",
            "train.save_steps=4",
            "train.eval_steps=100",
            "train.eval_on_start=true",
            "train.max_new_tokens=4",
            "train.report_to=none",
        ];
        Arguments {
            data: vec![self.path("train.jsonl")],
            eval_data: vec![self.path("eval.jsonl")],
            output: Some(self.path(output)),
            device: DeviceRequest::Cpu,
            set: settings.map(str::to_owned).to_vec(),
            max_steps: Some(steps),
            ..Arguments::default()
        }
    }

    /// A language model and a tower in folders of their own.
    fn on_parts(&self, output: &str, steps: usize) -> Arguments {
        let mut arguments = self.arguments(output, steps);
        arguments.model = Some(language_model());
        arguments.set.push(format!("vision.from={}", self.path("tower").display()));
        arguments
    }

    /// The model that another run left.
    fn on_run(&self, run: &str, output: &str, steps: usize) -> Arguments {
        let mut arguments = self.arguments(output, steps);
        arguments.model = Some(self.path(run).join("final"));
        arguments
    }

    /// Trains to the end, and returns the rows of `metrics.jsonl`, without the times.
    fn train(&self, recipe: &Pictures, arguments: &Arguments) -> Vec<Map<String, Value>> {
        let run = arguments.output.clone().unwrap();
        assert_eq!(recipe.run(arguments).unwrap(), Finished::Trained { run: run.clone() });
        let log = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let row = |line| {
            let mut row: Map<String, Value> = serde_json::from_str(line).unwrap();
            row.retain(|key, _| !TIMES.contains(&key.as_str()));
            row
        };
        log.lines().map(row).collect()
    }

    fn bytes(&self, file: &str) -> Vec<u8> {
        std::fs::read(self.path(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
    }
}

fn language_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/parity/llama_text/model")
}

/// All values of a column, in order.
fn column(rows: &[Map<String, Value>], key: &str) -> Vec<f64> {
    rows.iter().filter_map(|row| row.get(key)?.as_f64()).collect()
}

/// The held-out loss before the first step and after the last one.
fn held_out(rows: &[Map<String, Value>]) -> (f64, f64) {
    let losses = column(rows, "eval_loss");
    (losses[0], losses[losses.len() - 1])
}

#[track_caller]
fn assert_near(a: f64, b: f64) {
    assert!((a - b).abs() < 1e-5, "{a} and {b}");
}

#[test]
fn macro_and_builders_train_to_the_same_model_which_loads_again() {
    let files = Files::new();
    let rows = files.train(&recipe(), &files.on_parts("macro", 40));
    let by_hand = files.train(&recipe_by_hand(), &files.on_parts("builders", 40));
    assert_eq!(rows, by_hand);
    assert_eq!(files.bytes("macro/final/model.safetensors"), files.bytes("builders/final/model.safetensors"));

    let (before, after) = held_out(&rows);
    assert!(after < 0.7 * before, "the held-out loss went from {before} to {after}");
    let losses = column(&rows, "loss");
    assert!(losses[losses.len() - 1] < 0.7 * losses[0], "{losses:?}");

    // The whole model, the adapter merged into it: in a second run it begins where the first one ended.
    let (again, _) = held_out(&files.train(&recipe(), &files.on_run("macro", "again", 1)));
    assert_near(again, after);

    let device = firebrick::device::choose(DeviceRequest::Cpu).unwrap().device;
    let (tower, projector) = (PatchTower::default(), MergePatches::default());
    let model = firebrick::models::Llama::default();
    let opened = Opened::new(&files.path("macro/final"), &model, &tower, &projector, &device).unwrap();
    assert_eq!(opened.model.tokens_per_image(), 4);
    opened.load(&projector, &|_| Hold::Frozen, &device).unwrap();
}

#[test]
fn an_adapter_of_a_saved_model_is_saved_alone_loaded_and_resumed() {
    let files = Files::new();
    files.train(&recipe(), &files.on_parts("base", 2));
    let arguments = files.on_run("base", "tuned", 8);
    let rows = files.train(&recipe(), &arguments);
    let (before, after) = held_out(&rows);
    assert!(after < before, "the held-out loss went from {before} to {after}");
    let config: Value = serde_json::from_slice(&files.bytes("tuned/final/adapter_config.json")).unwrap();
    assert_eq!(config["peft_type"], "IA3");

    let mut more = files.on_run("base", "more", 1);
    more.adapter = Some(files.path("tuned/final"));
    let (again, _) = held_out(&files.train(&recipe(), &more));
    assert_near(again, after);

    // A run that lost its end goes on from its checkpoint, and comes to the same bits.
    let adapter = files.bytes("tuned/final/adapter_model.safetensors");
    for lost in ["tuned/final", "tuned/checkpoint-8"] {
        std::fs::remove_dir_all(files.path(lost)).unwrap();
    }
    let resumed = files.train(&recipe(), &Arguments { resume: true, ..arguments });
    assert_eq!(resumed, rows);
    assert_eq!(files.bytes("tuned/final/adapter_model.safetensors"), adapter);
}

#[test]
fn wrong_parts_are_refused_in_the_words_of_the_library() {
    let files = Files::new();
    let refused = |arguments: &Arguments, says: &[&str]| {
        let error = firebrick::recipe::describe(&recipe().run(arguments).unwrap_err());
        says.iter().for_each(|part| assert!(error.contains(part), "{part:?} is not in {error}"));
    };
    let mut clip = files.on_parts("clip", 1);
    let tower = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/parity/clip_plain/model");
    clip.set.push(format!("vision.from={}", tower.display()));
    refused(&clip, &["PatchTower", "clip_vision_model"]);

    let mut targets = files.on_parts("targets", 1);
    targets.set.push("adapter.target_modules=nothing".to_owned());
    refused(&targets, &["nothing", "k_proj"]);

    let mut row = files.on_parts("row", 1);
    std::fs::write(files.path("row.jsonl"), "{\"picture\": \"0.png\", \"question\": \"What?\"}\n").unwrap();
    row.data = vec![files.path("row.jsonl")];
    refused(&row, &["row.jsonl:1", "answer"]);
}

#[test]
fn the_program_has_the_command_line_of_every_recipe() {
    let output = Command::new(env!("CARGO_BIN_EXE_pictures"))
        .args(["--print-config", "--set", "projector.side=3"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for (key, origin) in [("projector.side ", "command line"), ("data.max_tokens_count ", "recipe")] {
        let line = said.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key} is not in {said}"));
        assert!(line.contains(origin), "{line}");
    }
    assert_eq!(MergePatches::PARAMETERS[0].name, "side");
}
