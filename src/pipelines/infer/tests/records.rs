//! What is asked of records of all shapes.

use serde_json::{Value, json};

use super::{Record, Records, open};
use crate::data::{
    ChatData, ClassificationData, DataKind, LlavaData, MessagesData, PairsData, PreferenceData, PromptsData,
    SafetyData, StepsData, UnpairedPreferenceData,
};
use crate::text::Role;

fn record<K: DataKind>(kind: K, row: Value) -> Record {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.png"), "").unwrap();
    open(dir.path(), kind, &[row]).record(0).unwrap()
}

/// What is asked, the answers with their ids, and the label.
#[track_caller]
fn check(record: &Record, asked: &[&str], answers: &[(&str, &str)], label: Value) {
    let words: Vec<String> = record.question.messages.iter().map(|message| message.words()).collect();
    assert_eq!(words, asked);
    let own: Vec<(&str, &str)> =
        record.answers.iter().map(|a| (a.written.id.as_str(), a.written.content.as_str())).collect();
    assert_eq!(own, answers);
    assert_eq!(record.prediction.label.clone().unwrap_or_default(), label);
    for answer in &record.answers {
        assert_eq!(record.answered(answer).messages.len(), asked.len() + answer.messages.len());
        assert_eq!(answer.messages[0].role, Role::Assistant);
    }
}

#[test]
fn of_a_conversation_the_last_answer_is_taken_off() {
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let turns = |n: usize| {
        let all = [turn("user", "Why?"), turn("bot", "So."), turn("user", "And?"), turn("bot", "Thus.")];
        json!({"id": 7, "messages": all[..n]})
    };
    check(&record(ChatData::default(), turns(4)), &["Why?", "So.", "And?"], &[("0", "Thus.")], json!("Thus."));
    check(&record(ChatData::default(), turns(3)), &["Why?", "So.", "And?"], &[], Value::Null);
    check(&record(ChatData::default(), turns(1)), &["Why?"], &[], Value::Null);
    let several = json!({"messages": [turn("user", "Why?"), turn("bot", "So."), turn("bot", "Or so.")], "label": 3, "meta": {"a": 1}});
    let found = record(ChatData::default(), several);
    check(&found, &["Why?"], &[("0", "Or so.")], json!(3));
    assert_eq!((found.prediction.meta.clone(), found.prediction.id.as_str()), (Some(json!({"a": 1})), "0"));
    assert_eq!(found.whole().messages.len(), 3);

    let shown = json!({"id": "x", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}]});
    let found = record(LlavaData::default(), shown);
    check(&found, &["\nWhat?"], &[], Value::Null);
    assert!(found.images[0].is_absolute() && found.images[0].ends_with("a.png"));
    let written =
        json!([{"role": "user", "type": "image", "content": "a.png"}, {"role": "user", "content": "\nWhat?"}]);
    assert_eq!(Value::from(found.prediction.messages.clone()), written);
    // What is written is read again as the same question.
    let again = json!({"id": "x", "messages": found.prediction.messages});
    assert_eq!(record(ChatData::default(), again).question, found.question);
}

