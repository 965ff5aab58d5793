//! What evaluations show and compute, when they end a run, and that all of it resumes to the bit.

use super::alignment::{Place, done, refused};
use super::{fixture, program};
use serde_json::{Map, Value};
use std::path::Path;

/// Columns that tell the time, which no two runs share.
const TIMES: &[&str] = &["tokens_per_second", "eval_seconds"];

/// Several drawn answers to some records, and one more record to look at.
const SAMPLED: &[&str] = &[
    "train.eval_generate=3",
    "train.cherry_pick_ids=6,0",
    "train.max_new_tokens=4",
    "train.eval_metrics=rouge_l,chrf,distinct_2,self_bleu,perplexity,length_words",
    "generation.do_sample=true",
    "generation.top_k=20",
    "generation.num_return_sequences=2",
    "train.metric_for_best_model=chrf",
    "train.report_to=tensorboard,json",
    "data.template=chatml",
];

fn set<'a>(settings: &[&'a str]) -> Vec<&'a str> {
    settings.iter().flat_map(|setting| ["--set", setting]).collect()
}

/// Everything that a run leaves and that does not tell the time.
#[derive(Debug, PartialEq)]
struct Left {
    adapter: Vec<u8>,
    metrics: Vec<Map<String, Value>>,
    generations: Vec<(String, String)>,
    tables: Vec<Value>,
}

fn left(run: &Path) -> Left {
    let lines = |path: &Path| -> Vec<Map<String, Value>> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let mut metrics = lines(&run.join("metrics.jsonl"));
    metrics.iter_mut().for_each(|row| row.retain(|key, _| !TIMES.contains(&key.as_str())));
    let mut generations: Vec<(String, String)> = std::fs::read_dir(run.join("generations"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read_to_string(&path).unwrap()))
        .collect();
    generations.sort();
    let tables = lines(&run.join("tracking/run.jsonl")).into_iter().filter(|row| row["type"] == "table");
    let tables = tables.map(|row| serde_json::json!([row["step"], row["columns"], row["rows"]])).collect();
    let adapter = std::fs::read(run.join("final/adapter_model.safetensors")).unwrap();
    Left { adapter, metrics, generations, tables }
}

