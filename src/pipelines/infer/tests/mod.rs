//! Files of predictions, with an engine that answers from a table and dies when it is told to.

mod records;
mod runs;
mod tasks;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;

use super::*;
use crate::data::{ChatData, DataKind, Dataset};
use crate::engine::{
    Answer, Choice, Engine, EngineError, Finish, Finished, ModelInfo, Prompt, Request, ScoreRequest, Token, Usage,
};
use crate::settings::Given;

/// Says the question backwards, and the key of its draws; scores an answer by its length.
pub(super) struct Parrot {
    /// Answers after which it panics, as a program that is killed.
    dies_after: usize,
    said: AtomicUsize,
}

impl Parrot {
    pub(super) fn new() -> Self {
        Self::dying(usize::MAX)
    }

    pub(super) fn dying(dies_after: usize) -> Self {
        Self { dies_after, said: AtomicUsize::new(0) }
    }

    fn live(&self) {
        if self.said.fetch_add(1, Ordering::Relaxed) >= self.dies_after {
            // Without the words that a panic prints.
            std::panic::resume_unwind(Box::new("killed"));
        }
    }
}

fn words(prompt: &Prompt) -> String {
    match prompt {
        Prompt::Chat { conversation, .. } => conversation.messages.last().map(|m| m.words()).unwrap_or_default(),
        _ => panic!("files ask conversations"),
    }
}

impl Engine for Parrot {
    fn name(&self) -> String {
        "parrot".to_owned()
    }

    fn models(&self) -> Result<Vec<ModelInfo>, EngineError> {
        Ok(vec![ModelInfo { id: "parrot".to_owned(), parent: None }])
    }

    fn generate(&self, requests: &[Request], finished: &mut Finished<'_, Answer>) {
        // The last one first: nothing is finished in the order in which it was asked.
        for (index, request) in requests.iter().enumerate().rev() {
            self.live();
            let asked = words(&request.prompt);
            let result = match asked.as_str() {
                "too long" => {
                    Err(EngineError::Unsupported { request: request.id.clone(), reason: "no room".to_owned() })
                }
                "gone" => Err(EngineError::Failed { request: request.id.clone(), reason: "no engine".to_owned() }),
                _ => Ok(Answer {
                    choices: (0..request.n).map(|number| choice(request, &asked, number)).collect(),
                    usage: Usage { prompt_tokens: 2, cached_tokens: 0, completion_tokens: 3 },
                    ..Answer::default()
                }),
            };
            if finished(index, result) == ControlFlow::Break(()) {
                return;
            }
        }
    }

    fn score(&self, requests: &[ScoreRequest], finished: &mut Finished<'_, f64>) {
        for (index, request) in requests.iter().enumerate() {
            self.live();
            let score = if words(&request.prompt) == "nan" { f64::NAN } else { words(&request.prompt).len() as f64 };
            let _ = finished(index, Ok(score));
        }
    }

    fn classify(&self, requests: &[ScoreRequest], finished: &mut Finished<'_, Vec<f64>>) {
        for (index, request) in requests.iter().enumerate() {
            let _ = finished(
                index,
                Ok(if words(&request.prompt).contains('?') { vec![0.25, 0.75] } else { vec![0.5, 0.5] }),
            );
        }
    }
}

fn choice(request: &Request, asked: &str, number: usize) -> Choice {
    let backwards: String = asked.chars().rev().collect();
    let text = format!("{backwards} {}{}", request.key.unwrap(), "!".repeat(number));
    let token = Token { text: "x".to_owned(), bytes: None, logprob: Some(-0.1), top: Vec::new() };
    let tokens = if request.logprobs.is_some() { vec![token.clone(), token] } else { Vec::new() };
    let beams = request.generation.as_ref().is_some_and(|given| given.values().contains_key("num_beams"));
    Choice { text, tokens, score: beams.then_some(-7.5), tool_calls: Vec::new(), finish: Finish::Stop }
}

/// A data file of these rows.
pub(super) fn file(dir: &Path, rows: &[Value]) -> std::path::PathBuf {
    let path = dir.join("questions.jsonl");
    let lines: Vec<String> = rows.iter().map(Value::to_string).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    path
}

pub(super) fn open<K: DataKind>(dir: &Path, kind: K, rows: &[Value]) -> Dataset<K> {
    Dataset::open(kind, &[file(dir, rows)], &[dir.to_owned()]).unwrap()
}

pub(super) fn setting(given: Given<crate::generation::settings::Generation>) -> GenerationSetting {
    GenerationSetting { name: String::new(), given }
}

