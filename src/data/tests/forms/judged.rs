//! Judged answers, labelled conversations, steps, and questions without answers.

use serde_json::{Value, json};

use super::{images_are_files, lines, read, refuses, said, with, without};
use crate::data::{ClassificationData, PromptsData, StepsData, UnpairedData, UnpairedPreferenceData};
use crate::example::Label;

#[test]
fn turbo_alignments_judged_answers() {
    let kind = UnpairedData::default();
    // The second context ends with the bot: the answer goes on.
    for context in [
        json!([{"role": "user", "content": "hi"}]),
        json!([{"role": "user", "content": "hi"}, {"role": "bot", "content": "hi"}]),
    ] {
        for desirable in [true, false] {
            let answer = json!({"role": "bot", "content": "good"});
            let sample =
                read(&kind, &json!({"id": 0, "context": context, "answer": answer, "is_desirable": desirable}));
            assert_eq!(lines(&sample.target.answer), ["assistant: good"]);
            assert_eq!(sample.target.desirable, desirable);
            assert_eq!(sample.conversation.messages.len(), context.as_array().map_or(0, Vec::len));
        }
    }
    let good = json!({"context": [{"role": "user", "content": "hi"}], "answer": {"role": "bot", "content": "x"}, "is_desirable": true});
    for field in ["context", "answer", "is_desirable"] {
        refuses(&kind, without(&good, field), "missing field", &[field]);
        refuses(&kind, with(&good, field, json!("x")), "wrong type", &[field]);
    }
    refuses(&kind, with(&good, "is_desirable", json!(1)), "wrong type", &["true or false"]);
    refuses(&kind, with(&good, "is_desirable", json!(null)), "wrong type", &["true or false", "null"]);
    refuses(&kind, with(&good, "/answer/content", json!("")), "empty answer", &["`answer`"]);
    refuses(&kind, with(&good, "/answer/role", json!("user")), "answer is not the assistant's", &["`answer`"]);
    refuses(&kind, with(&good, "/context/0/role", json!("me")), "unknown role", &["\"me\""]);
}

#[test]
fn trls_judged_answers() {
    let kind = UnpairedPreferenceData::default();
    let plain = json!({"prompt": "The sky is", "completion": " blue.", "label": true});
    let sample = read(&kind, &plain);
    assert_eq!(said(&sample.conversation), ["user: The sky is"]);
    assert_eq!((lines(&sample.target.answer), sample.target.desirable), (vec!["assistant:  blue.".to_owned()], true));
    let messages = json!({"prompt": [{"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "content": "a"}], "label": false});
    let sample = read(&kind, &messages);
    assert_eq!((lines(&sample.target.answer), sample.target.desirable), (vec!["assistant: a".to_owned()], false));
    images_are_files(&kind, &plain, "images");
    images_are_files(&kind, &messages, "images");
    for field in ["prompt", "completion", "label"] {
        refuses(&kind, without(&plain, field), "missing field", &[field]);
        refuses(&kind, with(&plain, field, json!(5)), "wrong type", &[field, "5"]);
    }
    refuses(&kind, with(&plain, "completion", json!(" ")), "empty answer", &["`completion`"]);
    refuses(&kind, with(&plain, "completion", json!([])), "empty answer", &["`completion`"]);
    refuses(&kind, with(&plain, "prompt", json!("")), "no question", &["`prompt`"]);
    refuses(&kind, with(&plain, "prompt", json!([])), "empty conversation", &["`prompt`"]);
}

#[test]
fn labels_are_classes_or_numbers() {
    let kind = ClassificationData::default();
    let row = |label: Value| json!({"id": "0", "messages": [{"role": "user", "content": "hi"}], "label": label});
    for (label, expected) in [
        (json!(0), Label::Class(0)),
        (json!(41), Label::Class(41)),
        (json!(1.0), Label::Values(vec![1.0])),
        (json!(-0.5), Label::Values(vec![-0.5])),
        (json!([0, 1, 1]), Label::Values(vec![0.0, 1.0, 1.0])),
    ] {
        assert_eq!(read(&kind, &row(label)).target, expected);
    }
    let bots =
        json!([{"role": "user", "content": "hi"}, {"role": "bot", "content": "a"}, {"role": "bot", "content": "b"}]);
    assert_eq!(read(&kind, &with(&row(json!(1)), "messages", bots)).conversation.messages.len(), 3);
    for label in [json!(-1), json!("1"), json!(true), json!([]), json!(null), json!({})] {
        refuses(&kind, row(label), "wrong type", &["`label`", "a class"]);
    }
    refuses(&kind, row(json!([0, "x"])), "wrong type", &["`label[1]`"]);
    refuses(&kind, without(&row(json!(0)), "label"), "missing field", &["`label`"]);
    refuses(&kind, without(&row(json!(0)), "messages"), "missing field", &["`messages`"]);
    refuses(&kind, with(&row(json!(0)), "messages", json!([])), "empty conversation", &[]);
    refuses(&kind, with(&row(json!(0)), "/messages/0/content", json!("")), "no question", &["`messages`"]);
}

#[test]
fn steps_are_right_or_wrong() {
    let kind = StepsData::default();
    let good =
        json!({"prompt": "Is 11 prime?", "completions": ["It has no divisors.", "Yes."], "labels": [true, false]});
    let steps = read(&kind, &good).target;
    assert_eq!(
        steps.iter().map(|step| (step.text.as_str(), step.right)).collect::<Vec<_>>(),
        [("It has no divisors.", true), ("Yes.", false)]
    );
    for field in ["prompt", "completions", "labels"] {
        refuses(&kind, without(&good, field), "missing field", &[field]);
        refuses(&kind, with(&good, field, json!(1)), "wrong type", &[field]);
    }
    refuses(&kind, with(&good, "labels", json!([true])), "lists of different lengths", &["2 element", "1"]);
    refuses(&kind, with(&good, "labels", json!([true, 1])), "wrong type", &["`labels[1]`"]);
    refuses(&kind, with(&good, "completions", json!(["x", null])), "wrong type", &["`completions[1]`"]);
    refuses(&kind, with(&good, "completions", json!(["x", ""])), "empty answer", &["`completions[1]`"]);
    refuses(&kind, json!({"prompt": "q", "completions": [], "labels": []}), "empty answer", &["`completions`"]);
    refuses(&kind, with(&good, "prompt", json!(" ")), "no question", &["`prompt`"]);
}

#[test]
fn prompts_await_an_answer() {
    let kind = PromptsData::default();
    let messages = json!([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]);
    assert_eq!(said(&read(&kind, &json!({"prompt": "q"})).conversation), ["user: q"]);
    for row in [json!({"prompt": messages}), json!({"messages": messages})] {
        assert_eq!(said(&read(&kind, &row).conversation), ["system: s", "user: q"]);
    }
    images_are_files(&kind, &json!({"prompt": "q"}), "images");
    refuses(&kind, json!({}), "missing field", &["`prompt`"]);
    refuses(&kind, json!({"prompt": ""}), "no question", &["`prompt`"]);
    refuses(&kind, json!({"messages": []}), "empty conversation", &["`messages`"]);
}
