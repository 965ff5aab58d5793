//! What is written.

use super::{Evaluate, Other, Subject, table};
use crate::pipelines::evaluation::{Figure, MetricComparison, Record};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// Everything, every record's values included. A value that is no finite number is `null`.
pub(super) fn whole(asked: &Evaluate, subject: &Subject, figures: &[Figure], others: &[Other]) -> Value {
    let mut whole = Map::new();
    let mut put = |key: &str, value: Value| drop(whole.insert(key.to_owned(), value));
    put("system", subject.system.name.clone().into());
    for (key, files) in [("predictions", &asked.predictions), ("references", &asked.references), ("data", &asked.data)]
    {
        if !files.is_empty() {
            put(key, paths(files));
        }
    }
    for (key, folder) in
        [("model", &asked.model), ("adapter", &asked.adapter), ("reference_model", &asked.reference_model)]
    {
        if let Some(folder) = folder {
            put(key, folder.display().to_string().into());
        }
    }
    put("bootstrap", json!({"samples": asked.samples, "level": asked.level, "seed": asked.seed}));
    put("num_records", subject.system.records.len().into());
    put("metrics", figures.iter().map(|figure| (figure.name.clone(), metric(figure))).collect::<Map<_, _>>().into());
    if let Some(confusion) = subject.system.confusion() {
        let classes: Vec<&String> = confusion.classes();
        let of = |known: &crate::metrics::ClassCounts| json!({"precision": known.precision(), "recall": known.recall(), "f1": known.f1(), "records": known.support});
        let per_class: Map<String, Value> =
            classes.iter().zip(confusion.per_class()).map(|(&class, known)| (class.clone(), of(&known))).collect();
        put("classes", json!({"names": classes, "confusion": confusion.table(), "per_class": per_class}));
    }
    if !others.is_empty() {
        put("comparisons", others.iter().map(|other| comparison(&subject.system.name, other)).collect());
    }
    let records = subject.system.records.iter().enumerate();
    // Of prediction files the answers stand in the files.
    let with_answers = asked.model.is_some();
    put("records", records.map(|(index, one)| record(index, one, figures, with_answers)).collect());
    Value::Object(whole)
}

fn paths(files: &[PathBuf]) -> Value {
    files.iter().map(|file| Value::from(file.display().to_string())).collect()
}

fn metric(figure: &Figure) -> Value {
    json!({
        "value": figure.value,
        "interval": [figure.interval.low, figure.interval.high],
        "better": table::better(figure.better),
    })
}

fn comparison(first: &str, other: &Other) -> Value {
    let all: Map<String, Value> = other.compared.iter().map(|one| (one.name.clone(), compared(one))).collect();
    json!({"first": first, "second": other.name, "num_records": other.pairs, "metrics": all})
}

fn compared(one: &MetricComparison) -> Value {
    let found = &one.comparison;
    let mut value = json!({
        "first": found.first,
        "second": found.second,
        "difference": found.difference,
        "interval": [found.interval.low, found.interval.high],
        "p_value": found.p_value,
    });
    if let Some(counts) = found.records {
        value["wins"] = counts.wins.into();
        value["ties"] = counts.ties.into();
        value["losses"] = counts.losses.into();
    }
    if let Some(test) = found.mcnemar {
        value["mcnemar"] =
            json!({"first_only": test.first_only, "second_only": test.second_only, "p_value": test.p_value});
    }
    value
}

fn record(index: usize, record: &Record, figures: &[Figure], with_answers: bool) -> Value {
    let values: Map<String, Value> =
        figures.iter().map(|figure| (figure.name.clone(), json!(figure.measured[index].value))).collect();
    let mut written = json!({"id": record.judged.id});
    if !record.dataset_name.is_empty() {
        written["dataset_name"] = record.dataset_name.clone().into();
    }
    written["place"] = record.place.to_string().into();
    if with_answers {
        written["answers"] = record.judged.answers.iter().map(|answer| Value::from(answer.text.as_str())).collect();
        written["references"] = record.judged.references.clone().into();
    }
    written["values"] = values.into();
    written
}
