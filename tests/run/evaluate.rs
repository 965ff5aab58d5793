//! `evaluate`: values of the reference implementations, comparisons, a model's own answers, and what is refused.

use super::{fixture, program, text};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Output;

/// Room for sums in another order.
const TOLERANCE: f64 = 1e-9;

fn metrics(file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture("metrics").join(file)).unwrap()).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

/// Writes a .jsonl file.
fn lines(folder: &Path, name: &str, records: &[Value]) -> PathBuf {
    let file = folder.join(name);
    std::fs::write(&file, records.iter().map(|record| format!("{record}\n")).collect::<String>()).unwrap();
    file
}

#[track_caller]
fn run(arguments: &[&str], code: i32) -> String {
    let output: Output = program("evaluate").args(arguments).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// Runs with `--output`, and returns what it holds and what was printed.
#[track_caller]
fn evaluated(folder: &Path, arguments: &[&str]) -> (Value, String) {
    let output = folder.join("evaluation.json");
    let said = run(&[arguments, &["--output", output.to_str().unwrap()]].concat(), 0);
    let whole = serde_json::from_slice(&std::fs::read(&output).unwrap()).unwrap();
    std::fs::remove_file(output).unwrap();
    (whole, said)
}

#[track_caller]
fn close(found: &Value, expected: f64, what: &str) {
    let found = found.as_f64().unwrap_or_else(|| panic!("{what}: {found}"));
    assert!((found - expected).abs() <= TOLERANCE * expected.abs().max(1.0), "{what}: {found}, expected {expected}");
}

#[test]
fn texts_have_the_values_of_the_reference_implementations() {
    let folder = tempfile::tempdir().unwrap();
    let known = metrics("references.json");
    let record = |(i, row): (usize, &Value)| {
        json!({"id": i, "dataset_name": "made", "messages": [], "label": row["references"],
               "answers": [{"id": "0", "content": row["answer"]}]})
    };
    let records: Vec<Value> = list(&known["rows"]).iter().enumerate().map(record).collect();
    // One system in two files.
    let (first, second) = records.split_at(20);
    let files = [lines(folder.path(), "a.jsonl", first), lines(folder.path(), "b.jsonl", second)];
    let names = [
        "bleu",
        "bleu_intl",
        "chrf",
        "chrf_pp",
        "rouge_1",
        "rouge_l",
        "rouge_lsum_stemmed",
        "exact_match_squad",
        "f1_squad",
        "anls",
    ];
    let arguments: Vec<&str> =
        ["--predictions"].into_iter().chain(files.iter().map(|file| file.to_str().unwrap())).collect();
    let arguments = [arguments, vec!["--metrics"], names.to_vec(), vec!["--samples", "50", "--level", "0.9"]].concat();
    let (whole, said) = evaluated(folder.path(), &arguments);
    assert!(said.contains("a: 36 records") && said.contains("90% interval"), "{said}");
    for (name, of) in
        [("bleu", "bleu/13a/exp"), ("bleu_intl", "bleu/intl/exp"), ("chrf", "chrf"), ("chrf_pp", "chrf++")]
    {
        let expected = known["corpus"][of].as_f64().unwrap();
        close(&whole["metrics"][name]["value"], expected, name);
        let line = said.lines().find(|line| line.starts_with(&format!("{name} "))).unwrap();
        assert!(line.contains(&format!("{expected:.4}")) && line.ends_with("higher"), "{line}");
    }
    let columns: Vec<&str> = list(&known["names"]).iter().map(|name| name.as_str().unwrap()).collect();
    for (name, of) in [
        ("rouge_1", "rouge1/plain/fmeasure"),
        ("rouge_l", "rougeL/plain/fmeasure"),
        ("rouge_lsum_stemmed", "rougeLsum/stem/fmeasure"),
        ("exact_match_squad", "squad/exact"),
        ("f1_squad", "squad/f1"),
        ("anls", "anls"),
    ] {
        let column = columns.iter().position(|column| *column == of).unwrap();
        for (record, row) in list(&whole["records"]).iter().zip(list(&known["rows"])) {
            close(&record["values"][name], row["values"][column].as_f64().unwrap(), name);
        }
        let mean =
            list(&whole["records"]).iter().map(|record| record["values"][name].as_f64().unwrap()).sum::<f64>() / 36.0;
        close(&whole["metrics"][name]["value"], mean, name);
        let interval = list(&whole["metrics"][name]["interval"]);
        assert!(interval[0].as_f64() <= Some(mean) && Some(mean) <= interval[1].as_f64(), "{name}: {interval:?}");
    }
    assert_eq!(whole["records"][20]["place"], format!("{}:1", files[1].display()));
}

#[test]
fn people_s_answers_come_from_the_data_file() {
    let folder = tempfile::tempdir().unwrap();
    let known = metrics("questions.json");
    let rows = list(&known["vqa"]);
    let said = |i: usize| json!({"id": i.to_string(), "answers": [{"id": "0", "content": rows[i]["answer"]}]});
    let people = |i: usize| {
        let each = list(&rows[i]["people"]).iter().map(|answer| json!({"answer": answer})).collect::<Vec<_>>();
        json!({"question_id": i, "question": "?", "answers": each})
    };
    let predictions = lines(folder.path(), "p.jsonl", &(0..rows.len()).map(said).collect::<Vec<_>>());
    // In another order, and with one more.
    let mut data: Vec<Value> = (0..rows.len()).rev().map(people).collect();
    data.push(json!({"question_id": 999, "answers": []}));
    let data = lines(folder.path(), "data.jsonl", &data);
    let arguments = ["--predictions", predictions.to_str().unwrap(), "--references", data.to_str().unwrap()];
    let (whole, _) =
        evaluated(folder.path(), &[&arguments[..], &["--metrics", "vqa_accuracy", "--samples", "10"]].concat());
    for (record, row) in list(&whole["records"]).iter().zip(rows) {
        close(&record["values"]["vqa_accuracy"], row["value"].as_f64().unwrap(), &row.to_string());
    }
    let said = run(&["--predictions", predictions.to_str().unwrap(), "--metrics", "vqa_accuracy"], 1);
    assert!(said.contains("p.jsonl:1: metric `vqa_accuracy`, record `0`: there is no reference answer"), "{said}");
}

#[test]
fn classes_and_rankings_have_scikit_learn_s_values() {
    let folder = tempfile::tempdir().unwrap();
    let known = metrics("numbers.json");
    let case = &known["classes"][3];
    let pairs = list(&case["right"]).iter().zip(list(&case["predicted"])).enumerate();
    let records: Vec<Value> =
        pairs.map(|(i, (right, found))| json!({"id": i, "label": right, "predicted_label": found})).collect();
    let file = lines(folder.path(), "classes.jsonl", &records);
    // No metric is named: the records say what suits them.
    let (whole, said) = evaluated(folder.path(), &["--predictions", file.to_str().unwrap(), "--samples", "10"]);
    for (name, of) in [
        ("accuracy", "accuracy"),
        ("precision_macro", "precision/macro"),
        ("recall_macro", "recall/macro"),
        ("f1_macro", "f1/macro"),
    ] {
        close(&whole["metrics"][name]["value"], case["values"][of].as_f64().unwrap(), name);
    }
    assert_eq!(whole["classes"]["confusion"], case["table"]);
    let dog = said.lines().find(|line| line.starts_with("dog ")).unwrap();
    let counts: Vec<String> = list(&case["table"][3]).iter().map(Value::to_string).collect();
    assert_eq!(dog.split_whitespace().skip(1).take(counts.len()).collect::<Vec<_>>(), counts, "{said}");

    let record = |(i, case): (usize, &Value)| {
        json!({"id": i, "documents": list(&case["scores"]).iter().map(|score| json!({"text": "d", "score": score})).collect::<Vec<_>>(),
               "relevance": case["relevances"]})
    };
    let cases = list(&known["rankings"]);
    let file = lines(folder.path(), "rankings.jsonl", &cases.iter().enumerate().map(record).collect::<Vec<_>>());
    let names = ["--metrics", "mrr,ndcg,ndcg_at_3,recall_at_3", "--samples", "10"];
    let (whole, _) = evaluated(folder.path(), &[&["--predictions", file.to_str().unwrap()], &names[..]].concat());
    for (found, case) in list(&whole["records"]).iter().zip(cases) {
        for (name, of) in [("mrr", "mrr"), ("ndcg", "ndcg"), ("ndcg_at_3", "ndcg/3"), ("recall_at_3", "recall/3")] {
            close(&found["values"][name], case["values"][of].as_f64().unwrap(), name);
        }
    }
}

/// Ten records that are answered right where `right` says so.
fn answered(folder: &Path, name: &str, right: [bool; 10]) -> PathBuf {
    let record = |(i, &right): (usize, &bool)| json!({"id": i, "label": "yes", "answers": [{"id": "0", "content": if right { "yes" } else { "no" }}]});
    lines(folder, name, &right.iter().enumerate().map(record).collect::<Vec<_>>())
}

#[test]
fn systems_are_compared_record_by_record() {
    let folder = tempfile::tempdir().unwrap();
    // Right with the first alone: 1; with the second alone: 5.
    let (t, f) = (true, false);
    let first = answered(folder.path(), "first.jsonl", [t, f, f, f, f, f, t, t, f, f]);
    let second = answered(folder.path(), "second.jsonl", [f, t, t, t, t, t, t, t, f, f]);
    let [a, b] = [&first, &second].map(|path| path.to_str().unwrap());
    let arguments = ["--predictions", a, "--against", b, a, "--metrics", "exact_match", "length_chars"];
    let (whole, said) = evaluated(folder.path(), &arguments);
    let found = &whole["comparisons"][0]["metrics"]["exact_match"];
    close(&found["difference"], 0.4, "difference");
    assert_eq!((found["wins"].as_u64(), found["ties"].as_u64(), found["losses"].as_u64()), (Some(5), Some(4), Some(1)));
    let known = metrics("numbers.json");
    let mcnemar = list(&known["mcnemar"]).iter().find(|row| row[0] == 1 && row[1] == 5).unwrap();
    close(&found["mcnemar"]["p_value"], mcnemar[2].as_f64().unwrap(), "McNemar");
    assert!(said.contains("second against") && said.contains("0.2188"), "{said}");
    let itself = &whole["comparisons"][1]["metrics"]["exact_match"];
    assert_eq!((itself["difference"].as_f64(), itself["p_value"].as_f64()), (Some(0.0), Some(1.0)));
    assert!(whole["comparisons"][0]["metrics"]["length_chars"]["mcnemar"].is_null());

    let fewer = lines(
        folder.path(),
        "fewer.jsonl",
        &[json!({"id": 0, "answers": [{"id": 0, "content": "no"}], "label": "yes"})],
    );
    let said = run(&["--predictions", a, "--against", fewer.to_str().unwrap(), "--metrics", "exact_match"], 1);
    assert!(said.contains("first.jsonl:2: the record `1` is not among those of fewer"), "{said}");
    let twice = std::fs::read_to_string(&first).unwrap().repeat(2);
    std::fs::write(folder.path().join("twice.jsonl"), twice).unwrap();
    let twice = folder.path().join("twice.jsonl");
    let said = run(&["--predictions", a, "--against", twice.to_str().unwrap(), "--metrics", "exact_match"], 1);
    assert!(
        said.contains("twice.jsonl:11: the record `0` stands at") && said.contains("twice.jsonl:1 already"),
        "{said}"
    );
}

#[test]
fn the_same_seed_writes_the_same_bytes_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let file = answered(folder.path(), "p.jsonl", [true, false, true, true, false, true, true, false, false, true]);
    let written = |threads: &str, seed: &str| {
        let output = folder.path().join("out.json");
        let mut evaluate = program("evaluate");
        evaluate.env("RAYON_NUM_THREADS", threads).arg("--predictions").arg(&file).arg("--output").arg(&output);
        let output_of = evaluate.args(["--metrics", "exact_match", "--seed", seed]).output().unwrap();
        assert!(output_of.status.success(), "{}", text(&output_of));
        let bytes = std::fs::read(&output).unwrap();
        std::fs::remove_file(output).unwrap();
        bytes
    };
    assert_eq!(written("1", "3"), written("4", "3"));
    assert_ne!(written("1", "3"), written("1", "4"), "the seed is in the file");
}

