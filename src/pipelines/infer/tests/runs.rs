//! Order, killing and going on.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use serde_json::{Value, json};

use super::*;

/// Questions of different lengths, the longest in the middle.
fn questions(count: usize) -> Vec<Value> {
    let ask = |i: usize| format!("q{i}{}?", "-".repeat((i * 7) % count));
    (0..count).map(|i| json!({"id": format!("r{i}"), "messages": [{"role": "user", "content": ask(i)}]})).collect()
}

struct Place {
    dir: tempfile::TempDir,
    data: Dataset<ChatData>,
    bad: BadRecord,
}

impl Place {
    fn new(rows: &[Value], bad: BadRecord) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = open(dir.path(), ChatData::default(), rows);
        Self { dir, data, bad }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn run(&self, engine: &Parrot, shard: &str, chunk: usize) -> Result<Done, InferError> {
        let range = shard.parse::<Shard>().unwrap().range(Records::len(&self.data));
        let plan = Plan::new(&self.data, range, chunk, self.bad, &|| {})?;
        let setting = setting(Given::new());
        let task = Generate { engine, model: None, setting: &setting, logprobs: false, scores: false, best_of: None };
        let (output, journal) = (self.path("out.jsonl"), self.path("out.journal"));
        let file = File { output: &output, journal: &journal, run: "test" };
        let mut told = 0;
        let done = run(file, &self.data, &plan, &task, &mut |count, _| told += count)?;
        assert_eq!(told, plan.len());
        Ok(done)
    }

    fn take(&self) -> String {
        let text = std::fs::read_to_string(self.path("out.jsonl")).unwrap();
        std::fs::remove_file(self.path("out.jsonl")).unwrap();
        text
    }
}

fn lines(text: &str) -> Vec<crate::pipelines::Prediction> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn records_are_written_in_the_order_of_the_data() {
    let place = Place::new(&questions(11), BadRecord::Error);
    let done = place.run(&Parrot::new(), "1/1", 4).unwrap();
    assert_eq!((done.records, done.errors, done.resumed, done.spent.completion_tokens), (11, 0, 0, 33));
    let found = lines(&place.take());
    for (i, prediction) in found.iter().enumerate() {
        let question = prediction.messages[0]["content"].as_str().unwrap();
        let expected: String = question.chars().rev().collect();
        assert_eq!(
            (prediction.id.clone(), prediction.answers[0].content.clone()),
            (format!("r{i}"), format!("{expected} {i}"))
        );
    }
    assert_eq!(found.len(), 11);
    assert!(!place.path("out.journal").exists());
}

#[test]
fn long_records_come_first_and_chunks_are_of_like_length() {
    let place = Place::new(&questions(11), BadRecord::Error);
    let plan = Plan::new(&place.data, 0..11, 4, BadRecord::Error, &|| {}).unwrap();
    assert_eq!(plan.chunks.iter().map(Vec::len).collect::<Vec<_>>(), [4, 4, 3]);
    let sizes: Vec<usize> = plan.chunks.concat().iter().map(|&i| place.data.record(i).unwrap().size()).collect();
    assert!(sizes.is_sorted_by(|a, b| a >= b), "{sizes:?}");
}

#[test]
fn the_parts_one_behind_the_other_are_the_whole() {
    let place = Place::new(&questions(11), BadRecord::Error);
    place.run(&Parrot::new(), "1/1", 4).unwrap();
    let whole = place.take();
    let mut parts = String::new();
    for part in ["1/3", "2/3", "3/3"] {
        place.run(&Parrot::new(), part, 4).unwrap();
        parts.push_str(&place.take());
    }
    assert_eq!(parts, whole);
}

#[test]
fn a_run_that_is_killed_at_any_answer_goes_on_to_the_same_bytes() {
    let place = Place::new(&questions(9), BadRecord::Error);
    place.run(&Parrot::new(), "1/1", 2).unwrap();
    let whole = place.take();
    for first in 0..9 {
        for second in 0..4 {
            for dies_after in [first, second] {
                let engine = Parrot::dying(dies_after);
                let killed = catch_unwind(AssertUnwindSafe(|| place.run(&engine, "1/1", 2)));
                assert!(killed.is_err() || place.path("out.jsonl").exists());
                if place.path("out.jsonl").exists() {
                    break;
                }
            }
            if !place.path("out.jsonl").exists() {
                let done = place.run(&Parrot::new(), "1/1", 2).unwrap();
                assert!(done.resumed >= first / 2 * 2, "{done:?}");
            }
            assert_eq!(place.take(), whole, "killed after {first}, then after {second}");
        }
    }
}

#[test]
fn a_journal_that_ends_anywhere_is_gone_on_with() {
    let ending = |last: &str| [questions(5), vec![json!({"messages": [{"role": "user", "content": last}]})]].concat();
    let place = Place::new(&ending("come"), BadRecord::Error);
    place.run(&Parrot::new(), "1/1", 2).unwrap();
    let whole = place.take();
    let gone = Place::new(&ending("gone"), BadRecord::Error);
    // The journal of a run whose engine fails at the last record holds all that came before.
    assert!(matches!(gone.run(&Parrot::new(), "1/1", 1), Err(InferError::Engine(_))));
    let journal = std::fs::read(gone.path("out.journal")).unwrap();
    let text = String::from_utf8(journal.clone()).unwrap();
    assert!(text.starts_with("firebrick-journal-1 test ") && text.contains("\ndone 3\n"), "{text}");
    for length in 0..=journal.len() {
        std::fs::write(place.path("out.journal"), &journal[..length]).unwrap();
        let done = place.run(&Parrot::new(), "1/1", 1).unwrap();
        assert!(done.resumed <= 5);
        assert_eq!(place.take(), whole, "cut after {length} bytes");
    }
    std::fs::write(place.path("out.journal"), text.replace("-1 test ", "-1 other ")).unwrap();
    let error = place.run(&Parrot::new(), "1/1", 1).unwrap_err().to_string();
    assert!(error.contains("the journal of another run"), "{error}");
}

