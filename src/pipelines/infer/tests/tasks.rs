//! What the tasks make of an engine's words.

use serde_json::{Value, json};

use super::*;
use crate::data::{ClassificationData, PreferenceData};

fn records<K: DataKind>(kind: K, rows: &[Value]) -> Vec<Record> {
    let dir = tempfile::tempdir().unwrap();
    let data = open(dir.path(), kind, rows);
    (0..rows.len()).map(|index| data.record(index).unwrap()).collect()
}

fn chats(words: &[&str]) -> Vec<Record> {
    let rows: Vec<Value> =
        words.iter().map(|words| json!({"messages": [{"role": "user", "content": words}]})).collect();
    records(ChatData::default(), &rows)
}

fn given() -> Given<crate::generation::settings::Generation> {
    Given::new()
}

#[test]
fn scores_and_log_probabilities_are_written_where_they_are_wanted() {
    let asked = chats(&["Why?"]);
    let parrot = Parrot::new();
    let say = |given, logprobs, scores| {
        let setting = setting(given);
        let task = Generate { engine: &parrot, model: None, setting: &setting, logprobs, scores, best_of: None };
        task.work(&asked, &mut Spent::default()).remove(0).unwrap().answers
    };
    let plain = say(given(), false, false);
    assert_eq!((plain[0].sequence_score, plain[0].logprobs.clone()), (None, None));
    assert_eq!(serde_json::to_string(&plain[0]).unwrap(), r#"{"id":"0","content":"?yhW 0"}"#);
    let scored = say(given(), true, true);
    assert_eq!((scored[0].sequence_score, scored[0].logprobs.clone()), (Some(-0.2), Some(vec![-0.1, -0.1])));
    let score_alone = say(given(), false, true);
    assert_eq!((score_alone[0].sequence_score, score_alone[0].logprobs.clone()), (Some(-0.2), None));
    let beams = say(given().set("num_beams", 4).set("num_return_sequences", 3), false, false);
    let found: Vec<(&str, Option<f64>)> = beams.iter().map(|a| (a.id.as_str(), a.sequence_score)).collect();
    assert_eq!(found, [("0", Some(-7.5)), ("1", Some(-7.5)), ("2", Some(-7.5))]);
}

#[test]
fn requests_carry_every_setting_and_the_record_s_own_key() {
    let asked = chats(&["Why?", "How?"]);
    let setting = setting(given().set("num_beams", 4).set("num_return_sequences", 2).set("stop_strings", ["END"]));
    let parrot = Parrot::new();
    let task = Generate {
        engine: &parrot,
        model: Some("m".into()),
        setting: &setting,
        logprobs: true,
        scores: false,
        best_of: None,
    };
    let request = task.request(&asked[1]);
    assert_eq!((request.key, request.n, request.logprobs, request.model.as_deref()), (Some(1), 2, Some(0), Some("m")));
    assert!(request.id.ends_with("questions.jsonl:2"), "{}", request.id);
    let told: Vec<&str> = request.further().map(|(name, _)| name).collect();
    assert_eq!((told, request.lanes(), request.misplaced()), (vec!["num_beams", "stop_strings"], 4, None));
}

#[test]
fn the_best_of_several_are_kept() {
    let parrot = Parrot::new();
    let setting = setting(given().set("do_sample", true).set("best_of", 4).set("num_return_sequences", 2));
    let best_of = Some(BestOf { drawn: 4, judge: &parrot });
    let task = Generate { engine: &parrot, model: None, setting: &setting, logprobs: false, scores: false, best_of };
    let found = task.work(&chats(&["Why?", "too long", "a"]), &mut Spent::default());
    // The parrot's later answers are longer, and its judge likes long ones.
    let first = found[0].as_ref().unwrap();
    let kept: Vec<(&str, &str)> = first.answers.iter().map(|a| (a.id.as_str(), a.content.as_str())).collect();
    assert_eq!(kept, [("3", "?yhW 0!!!"), ("2", "?yhW 0!!")]);
    let rewards: Vec<(&str, f64)> = first.rewards.iter().flatten().map(|(id, reward)| (id.as_str(), *reward)).collect();
    assert_eq!(rewards, [("2", 8.0), ("3", 9.0)]);
    assert!(found[1].is_err());
    assert_eq!(found[2].as_ref().unwrap().answers[0].content, "a 2!!!");
}

#[test]
fn a_reward_model_judges_the_answers_that_there_are() {
    let pair = |rejected: &str| json!({"prompt": "Why?", "chosen": "So it is.", "rejected": rejected});
    let parrot = Parrot::new();
    let task = Reward { engine: &parrot, model: None };
    let found = task
        .work(&records(PreferenceData::default(), &[pair("No."), pair("nan"), pair("Never")]), &mut Spent::default());
    let rewards = |i: usize| found[i].as_ref().unwrap().rewards.clone().unwrap();
    assert_eq!((rewards(0)["chosen"], rewards(0)["rejected"], rewards(2)["rejected"]), (9.0, 3.0, 5.0));
    let error = found[1].as_ref().unwrap_err().to_string();
    assert!(error.contains("questions.jsonl:2") && error.contains("NaN"), "{error}");
    let contents: Vec<&str> = found[0].as_ref().unwrap().answers.iter().map(|a| a.content.as_str()).collect();
    assert_eq!(contents, ["So it is.", "No."]);
    let error = task.work(&chats(&["Why?"]), &mut Spent::default()).remove(0).unwrap_err().to_string();
    assert!(error.contains("no answer to score"), "{error}");
    let twice = json!({"messages": [{"role": "user", "content": "Why?"}],
        "answers": [{"id": "0", "content": "a"}, {"id": 0, "content": "b"}]});
    let error =
        task.work(&records(ChatData::default(), &[twice]), &mut Spent::default()).remove(0).unwrap_err().to_string();
    assert!(error.contains("two answers have the id \"0\""), "{error}");
}

#[test]
fn a_classifier_takes_the_likeliest_class() {
    let row = |words: &str| json!({"messages": [{"role": "user", "content": words}], "label": 1});
    let parrot = Parrot::new();
    let asked = records(ClassificationData::default(), &[row("Good?"), row("Good.")]);
    let found = Classify { engine: &parrot, model: None }.work(&asked, &mut Spent::default());
    let first = found[0].as_ref().unwrap();
    assert_eq!((first.predicted_label.clone(), first.label.clone()), (Some(json!(1)), Some(json!(1))));
    assert_eq!(first.rest["probabilities"], json!([0.25, 0.75]));
    assert_eq!(found[1].as_ref().unwrap().predicted_label, Some(json!(0)));
    // What is written is what was judged, the assistant's last turn too.
    let turns = json!([{"role": "user", "content": "Good?"}, {"role": "bot", "content": "Yes."}]);
    let asked = records(ClassificationData::default(), &[json!({"messages": turns, "label": 1})]);
    let found = Classify { engine: &parrot, model: None }.work(&asked, &mut Spent::default());
    assert_eq!(Value::from(found[0].as_ref().unwrap().messages.clone()), turns);
}