#[test]
fn what_cannot_be_evaluated_is_refused_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let file = answered(folder.path(), "p.jsonl", [true; 10]);
    let file = file.to_str().unwrap();
    let with = |more: &[&str], code| run(&[&["--predictions", file], more].concat(), code);
    for (more, code, says) in [
        (&["--metrics", "rogue_l"][..], 2, "there is no metric `rogue_l` (did you mean `rouge_l`?)"),
        (&["--metrics", "ead_1"], 2, "--vocabulary"),
        (&[], 2, "name metrics with --metrics"),
        (&["--metrics", "bleu", "--level", "2"], 2, "above 0 and below 1"),
        (&["--metrics", "bleu", "--model", "x"], 2, "cannot be used with"),
        (&["--metrics", "bleu", "--temperature", "0.5"], 2, "cannot be used with"),
        (&["--metrics", "perplexity"], 1, "p.jsonl:1: metric `perplexity`, record `0`: there is no log-probability"),
        (&["--metrics", "reward_mean"], 1, "p.jsonl:1: metric `reward_mean`, record `0`"),
        (&["--metrics", "bleu", "--references", "nowhere.jsonl"], 1, "nowhere.jsonl"),
        (&["--metrics", "bleu", "--output", file], 1, "holds something already"),
    ] {
        let said = with(more, code);
        assert!(said.contains(says), "{says:?} is not in:\n{said}");
    }
    assert!(run(&["--metrics", "bleu"], 2).contains("--predictions FILE"));
    let bad = folder.path().join("bad.jsonl");
    for (content, says) in [
        (
            "{\"id\": 1, \"answers\": [{\"id\": 0}]}\n",
            "bad.jsonl:1: this is no line of a prediction file: missing field `content`",
        ),
        ("\n{\"id\": 1,\n", "bad.jsonl:2: malformed JSON"),
        ("{\"id\": 1, \"answers\": [], \"references\": {\"x\": 1}}", "bad.jsonl:1: `references` must be a text"),
        ("", "holds no record"),
    ] {
        std::fs::write(&bad, content).unwrap();
        let said = run(&["--predictions", bad.to_str().unwrap(), "--metrics", "bleu"], 1);
        assert!(said.contains(says), "{says:?} is not in:\n{said}");
    }
    let said = run(&["--list"], 0);
    assert!(said.lines().any(|line| line.starts_with("vqa_accuracy ") && line.contains("VQA v2")), "{said}");
    assert!(said.lines().any(|line| line.starts_with("reward_accuracy ")), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing half-written is left");
}