#[test]
fn tool_calls_are_written() {
    let call = json!({"type": "function", "function": {"name": "sum", "arguments": {"a": 1}}});
    let row = json!({"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "2", "name": "sum"}, {"role": "assistant", "content": "2"}]});
    let found = record(MessagesData::default(), row);
    check(&found, &["1+1?", "", "2"], &[("0", "2")], json!("2"));
    assert_eq!(found.prediction.messages[1], json!({"role": "bot", "content": "", "tool_calls": [call]}));
    assert_eq!(found.prediction.messages[2]["name"], "sum");
}

#[test]
fn of_a_pair_the_context_is_asked() {
    let row = json!({"prompt": "Why?", "chosen": "So.", "rejected": "No."});
    check(&record(PreferenceData::default(), row), &["Why?"], &[("chosen", "So."), ("rejected", "No.")], json!("So."));
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let row =
        json!({"context": [turn("user", "Why?")], "answer_w": turn("bot", "So."), "answer_l": turn("bot", "No.")});
    check(&record(PairsData::default(), row), &["Why?"], &[("chosen", "So."), ("rejected", "No.")], json!("So."));
    let row = json!({"prompt": "Why?", "completion": "So.", "label": false});
    check(&record(UnpairedPreferenceData::default(), row), &["Why?"], &[("0", "So.")], json!(false));
}

#[test]
fn what_is_no_right_answer_is_no_reference() {
    let row = json!({"prompt": "Why?", "response_0": "So.", "response_1": "No.", "is_response_0_safe": false,
        "is_response_1_safe": true, "safer_response_id": 1, "better_response_id": 0});
    let found = record(SafetyData::default(), row);
    assert_eq!((found.prediction.label.clone(), found.answers.len()), (None, 2));
    let steps = |labels: [bool; 2]| json!({"prompt": "Why?", "completions": ["A.", "B."], "labels": labels});
    assert_eq!(record(StepsData::default(), steps([true, false])).prediction.label, None);
    assert!(record(StepsData::default(), steps([true, true])).prediction.label.is_some());
    check(&record(PromptsData::default(), json!({"prompt": "Why?"})), &["Why?"], &[], Value::Null);
    let row =
        json!({"messages": [{"role": "user", "content": "Good?"}, {"role": "bot", "content": "Yes."}], "label": 1});
    let found = record(ClassificationData::default(), row);
    check(&found, &["Good?"], &[("0", "Yes.")], json!(1));
    assert_eq!(found.whole().messages.len(), 2);
}

#[test]
fn a_line_of_predictions_has_the_answers_that_are_judged() {
    let row = json!({"id": "a", "dataset_name": "mine", "messages": [{"role": "user", "content": "Why?"}], "label": "So.",
        "answers": [{"id": "0", "content": "So.", "sequence_score": -1.5}, {"id": "5", "content": "No."}]});
    let found = record(ChatData::default(), row.clone());
    check(&found, &["Why?"], &[("0", "So."), ("5", "No.")], json!("So."));
    assert_eq!((found.prediction.dataset_name.as_str(), found.answers[0].written.sequence_score), ("mine", Some(-1.5)));
    let dir = tempfile::tempdir().unwrap();
    let mut calling = row.clone();
    calling["answers"][0]["tool_calls"] = json!([{"function": {"name": "f", "arguments": "{\"x\": 1}"}}]);
    let found = record(ChatData::default(), calling);
    let said = "So.\n<tool_call>{\"name\":\"f\",\"arguments\":{\"x\":1}}</tool_call>";
    assert_eq!(found.answers[0].messages[0].words(), said);
    let mut broken = row;
    broken["answers"][1] = json!("No.");
    let error = open(dir.path(), ChatData::default(), &[broken]).record(0).unwrap_err().to_string();
    assert!(error.contains("questions.jsonl:1") && error.contains("answers[1]"), "{error}");
}

#[test]
fn people_s_answers_are_references_and_other_fields_are_kept() {
    let with = |answers: Value| {
        record(
            LlavaData::default(),
            json!({"id": "x", "image": "a.png", "conversations": [{"from": "human", "value": "<image>\nWhat?"}],
                "answers": answers, "choices": ["a", "b"], "tools": [], "error": "old", "rewards": {}, "odd": null}),
        )
    };
    for people in [json!([{"answer": "yes"}, {"answer": "no"}]), json!(["yes", "no"]), json!("yes")] {
        let found = with(people.clone());
        check(&found, &["\nWhat?"], &[], Value::Null);
        let rest = json!({"references": people, "choices": ["a", "b"], "tools": []});
        assert_eq!(Value::from(found.prediction.rest), rest);
    }
    let predicted = with(json!([{"id": 0, "content": "yes"}]));
    check(&predicted, &["\nWhat?"], &[("0", "yes")], Value::Null);
    assert_eq!(predicted.prediction.rest.get("references"), None);
}