#[test]
fn records_that_fail_end_the_run_or_are_written_with_their_error() {
    let mut rows = questions(3);
    rows.insert(1, json!({"id": "long", "messages": [{"role": "user", "content": "too long"}], "meta": 1}));
    rows.insert(3, json!({"id": "broken", "messages": 5}));
    let error = Place::new(&rows, BadRecord::Error).run(&Parrot::new(), "1/1", 2).unwrap_err().to_string();
    assert!(error.contains("questions.jsonl:4") && error.contains("--bad-record skip"), "{error}");
    let error = Place::new(&rows[..3], BadRecord::Error).run(&Parrot::new(), "1/1", 2).unwrap_err().to_string();
    assert!(error.contains("questions.jsonl:2: no room") && error.contains("--resume"), "{error}");

    let place = Place::new(&rows, BadRecord::Skip);
    let done = place.run(&Parrot::new(), "1/1", 2).unwrap();
    assert_eq!((done.records, done.errors), (5, 2));
    let found = lines(&place.take());
    let errors: Vec<(&str, Option<&str>)> =
        found.iter().map(|one| (one.id.as_str(), one.rest.get("error").and_then(Value::as_str))).collect();
    assert_eq!(errors.iter().map(|(id, _)| *id).collect::<Vec<_>>(), ["r0", "long", "r1", "broken", "r2"]);
    assert!(errors[1].1.unwrap().contains("no room") && found[1].meta == Some(json!(1)), "{errors:?}");
    assert!(errors[3].1.unwrap().contains("questions.jsonl:4") && errors[0].1.is_none(), "{errors:?}");
    // An engine that is gone is nobody's record's fault.
    rows.push(json!({"id": "last", "messages": [{"role": "user", "content": "gone"}]}));
    let error = Place::new(&rows, BadRecord::Skip).run(&Parrot::new(), "1/1", 2).unwrap_err();
    assert!(matches!(&error, InferError::Engine(_)) && error.to_string().contains("--resume"), "{error}");
}

#[test]
fn a_run_that_failed_at_a_record_goes_on_with_skip() {
    let mut rows = questions(6);
    rows.push(json!({"id": "long", "messages": [{"role": "user", "content": "too long"}]}));
    let skipping = Place::new(&rows, BadRecord::Skip);
    skipping.run(&Parrot::new(), "1/1", 2).unwrap();
    let mut place = Place::new(&rows, BadRecord::Error);
    assert!(place.run(&Parrot::new(), "1/1", 2).is_err());
    place.bad = BadRecord::Skip;
    place.run(&Parrot::new(), "1/1", 2).unwrap();
    // The folder of the data file stands in the errors.
    let without = |text: String, dir: &Path| text.replace(&dir.display().to_string(), "");
    let (a, b) = (without(place.take(), place.dir.path()), without(skipping.take(), skipping.dir.path()));
    assert_eq!(a, b);
}

#[test]
fn a_part_without_records_is_an_empty_file() {
    let place = Place::new(&questions(5), BadRecord::Error);
    let done = place.run(&Parrot::new(), "1/8", 2).unwrap();
    assert_eq!((done.records, done.errors, place.take().as_str()), (0, 0, ""));
}

#[test]
fn a_file_of_errors_alone_is_not_written_and_asked_again() {
    let place = Place::new(&[json!({"messages": [{"role": "user", "content": "too long"}]})], BadRecord::Skip);
    for _ in 0..2 {
        let engine = Parrot::new();
        let error = place.run(&engine, "1/1", 2).unwrap_err();
        assert!(matches!(&error, InferError::AllFailed { first, .. } if first.contains("no room")), "{error}");
        assert_eq!(engine.said.load(Ordering::Relaxed), 1);
        let left = std::fs::read_dir(place.dir.path()).unwrap().count();
        assert_eq!(left, 1, "nothing but the data");
    }
}

#[test]
fn a_journal_of_other_readable_records_is_refused() {
    let mut rows = questions(6);
    rows.push(json!({"id": "shown", "messages": [{"role": "user", "type": "image", "content": "a.png"},
        {"role": "user", "content": "What?"}]}));
    let place = Place::new(&rows, BadRecord::Skip);
    assert!(catch_unwind(AssertUnwindSafe(|| place.run(&Parrot::dying(5), "1/1", 2))).is_err());
    std::fs::write(place.path("a.png"), "").unwrap();
    let error = place.run(&Parrot::new(), "1/1", 2).unwrap_err().to_string();
    assert!(error.contains("out.journal") && error.contains("pictures or data files"), "{error}");
    std::fs::remove_file(place.path("a.png")).unwrap();
    let done = place.run(&Parrot::new(), "1/1", 2).unwrap();
    assert_eq!((done.records, done.errors, done.resumed), (7, 1, 4));
}