/// What the recipe `score` says of each answer's tokens.
fn scores(model: &Path, data: &Path, folder: &Path) -> Vec<Vec<f64>> {
    let output = folder.join("scores.jsonl");
    let mut score = program("score");
    score.arg("--model").arg(model).arg("--data").arg(data).arg("--images").arg(fixture("parity/records/images"));
    let ran = score.args(["--per-token", "--device", "cpu"]).arg("--output").arg(&output).output().unwrap();
    assert!(ran.status.success(), "{}", text(&ran));
    let lines = std::fs::read_to_string(&output).unwrap();
    std::fs::remove_file(output).unwrap();
    let row = |line: &str| -> Vec<f64> {
        let row: Value = serde_json::from_str(line).unwrap();
        list(&row["token_logprobs"]).iter().map(|value| value.as_f64().unwrap()).collect()
    };
    lines.lines().map(row).collect()
}

#[test]
fn a_model_answers_the_questions_and_scores_what_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let model = fixture("parity/llava_gqa/model");
    let images = fixture("parity/records/images");
    let records: Vec<Value> =
        serde_json::from_slice(&std::fs::read(fixture("parity/records/data.json")).unwrap()).unwrap();
    // Records of one answer: `score` scores all of a record's.
    let records: Vec<Value> = records.into_iter().filter(|record| list(&record["conversations"]).len() == 2).collect();
    let choices = ["A dark ridge", "Discs", "11"];
    let with: Vec<Value> = records
        .iter()
        .map(|record| {
            let mut record = record.clone();
            record["choices"] = json!(choices);
            record["relevance"] = json!([0, 0, 1]);
            record
        })
        .collect();
    let data = lines(folder.path(), "data.jsonl", &with);
    let common = ["--images", images.to_str().unwrap(), "--device", "cpu", "--samples", "10", "--max-new-tokens", "6"];
    let asked = |more: &[&str]| {
        let first = ["--model", model.to_str().unwrap(), "--data", data.to_str().unwrap()];
        evaluated(folder.path(), &[&first[..], &common, more].concat())
    };
    let names = ["--metrics", "perplexity,choice_likelihood,length_tokens,exact_match,kl,kl_answer"];
    let reference = ["--reference-model", model.to_str().unwrap()];
    let (whole, said) = asked(&[&names[..], &reference].concat());
    for name in ["perplexity ", "choice_likelihood ", "kl "] {
        assert!(said.lines().any(|line| line.starts_with(name)), "{said}");
    }
    assert_eq!(whole["records"][0]["references"], json!(["A dark ridge under a pale sky."]));
    assert_eq!(whole["records"][0]["answers"].as_array().map(Vec::len), Some(1));
    // A model differs from itself in nothing.
    close(&whole["metrics"]["kl"]["value"], 0.0, "kl");

    let right = scores(&model, &data, folder.path());
    let tokens: usize = right.iter().map(Vec::len).sum();
    let expected = (-right.iter().flatten().sum::<f64>() / tokens as f64).exp();
    let found = whole["metrics"]["perplexity"]["value"].as_f64().unwrap();
    // Batches of other lengths, in f32.
    assert!((found / expected - 1.0).abs() < 1e-5, "{found}, expected {expected}");

    let sums: Vec<Vec<f64>> = choices
        .map(|choice| {
            let one = |record: &Value| {
                let mut record = record.clone();
                record["conversations"][1]["value"] = choice.into();
                record
            };
            let file = lines(folder.path(), "choice.jsonl", &records.iter().map(one).collect::<Vec<_>>());
            // Without the token that ends the answer.
            scores(&model, &file, folder.path()).iter().map(|row| row[..row.len() - 1].iter().sum()).collect()
        })
        .to_vec();
    for (i, record) in list(&whole["records"]).iter().enumerate() {
        let best = (0..3).max_by(|&a, &b| sums[a][i].total_cmp(&sums[b][i])).unwrap();
        assert_eq!(record["values"]["choice_likelihood"], f64::from(best == 2), "{record} {sums:?}");
    }

    let chosen =
        lines(folder.path(), "other.jsonl", &[json!({"id": "one-image", "answers": [{"id": 0, "content": "x"}]})]);
    let said = run(
        &[
            &["--model", model.to_str().unwrap(), "--data", chosen.to_str().unwrap()],
            &common[..],
            &["--metrics", "bleu"],
        ]
        .concat(),
        1,
    );
    assert!(said.contains("other.jsonl:1") && said.contains("conversations"), "{said}");
}
