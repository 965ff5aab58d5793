//! The logs as other programs read them.

mod reader;
mod resume;
mod wire;

use super::*;
use serde_json::json;
use std::time::Duration;

/// A run that writes both logs and `metrics.jsonl`'s rows.
struct Run {
    dir: tempfile::TempDir,
    settings: Vec<Setting>,
    picture: Vec<(String, Vec<u8>)>,
}

impl Run {
    fn new() -> Self {
        let setting = |key: &str, value: &str| Setting {
            key: key.to_owned(),
            value: value.to_owned(),
            origin: "default".to_owned(),
        };
        let settings = vec![
            setting("train.learning_rate", "0.0002"),
            setting("train.sampler", "\"shuffled\""),
            setting("train.bf16", "false"),
            setting("train.max_steps", "null"),
            setting("adapter.target_modules", "[\"q_proj\",\"v|proj\"]"),
        ];
        let picture = std::fs::read(fixture("picture.png")).unwrap();
        Self { dir: tempfile::tempdir().unwrap(), settings, picture: vec![("image/png".to_owned(), picture)] }
    }

    fn about(&self) -> About<'_> {
        About {
            name: "llava_sft-1",
            command: "llava_sft --data a.json",
            device: "cpu",
            started: UNIX_EPOCH + Duration::from_millis(1_760_000_000_250),
            settings: &self.settings,
        }
    }

    fn open(&self, keep: Option<Keep>) -> Trackers {
        let all = [ReportTo::TensorBoard, ReportTo::Json];
        Trackers::open(self.dir.path(), &all, &self.about(), keep).unwrap()
    }

    /// Two records, answered at `step`.
    fn samples(&self, trackers: &mut Trackers, step: usize) {
        let answers = [format!("first {step}"), format!("second {step}")];
        let sample = |generated| Sample {
            images: &self.picture,
            question: "What | is this?\nSay.",
            expected: "größer",
            generated,
        };
        trackers.samples(step, &[sample(&answers[0]), sample(&answers[1])]).unwrap();
    }

    fn tensorboard(&self) -> reader::Files {
        reader::Files::read(&self.dir.path().join("tensorboard"))
    }

    fn json(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.path().join("tracking/run.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/logs").join(name)
}

/// The texts and bytes of a value's tensor.
fn blobs(value: &reader::Message) -> Vec<Vec<u8>> {
    let tensor = value.at(&[8]).nested().0;
    tensor.iter().filter(|(number, _)| *number == 8).map(|(_, field)| field.bytes().to_vec()).collect()
}

fn train(step: usize) -> Map<String, Value> {
    object(json!({"phase": "train", "step": step, "epoch": 0.5, "loss": loss(step), "num_tokens": 100 * step}))
}

fn eval(step: usize) -> Map<String, Value> {
    object(json!({"phase": "eval", "step": step, "eval_loss": loss(step) + 1.0}))
}

fn loss(step: usize) -> f64 {
    4.0 - step as f64 / 8.0
}

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

#[test]
fn curves_have_hugging_faces_names_and_values_that_are_not_finite_are_points() {
    let run = Run::new();
    let mut trackers = run.open(None);
    let mut row = train(10);
    row.insert("grad_norm".into(), Value::Null);
    row.insert("note".into(), "no curve".into());
    trackers.row(&row).unwrap();
    trackers.row(&eval(10)).unwrap();
    let points = run.tensorboard().scalars();
    let names: Vec<&str> = points.iter().map(|(tag, ..)| tag.as_str()).collect();
    assert_eq!(names, ["train/epoch", "train/loss", "train/num_tokens", "train/grad_norm", "eval/loss"]);
    assert!(points.iter().all(|(_, step, _)| *step == 10));
    assert_eq!((points[1].2, points[2].2, points[4].2), (2.75, 1000.0, 3.75));
    assert!(points[3].2.is_nan());
    let rows = run.json();
    let metric = |row: usize, n: usize| rows[row]["metrics"][n].clone();
    let timestamp = rows[1]["timestamp"].as_u64().unwrap();
    assert_eq!(metric(1, 1), json!({"key": "train/loss", "value": 2.75, "timestamp": timestamp, "step": 10}));
    assert_eq!(metric(1, 3)["value"], "NaN");
    assert_eq!((&metric(2, 0)["key"], &rows[2]["phase"]), (&json!("eval/loss"), &json!("eval")));
}

#[test]
fn settings_pictures_and_answers_are_shown() {
    let run = Run::new();
    let mut trackers = run.open(None);
    run.samples(&mut trackers, 0);
    run.samples(&mut trackers, 8);
    trackers.end(8, Status::Finished).unwrap();
    let files = run.tensorboard();
    let text = |tag: &str, step: i64| {
        let found = files.find(tag, step).unwrap_or_else(|| panic!("{tag} at {step}"));
        String::from_utf8(found.at(&[8, 8]).bytes().to_vec()).unwrap()
    };
    let settings = text("settings/text_summary", 0);
    assert!(settings.contains("| train.learning\\_rate | 0.0002 | default |\n"), "{settings}");
    assert!(settings.contains("| train.sampler | shuffled | default |\n"), "{settings}");
    assert!(settings.contains("v&#124;proj"), "{settings}");
    let shown = "| What &#124; is this?<br>Say. | größer | second 8 |";
    assert!(text("samples/02/text_summary", 8).contains(shown));
    assert!(text("samples/01/text_summary", 0).contains("first 0"));
    // Both answers, one picture.
    let picture = files.find("samples/01/picture", 0).unwrap();
    assert_eq!(blobs(picture), [b"3".as_slice(), b"2", &run.picture[0].1]);
    let caption = String::from_utf8(picture.at(&[9, 3]).bytes().to_vec()).unwrap();
    assert!(caption.contains("| What &#124; is this?<br>Say. | größer |\n"), "{caption}");
    assert!(files.find("samples/01/picture", 8).is_none());
    // SessionEndInfo: STATUS_SUCCESS.
    let end = files.find("_hparams_/session_end_info", 8).unwrap();
    assert_eq!(end.at(&[9, 1, 2]).nested().at(&[4, 1]).varint(), 1);
}