#[test]
fn files_have_names_of_their_own() {
    let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let models = text(&["runs/a/final/", "runs/b/final", "Final", "org/llama:7b", "..", "a.b", "a"]);
    let settings = text(&["greedy", "Greedy", "c", "b.c"]);
    let names: Vec<String> = file_names(&models, &settings, None).concat();
    let different: BTreeSet<String> = names.iter().map(|name| name.to_lowercase()).collect();
    assert_eq!((names.len(), different.len()), (28, 28), "{names:?}");
    assert_eq!(
        names[..6],
        [
            "final.greedy.jsonl",
            "final.Greedy-2.jsonl",
            "final.c.jsonl",
            "final.b.c.jsonl",
            "final.greedy-3.jsonl",
            "final.Greedy-4.jsonl"
        ]
    );
    assert!(
        names.contains(&"llama_7b.c.jsonl".to_owned()) && names.contains(&"unnamed.c.jsonl".to_owned()),
        "{names:?}"
    );
    let part = file_names(&text(&["m"]), &text(&[""]), Some("02-of-12"));
    assert_eq!(part, [["m.02-of-12.jsonl"]]);
    assert_eq!(plain(&"x".repeat(500)).len(), 80);
}

#[test]
fn parts_are_disjoint_and_cover_everything_in_order() {
    for records in [0, 1, 2, 7, 64, 1000] {
        for count in 1..40 {
            let mut next = 0;
            for number in 1..=count {
                let range = format!("{number}/{count}").parse::<Shard>().unwrap().range(records);
                assert_eq!(range.start, next);
                assert!(range.len() == records / count || range.len() == records / count + 1);
                next = range.end;
            }
            assert_eq!(next, records);
        }
    }
    let names: Vec<String> = (1..=12).map(|n| format!("{n}/12").parse::<Shard>().unwrap().suffix()).collect();
    assert!(names.is_sorted() && names[1] == "02-of-12", "{names:?}");
    for (text, expected) in
        [("0/4", "counted from 1 to 4"), ("5/4", "counted from 1"), ("1", "PART/PARTS"), ("1/0", "PART/PARTS")]
    {
        let error = text.parse::<Shard>().unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}

#[test]
fn settings_come_from_files_and_from_what_was_typed() {
    let dir = tempfile::tempdir().unwrap();
    let (beams, drawn) = (dir.path().join("beams.json"), dir.path().join("a drawn one.json"));
    std::fs::write(&beams, r#"{"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 5}"#).unwrap();
    std::fs::write(&drawn, r#"{"do_sample": true, "temperature": 0.5, "max_new_tokens": 5}"#).unwrap();
    let all = GenerationSetting::all(&[&beams, &drawn], &["max_new_tokens=9"]).unwrap();
    assert_eq!(all.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["beams", "a_drawn_one"]);
    assert!(all.iter().all(|one| one.given.values()["max_new_tokens"] == 9));
    assert_eq!((all[0].returned(), all[0].has_beams(), all[1].has_beams()), (2, true, false));
    let told: Vec<String> = all[0].for_engine().values().keys().cloned().collect();
    assert_eq!(told, ["num_beams", "max_new_tokens"]);

    let refused = |typed: &[&str]| GenerationSetting::all(&[] as &[&str], typed).unwrap_err().to_string();
    assert!(refused(&["temprature=1"]).contains("did you mean `temperature`"), "{}", refused(&["temprature=1"]));
    assert!(refused(&["temperature"]).contains("write a setting and its value"));
    assert!(refused(&["top_p=3"]).contains("top_p"));
    assert!(refused(&["top_logprobs=3"]).contains("top_logprobs"));
    let absent = GenerationSetting::all(&[dir.path().join("none.json")], &[] as &[&str]).unwrap_err().to_string();
    assert!(absent.contains("none.json"), "{absent}");
    let idle = GenerationSetting::all(&[] as &[&str], &["temperature=0.5"]).unwrap().remove(0);
    assert!(idle.under(&Default::default()).unwrap_err().to_string().contains("`do_sample` is false"));
}

#[test]
fn a_record_is_read_whatever_its_kind() {
    let dir = tempfile::tempdir().unwrap();
    let rows = [serde_json::json!({"id": "a", "messages": [{"role": "user", "content": "Why?"}]})];
    let data: Box<dyn Records> = Box::new(open(dir.path(), ChatData::default(), &rows));
    assert_eq!((data.len(), data.is_empty(), data.files().len()), (1, false, 1));
    assert_eq!(data.record(0).unwrap().prediction.dataset_name, "questions");
}
