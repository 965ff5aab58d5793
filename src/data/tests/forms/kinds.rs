//! One row of each kind, as the documentation's and the fuzzers' example, and what all kinds have in common.

use std::path::Path;

use serde_json::Value;

use crate::data::expand::nth;
use crate::data::*;
use crate::settings::audit;

/// Reads the rows of `K::NAME`; every row of `all` must be read or refused with its place.
fn check<K: DataKind>(all: &[Value], seen: &mut usize) {
    let kind = K::default();
    assert_eq!(audit::<K>(), Ok(()));
    assert_eq!(kind.reading(), Reading::default(), "{}", K::NAME);
    let own: Vec<&Value> = all.iter().filter(|row| row["kind"] == K::NAME).collect();
    assert!(!own.is_empty(), "no row of {} in the fixture", K::NAME);
    *seen += own.len();
    for row in own {
        let place = super::place();
        let object = row.as_object().expect("an object");
        let record = nth(&kind, object.clone(), 0, &place).expect("a record");
        let sample = kind.parse(&record, &place).unwrap_or_else(|error| panic!("{}: {error}", K::NAME));
        assert_eq!(sample.conversation.image_count(), sample.images.len());
        assert!(K::Media::IMAGES || sample.images.is_empty());
        // All but the name of the kind are fields that it knows.
        row::unknown_fields(object, K::FIELDS, |field| assert_eq!(field, "kind", "{} in {row}", K::NAME));
        for field in object.keys().filter(|field| !["kind", "id"].contains(&field.as_str())) {
            let mut poor = object.clone();
            poor[field] = serde_json::json!({"x": []});
            let error = nth(&kind, poor.clone(), 0, &place).and_then(|row| kind.parse(&row, &place).map(drop));
            let message = error.err().map(|error| error.to_string());
            let ignored = ["meta", "better_response_id"].contains(&field.as_str());
            let named = message.as_ref().is_some_and(|m| m.starts_with("t.jsonl:7") && m.contains(field.as_str()));
            assert_eq!(named, !ignored || K::NAME == "HelpfulnessData", "{}, {field}: {message:?}", K::NAME);
        }
    }
    for row in all {
        let error = kind.parse(row.as_object().expect("an object"), &super::place()).err();
        assert!(error.is_none_or(|error| error.to_string().starts_with("t.jsonl:7")));
    }
}

#[test]
fn every_kind_has_a_row_and_knows_its_fields() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data/kinds.jsonl");
    let text = std::fs::read_to_string(path).expect("the fixture");
    let rows: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let seen = &mut 0;
    check::<ChatData>(&rows, seen);
    check::<MessagesData>(&rows, seen);
    check::<MessagesImagesData>(&rows, seen);
    check::<AlpacaData>(&rows, seen);
    check::<ShareGptData>(&rows, seen);
    check::<PairsData>(&rows, seen);
    check::<PairsMarginData>(&rows, seen);
    check::<PreferenceData>(&rows, seen);
    check::<PreferenceMarginData>(&rows, seen);
    check::<PreferenceScoresData>(&rows, seen);
    check::<SafetyData>(&rows, seen);
    check::<HelpfulnessData>(&rows, seen);
    check::<PlainDpoData>(&rows, seen);
    check::<RlhfvData>(&rows, seen);
    check::<VlFeedbackData>(&rows, seen);
    check::<UnpairedData>(&rows, seen);
    check::<UnpairedPreferenceData>(&rows, seen);
    check::<ClassificationData>(&rows, seen);
    check::<StepsData>(&rows, seen);
    check::<PromptsData>(&rows, seen);
    check::<AlignSupervisedData>(&rows, seen);
    check::<AlignPreferenceData>(&rows, seen);
    check::<AlignPromptsData>(&rows, seen);
    assert_eq!(*seen, rows.len(), "rows of kinds that are not listed here");
}

#[test]
fn a_row_that_ends_with_a_question_is_given_an_answer_to_be_read() {
    use crate::data::{AlpacaData, ChatData, DataKind, LlavaData, MessagesImagesData, Place, Row, ShareGptData};
    fn check<K: DataKind>(kind: K, question: serde_json::Value, answered: serde_json::Value) {
        let row = |value: serde_json::Value| -> Row { value.as_object().unwrap().clone() };
        let place = Place::new(std::path::Path::new("rows.jsonl"), 1);
        assert!(kind.parse(&row(question.clone()), &place).is_err(), "{question}");
        let longer = kind.awaiting(&row(question)).unwrap();
        let sample = kind.parse(&longer, &place).unwrap();
        let roles: Vec<_> = sample.conversation.messages.iter().map(|message| message.role.as_str()).collect();
        assert_eq!(roles, ["user", "assistant"]);
        assert!(kind.awaiting(&row(answered)).is_none());
    }
    use serde_json::json;
    let hugging_face = |more: &str| {
        let mut turns = vec![json!({"role": "user", "content": "Why?"})];
        turns.extend((!more.is_empty()).then(|| json!({"role": more, "content": "Because."})));
        json!({"messages": turns})
    };
    let shared = |more: &str| {
        let mut turns = vec![json!({"from": "human", "value": "Why?"})];
        turns.extend((!more.is_empty()).then(|| json!({"from": more, "value": "Because."})));
        json!({"conversations": turns})
    };
    check(ChatData::default(), hugging_face(""), hugging_face("bot"));
    check(MessagesImagesData::default(), hugging_face(""), hugging_face("assistant"));
    check(LlavaData::default(), shared(""), shared("gpt"));
    check(ShareGptData::default(), shared(""), shared("model"));
    let alpaca = |output: serde_json::Value| json!({"instruction": "Why?", "output": output});
    check(AlpacaData::default(), alpaca(json!("")), alpaca(json!("Because.")));
}