#[test]
fn an_evaluations_table_is_a_text_and_a_line() {
    let run = Run::new();
    let row = |id: &str| vec![id.to_owned(), "What | is\nthis?".to_owned()];
    let table = Table { columns: vec!["id".to_owned(), "prompt".to_owned()], rows: vec![row("a"), row("b")] };
    run.open(None).table(4, "cherry_picks", &table).unwrap();
    let files = run.tensorboard();
    let value = files.find("tables/cherry_picks/text_summary", 4).unwrap();
    let text = String::from_utf8(value.at(&[8, 8]).bytes().to_vec()).unwrap();
    let line = "| What &#124; is<br>this? |";
    assert_eq!(text, format!("| id | prompt |\n|---|---|\n| a {line}\n| b {line}\n"));
    // The plugin that shows it, and a tensor of one text (DT_STRING) without dimensions.
    assert_eq!(value.at(&[9, 1, 1]).bytes(), b"text");
    assert_eq!(value.at(&[8, 1]).varint(), 7);
    assert_eq!(run.json()[1]["rows"], json!([row("a"), row("b")]));
    // It goes with its evaluation.
    for (evaluation, stays) in [(true, true), (false, false)] {
        drop(run.open(Some(Keep { step: 4, evaluation })));
        assert_eq!(run.tensorboard().find("tables/cherry_picks/text_summary", 4).is_some(), stays);
        assert_eq!(run.json().len(), 1 + usize::from(stays));
    }
}

#[test]
fn the_json_tells_the_whole_run() {
    let run = Run::new();
    let mut trackers = run.open(None);
    run.samples(&mut trackers, 0);
    trackers.row(&train(1)).unwrap();
    trackers.row(&train(2)).unwrap();
    trackers.end(2, Status::Finished).unwrap();
    let rows = run.json();
    let kinds: Vec<&str> = rows.iter().map(|row| row["type"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["run", "samples", "metrics", "metrics", "end"]);
    assert_eq!(rows[0]["start_time"], 1_760_000_000_250_u64);
    assert_eq!(rows[0]["params"][1], json!({"key": "train.sampler", "value": "shuffled"}));
    assert_eq!(rows[0]["params"][3], json!({"key": "train.max_steps", "value": "null"}));
    assert_eq!(rows[0]["config"]["train.learning_rate"], 2e-4);
    assert_eq!(rows[0]["config"]["adapter.target_modules"], json!(["q_proj", "v|proj"]));
    let picture = rows[1]["samples"][0]["images"][0].as_str().unwrap();
    assert_eq!(std::fs::read(run.dir.path().join("tracking").join(picture)).unwrap(), run.picture[0].1);
    assert_eq!(rows[1]["samples"][1]["generated"], "second 0");
    assert_eq!(rows[4]["status"], "FINISHED");
    assert_eq!(rows[4]["summary"], json!({"train/epoch": 0.5, "train/loss": loss(2), "train/num_tokens": 200.0}));
}

#[test]
fn a_picture_that_browsers_do_not_show_from_tensorboard_becomes_a_png() {
    let run = Run::new();
    let mut webp = std::io::Cursor::new(Vec::new());
    let pixels = image::load_from_memory(&run.picture[0].1).unwrap();
    pixels.write_to(&mut webp, image::ImageFormat::WebP).unwrap();
    let images = [("image/webp".to_owned(), webp.into_inner()), ("image/png".to_owned(), b"no picture".to_vec())];
    let sample = Sample { images: &images, question: "", expected: "", generated: "" };
    run.open(None).samples(1, &[sample]).unwrap();
    let files = run.tensorboard();
    let shown = files.find("samples/01/picture", 1).unwrap();
    let shown = &blobs(shown)[2];
    assert_eq!(image::guess_format(shown).unwrap(), image::ImageFormat::Png);
    let shown = image::load_from_memory(shown).unwrap();
    assert_eq!(shown.to_rgba8(), pixels.to_rgba8());
    assert!(files.find("samples/01/picture_2", 1).is_none());
    assert!(run.json()[1]["samples"][0]["images"][0].as_str().unwrap().ends_with(".webp"));
}

#[test]
fn report_to_is_read_or_refused() {
    let parse = |names: &[&str]| ReportTo::parse(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>());
    assert_eq!(parse(&["json", "tensorboard", "json"]).unwrap(), [ReportTo::TensorBoard, ReportTo::Json]);
    assert_eq!(parse(&["none"]).unwrap(), []);
    assert_eq!(parse(&[]).unwrap(), []);
    let error = parse(&["wandb"]).unwrap_err().to_string();
    assert_eq!(error, "`report_to` names `wandb`; it takes tensorboard, json, or none");
    let error = parse(&["none", "json"]).unwrap_err().to_string();
    assert_eq!(error, "`report_to` is `none,json`: `none` stands alone; leave it or the others out");
}

#[test]
fn nothing_chosen_writes_nothing() {
    let run = Run::new();
    let mut trackers = Trackers::open(run.dir.path(), &[], &run.about(), None).unwrap();
    assert!(trackers.is_empty());
    trackers.row(&train(1)).unwrap();
    trackers.end(1, Status::Failed).unwrap();
    assert_eq!(std::fs::read_dir(run.dir.path()).unwrap().count(), 0);
}
