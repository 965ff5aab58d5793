//! Values over files, and what is said of records that lack something.

use super::*;
use crate::metrics::Facts;
use serde_json::{Value, json};
use std::path::Path;

fn system(name: &str, lines: &[Value]) -> System {
    let record = |(i, line): (usize, &Value)| {
        Record::of(serde_json::from_value(line.clone()).unwrap(), Place::new(Path::new(name), i + 1)).unwrap()
    };
    System { name: name.to_owned(), records: lines.iter().enumerate().map(record).collect() }
}

fn value(metric: &str, system: &System) -> Result<f64, EvaluationError> {
    let metric = registry().by_name(metric, &Facts::default()).unwrap();
    figure(&*metric, &system.records, &Bootstrap { resamples: 20, ..Bootstrap::default() }).map(|figure| figure.value)
}

#[track_caller]
fn refused<T: std::fmt::Debug>(result: Result<T, EvaluationError>, says: &[&str]) {
    let said = result.unwrap_err().to_string();
    says.iter().for_each(|part| assert!(said.contains(part), "{part:?} is not in {said}"));
}

#[test]
fn rewards_are_metrics() {
    let answers = json!([{"id": "0", "content": "a"}, {"id": "1", "content": "b"}]);
    let scored = system(
        "r",
        &[
            json!({"id": 1, "answers": answers, "rewards": {"0": 1.0, "1": 3.0}}),
            json!({"id": 2, "answers": answers, "rewards": {"0": -1.0, "1": -2.0}}),
        ],
    );
    assert_eq!((value("reward_mean", &scored).unwrap(), value("reward_best", &scored).unwrap()), (0.25, 1.0));
    assert_eq!(scored.suited(), ["reward_mean", "reward_best"]);
    refused(value("reward_accuracy", &scored), &["r:1: metric `reward_accuracy`, record `1`", "pair of a chosen"]);
    let pairs = system(
        "p",
        &[
            json!({"id": 1, "reward_w": 2.0, "reward_l": 1.0}),
            json!({"id": 2, "reward_w": 1.0, "reward_l": 1.0}),
            json!({"id": 3, "reward_w": 0.0, "reward_l": 3.0}),
            json!({"id": 4, "rewards": {"chosen": 5.0, "rejected": 1.0}}),
        ],
    );
    assert_eq!((value("reward_accuracy", &pairs).unwrap(), value("reward_margin", &pairs).unwrap()), (0.5, 0.5));
    assert_eq!(pairs.suited(), ["reward_mean", "reward_best", "reward_accuracy", "reward_margin"]);
    refused(value("reward_mean", &system("x", &[json!({"id": 1})])), &["x:1", "`rewards` by the answers' ids"]);
}

#[test]
fn predicted_classes_are_answers() {
    let line = |id, right: Value, found: Value| json!({"id": id, "label": right, "predicted_label": found});
    let found = system("c", &[line(1, json!(0), json!(0)), line(2, json!(1), json!(0)), line(3, json!(1.0), json!(1))]);
    assert_eq!(found.suited(), ["accuracy", "precision_macro", "recall_macro", "f1_macro"]);
    assert!((value("accuracy", &found).unwrap() - 2.0 / 3.0).abs() < 1e-12);
    let confusion = found.confusion().unwrap();
    assert!(confusion.classes() == ["0", "1"] && confusion.table() == [[1, 0], [1, 1]]);
    let without = system("c", &[line(1, json!(0), json!(0)), json!({"id": 2, "predicted_label": 1})]);
    assert!(without.confusion().is_none() && without.suited().is_empty());
    refused(value("accuracy", &without), &["c:2: metric `accuracy`, record `2`", "label"]);
}

#[test]
fn a_question_without_a_right_option_is_refused() {
    let line = |more: Value| {
        let mut line =
            json!({"id": 1, "choices": ["x", "y"], "scores": [-1.0, -2.0], "answers": [{"id": 0, "content": "A"}]});
        line.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        system("q", &[line])
    };
    for metric in ["choice_likelihood", "choice_likelihood_norm", "choice_letter", "science_qa"] {
        assert_eq!(value(metric, &line(json!({"answer": 0}))).unwrap(), 1.0, "{metric}");
        assert_eq!(value(metric, &line(json!({"answer": 1}))).unwrap(), 0.0, "{metric}");
        refused(value(metric, &line(json!({}))), &["q:1: metric", metric]);
    }
}

#[test]
fn systems_are_paired_by_id_and_data_set() {
    let line = |set: &str, id: u32, said: &str| json!({"id": id, "dataset_name": set, "label": "yes", "answers": [{"id": 0, "content": said}]});
    let first = system("a", &[line("s", 1, "yes"), line("s", 2, "no"), line("s", 3, "no")]);
    let second = system("b", &[line("s", 3, "yes"), line("s", 1, "yes"), line("s", 2, "no")]);
    let metric = registry().by_name("exact_match", &Facts::default()).unwrap();
    let [ours, theirs] = [&first, &second].map(|system| measure(&*metric, &system.records).unwrap().measured);
    let pairs = pair(&first, &second).unwrap();
    assert_eq!((pairs.len(), pairs.is_empty()), (3, false));
    let found = pairs.compare(&*metric, &ours, &theirs, &Bootstrap::default()).unwrap().comparison;
    let counts = found.records.unwrap();
    assert_eq!((counts.wins, counts.ties, counts.losses), (1, 2, 0));
    assert!((found.difference - 1.0 / 3.0).abs() < 1e-12 && found.mcnemar.unwrap().second_only == 1);
    assert!(pairs.compare(&*metric, &ours, &theirs[..1], &Bootstrap::default()).is_err());

    refused(pair(&first, &system("c", &[line("s", 1, ""), line("s", 2, "")])), &["a:3", "`3`", "those of c"]);
    refused(pair(&system("c", &[line("s", 1, "")]), &first), &["a:2", "`2`", "those of c"]);
    let twice = system("d", &[line("s", 1, ""), line("s", 1, "")]);
    refused(pair(&twice, &twice), &["d:2", "`1`", "stands at d:1"]);
    // One id in two data sets is two records.
    let sets = system("e", &[line("s", 1, ""), line("t", 1, "")]);
    assert_eq!(pair(&sets, &sets).unwrap().len(), 2);
}