fn predictions(place: &Place, output: &str, step: usize) -> Vec<Value> {
    let file = place.bytes(output, &format!("generations/step-{step}.jsonl"));
    String::from_utf8(file).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn sampled_answers_and_their_metrics_survive_a_crash_to_the_bit() {
    let place = Place::new("chat");
    let sampled = set(SAMPLED);
    done(&place.run("sft", "whole", &sampled));
    let expected = left(Path::new(&place.path("whole")));
    let evaluations: Vec<&Map<String, Value>> = expected.metrics.iter().filter(|row| row["phase"] == "eval").collect();
    assert_eq!(evaluations.len(), 2);
    for name in ["rouge_l", "chrf", "distinct_2", "self_bleu", "perplexity", "length_words", "exact_match"] {
        assert!(evaluations.iter().all(|row| row[&format!("eval_{name}")].is_f64()), "{name} in {evaluations:?}");
    }
    let files: Vec<&str> = expected.generations.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(files, ["step-0.jsonl", "step-2.jsonl", "step-4.jsonl"]);
    // Three that count, the first and the third of which are 0 and 5, and the pick that is not among them; at the end all.
    let ids = |step| predictions(&place, "whole", step).iter().map(|line| line["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(2), ["0", "2", "5", "6"]);
    assert_eq!(ids(4).len(), 8);
    assert_eq!(predictions(&place, "whole", 2)[3]["answers"].as_array().unwrap().len(), 2);
    assert_eq!(expected.tables.len(), 2);
    assert_eq!(expected.tables[0][2][0][0], "6", "the picks stand in the order in which they were named");
    let columns: Vec<&str> = expected.tables[0][1].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
    assert_eq!(columns[..6], ["id", "prompt", "expected", "before", "now", "rouge_l"]);
    let count = place.path("count");
    done(&place.faulty("sft", "counted", &sampled, "FIREBRICK_FAULT_COUNT", &count));
    let points = std::fs::read_to_string(&count).unwrap().lines().count();
    assert!(points > 100, "{points}");
    for part in 1..8 {
        let (point, run) = ((points * part / 8).to_string(), format!("crash-{part}"));
        let crashed = place.faulty("sft", &run, &sampled, "FIREBRICK_FAULT_AT", &point);
        assert!(crashed.status.code().is_none(), "point {point} did not abort");
        done(&place.run("sft", &run, &[&sampled[..], &["--resume"]].concat()));
        assert_eq!(left(Path::new(&place.path(&run))), expected, "after a crash at point {point} of {points}");
    }
}

#[test]
fn draws_are_the_same_at_every_evaluation() {
    let place = Place::new("chat");
    let still = set(&["train.learning_rate=0", "train.eval_metrics=chrf"]);
    done(&place.run("sft", "out", &[&set(SAMPLED)[..], &still].concat()));
    let answers = |step: usize, id: &str| {
        let lines = predictions(&place, "out", step);
        lines.into_iter().find(|line| line["id"] == id).unwrap()["answers"].clone()
    };
    for id in ["0", "2", "6"] {
        assert_eq!(answers(2, id), answers(4, id), "{id}");
    }
    assert_eq!(answers(0, "6")[1]["content"], answers(2, "6")[1]["content"]);
}

#[test]
fn a_run_that_does_not_improve_stops_early_and_stays_stopped() {
    let place = Place::new("chat");
    let patient = set(&[
        "train.learning_rate=0",
        "train.eval_steps=1",
        "train.max_steps=9",
        "train.early_stopping_patience=2",
        "train.load_best_model_at_end=true",
        "train.save_total_limit=1",
        "train.eval_generate=0",
        "data.template=chatml",
    ]);
    let said = done(&place.run("sft", "out", &patient));
    assert!(said.contains("stopping early after step 3") && said.contains("at step 1"), "{said}");
    let steps = |run: &str| -> Vec<u64> {
        let rows = place.metrics(run);
        rows.iter().filter(|row| row["phase"] == "eval").map(|row| row["step"].as_u64().unwrap()).collect()
    };
    assert_eq!(steps("out"), [1, 2, 3]);
    let run = Path::new(&place.path("out")).to_owned();
    assert!(run.join("checkpoint-1").is_dir(), "the best one is kept");
    assert!(String::from_utf8(place.bytes("out", "report.html")).unwrap().contains("Stopped early"));
    // As if it had been killed when all steps were done.
    let expected = place.bytes("out", "final/adapter_model.safetensors");
    std::fs::remove_dir_all(run.join("final")).unwrap();
    done(&place.run("sft", "out", &[&patient[..], &["--resume"]].concat()));
    assert_eq!((steps("out"), place.bytes("out", "final/adapter_model.safetensors")), (vec![1, 2, 3], expected));
    // One that improves at each evaluation goes on to its end.
    let learns = set(&["train.learning_rate=0.01", "train.max_steps=4"]);
    done(&place.run("sft", "learns", &[&patient[..], &learns].concat()));
    assert_eq!(steps("learns"), [1, 2, 3, 4]);
}

#[test]
fn what_no_evaluation_could_do_is_refused_before_the_weights() {
    let chats = Place::new("chat");
    let labels = Place::new("labels");
    let two = ["objective.num_labels=2"];
    for (place, recipe, settings, code, words) in [
        (&chats, "sft", &["train.eval_metrics=rougeL"][..], 2, &["rougeL", "did you mean `rouge_l`"][..]),
        (&chats, "sft", &["train.eval_metrics=ndcg"], 2, &["ndcg", "candidate"]),
        (&chats, "sft", &["train.eval_metrics=self_bleu"], 2, &["second generated answer"]),
        (&chats, "sft", &["train.eval_metrics=vqa_accuracy"], 2, &["several people", "anls"]),
        (&chats, "sft", &["train.eval_metrics=kl"], 2, &["kl", "train.metrics_model"]),
        (&chats, "sft", &["train.metric_for_best_model=bleu"], 2, &["eval_bleu", "eval_metrics"]),
        (&chats, "sft", &["train.metric_for_best_model=eval_nothing"], 1, &["eval_nothing", "eval_loss"]),
        (&chats, "sft", &["generation.do_sample=true", "train.eval_generate=0"], 2, &["generation", "eval_generate"]),
        (&chats, "sft", &["generation.best_of=3", "generation.do_sample=true"], 2, &["best_of"]),
        (&chats, "sft", &["generation.max_new_tokens=3", "train.max_new_tokens=4"], 2, &["max_new_tokens is 3"]),
        (&chats, "sft", &["train.cherry_pick_ids=99"], 2, &["99", "ids are like 0, 1, 2"]),
        (&chats, "sft", &["train.early_stopping_threshold=0.1"], 2, &["early_stopping_patience"]),
        (&labels, "classification", &[two[0], "train.eval_metrics=bleu"], 2, &["bleu"]),
        (&labels, "classification", &[two[0], "generation.num_beams=2"], 2, &["generation", "generates no answers"]),
        (&labels, "classification", &[two[0], "train.reward_model=x"], 2, &["train.reward_model"]),
    ] {
        let mut settings = set(settings);
        if recipe == "sft" {
            settings.extend(["--set", "data.template=chatml"]);
        }
        refused(&place.run(recipe, "out", &settings), code, words);
        let _ = std::fs::remove_dir_all(place.path("out"));
    }
    let model = fixture("parity/llama_text/model").display().to_string();
    let words = format!("train.reward_model={model}");
    refused(&chats.run("sft", "out", &set(&["data.template=chatml", &words])), 1, &["yields words", "reward_model"]);
    let mut alone = program("sft");
    alone.args(["--device", "cpu", "--model", &model, "--data", &chats.path("data.jsonl")]);
    alone.args(["--output", &chats.path("alone"), "--set", "train.early_stopping_patience=2"]);
    refused(&alone.output().unwrap(), 2, &["early_stopping_patience", "held-out"]);
}

#[test]
fn pairs_and_classes_are_shown_with_their_scores() {
    let place = Place::new("pairs");
    done(&place.run("reward_model", "out", &[]));
    let lines = predictions(&place, "out", 2);
    assert_eq!(lines.len(), 8);
    let (chosen, rejected) = (&lines[0]["rewards"]["chosen"], &lines[0]["rewards"]["rejected"]);
    assert!(chosen.is_f64() && rejected.is_f64() && chosen != rejected, "{}", lines[0]);
    assert_eq!(lines[0]["answers"][0]["content"], "It is 1.");
    let place = Place::new("labels");
    let metrics = set(&["objective.num_labels=2", "train.eval_metrics=accuracy,f1_macro,recall_macro"]);
    done(&place.run("classification", "out", &metrics));
    let line = &predictions(&place, "out", 2)[1];
    assert_eq!(line["label"], 1);
    let shares: Vec<f64> = line["probabilities"].as_array().unwrap().iter().map(|p| p.as_f64().unwrap()).collect();
    assert!((shares.iter().sum::<f64>() - 1.0).abs() < 1e-9);
    assert_eq!(line["predicted_label"], u8::from(shares[1] > shares[0]));
    let rows = place.metrics("out");
    let last = rows.iter().rfind(|row| row["phase"] == "eval").unwrap();
    // Of classes of one size the mean of their recalls is the share that is right.
    assert_eq!(last["eval_recall_macro"], last["eval_accuracy"]);
    assert!(last["eval_f1_macro"].is_f64());
    let report = String::from_utf8(place.bytes("out", "report.html")).unwrap();
    assert!(report.contains("predicted after") && report.contains("probabilities"));
}

#[test]
fn answers_are_scored_by_the_reference_and_by_a_reward_model() {
    let place = Place::new("pairs");
    done(&place.run("reward_model", "reward", &["--set", "train.language_model=true"]));
    let reward = format!("train.reward_model={}/final", place.path("reward"));
    let settings = [
        "train.eval_generate=3",
        "train.max_new_tokens=4",
        "train.eval_on_start=true",
        "train.eval_metrics=kl,kl_answer,perplexity",
        "train.metric_for_best_model=reward",
        &reward,
    ];
    done(&place.run("dpo", "out", &set(&settings)));
    let rows: Vec<Value> = place.metrics("out").into_iter().filter(|row| row["phase"] == "eval").collect();
    assert_eq!(rows[0]["eval_kl"], 0.0, "the policy begins as its own reference");
    let last = &rows[rows.len() - 1];
    assert!(last["eval_kl"].as_f64().is_some_and(|kl| kl != 0.0), "{last}");
    assert!(last["eval_perplexity"].as_f64().is_some_and(|value| value >= 1.0), "{last}");
    assert!(rows.iter().all(|row| row["eval_reward"].is_f64()), "{rows:?}");
    let line = &predictions(&place, "out", 2)[0];
    assert!(line["answers"][0]["reward"].is_f64() && line["judged"][1]["id"] == "rejected", "{line}");
}
