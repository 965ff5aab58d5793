//! The mapping, row by row of its table.

use super::*;
use serde_json::json;
use std::io::Write;
use std::path::Path;

fn place() -> Place {
    Place::new(Path::new("p.jsonl"), 3)
}

fn read(record: Value) -> Prediction {
    let mut whole = json!({"id": 7});
    whole.as_object_mut().unwrap().extend(record.as_object().unwrap().clone());
    serde_json::from_value(whole).unwrap()
}

fn of(record: Value) -> Judged {
    judged(&read(record), &place()).unwrap()
}

#[track_caller]
fn refused(record: Value, says: &str) {
    let said = judged(&read(record), &place()).unwrap_err().to_string();
    assert!(said.starts_with("p.jsonl:3: ") && said.contains(says), "{said}");
}

#[test]
fn answers_and_what_was_asked() {
    let found = of(json!({
        "messages": [
            {"role": "user", "content": "One?"}, {"role": "bot", "content": "1"},
            {"role": "user", "content": [{"type": "image", "path": "a.png"}, {"type": "text", "text": "Two?"}]},
        ],
        "answers": [{"id": 0, "content": "2", "logprobs": [-0.5, -0.25]}, {"id": "b", "content": "zwei"}],
        "reference_logprobs": {"0": [-1, -2]}, "baseline": -3,
    }));
    assert_eq!((found.id.as_str(), found.question.as_str(), found.baseline), ("7", "Two?", Some(-3.0)));
    assert_eq!(found.answers.iter().map(|one| one.text.as_str()).collect::<Vec<_>>(), ["2", "zwei"]);
    assert_eq!(found.answers[0].log_probs, Some(vec![-0.5, -0.25]));
    assert_eq!(
        (&found.answers[0].reference_log_probs, &found.answers[1].reference_log_probs),
        (&Some(vec![-1.0, -2.0]), &None)
    );
    let own = of(json!({"answers": [{"id": 0, "content": "", "reference_logprobs": [-9]}]}));
    assert_eq!(own.answers[0].reference_log_probs, Some(vec![-9.0]));
    let flat = of(json!({"answers": [{"id": 0, "content": ""}], "reference_logprobs": [-8]}));
    assert_eq!(flat.answers[0].reference_log_probs, Some(vec![-8.0]));
    refused(
        json!({"answers": [{"id": 0, "content": ""}], "reference_logprobs": "-8"}),
        "`reference_logprobs` must be a list of numbers",
    );
    refused(
        json!({"answers": [{"id": 0, "content": ""}], "meta": {"reference_logprobs": [0, null]}}),
        "`meta.reference_logprobs[1]`",
    );
    refused(json!({"baseline": "low"}), "`baseline` must be a number");
}

#[test]
fn classes_are_words() {
    for (label, expected) in [
        (json!("cat"), Some("cat")),
        (json!(3), Some("3")),
        (json!(3.0), Some("3")),
        (json!(0.5), Some("0.5")),
        (json!(true), Some("true")),
        (json!([0, 1, 1.0]), Some("[0, 1, 1]")),
        (json!(["a"]), None),
        (json!([]), None),
        (json!({"a": 1}), None),
        (json!(9007199254740993_u64), Some("9007199254740993")),
    ] {
        assert_eq!(class(&label).as_deref(), expected, "{label}");
    }
    let found = of(json!({"label": 1, "predicted_label": 1.0}));
    assert_eq!((found.label.as_deref(), found.answers[0].text.as_str()), (Some("1"), "1"));
    refused(json!({"predicted_label": {"a": 1}}), "`predicted_label` must be a class");
}

#[test]
fn references_come_from_the_first_field_that_is_there() {
    for (record, expected) in [
        (json!({"references": ["a", "b"], "label": "c"}), &["a", "b"][..]),
        (json!({"reference": "a", "answer": "b"}), &["a"]),
        (json!({"answer": 12}), &["12"]),
        (json!({"answer": 0, "choices": ["x", "y"], "label": "x"}), &["x"]),
        (json!({"meta": {"references": "a"}, "references": null}), &["a"]),
        (json!({"label": ["a", "b"]}), &["a", "b"]),
        (
            json!({"references": [{"answer": "a", "answer_id": 1}, {"answer": 2}, {"text": "c"}, "d"]}),
            &["a", "2", "c", "d"],
        ),
        (json!({"label": true}), &["true"]),
        (json!({}), &[]),
    ] {
        assert_eq!(of(record.clone()).references, expected, "{record}");
    }
    refused(json!({"references": ["a", {"b": 1}]}), "`references[1]` must be a text");
    refused(json!({"references": [["a"]]}), "`references[0]`");
}

#[test]
fn options_say_which_is_right() {
    for (record, right) in [
        (json!({"choices": ["x", "y", "z"], "answer": 2}), Some(2)),
        (json!({"choices": ["x", "y", "z"], "answer": "b"}), Some(1)),
        (json!({"choices": ["x", "y", "z"], "answer": "z"}), Some(2)),
        (json!({"choices": ["x", "y", "z"], "label": "0"}), Some(0)),
        (json!({"choices": ["x", "y", "z"], "label": "it is y, I think"}), None),
        (json!({"choices": ["B", "A"], "answer": "A"}), Some(1)),
        (json!({"choices": ["2", "0"], "answer": "0"}), Some(1)),
        (json!({"choices": ["2", "0"], "answer": 0}), Some(0)),
        (json!({"options": {"C": "x", "D": "y"}, "answer": "D"}), Some(1)),
        (json!({"choices": {"text": ["x", "y"], "label": ["1", "2"]}, "answerKey": "2"}), Some(1)),
        (json!({"meta": {"choices": ["x", "y"], "answer": 1}}), Some(1)),
        (json!({"choices": [{"text": "x", "relevance": 0}, {"text": "y", "relevance": 1}], "answer": 0}), Some(1)),
        (json!({"choices": ["x", "y"], "relevance": [1, 0]}), Some(0)),
        (json!({"choices": ["x", "y"]}), None),
    ] {
        let found = of(record.clone());
        assert_eq!(found.candidates.iter().position(|one| one.relevance > 0.0), right, "{record}");
    }
    for wrong in [json!(3), json!("d"), json!("maybe"), json!(-1), json!(["x"])] {
        refused(
            json!({"choices": ["x", "y", "z"], "answer": wrong}),
            "the number (counted from 0), the letter or the text",
        );
    }
    refused(json!({"choices": "x"}), "`choices` must be a list");
    refused(json!({"choices": ["x", null]}), "`choices[1]` must be a text");
}

#[test]
fn candidates_have_scores() {
    let scores = |record: Value| of(record).candidates.iter().map(|one| one.score).collect::<Vec<_>>();
    let documents = json!([{"content": "a", "score": 0.5, "relevance": 2}, {"text": "b", "logprob": -1}]);
    assert_eq!(scores(json!({"documents": documents})), [Some(0.5), Some(-1.0)]);
    assert_eq!(scores(json!({"candidates": ["a", "b"], "scores": [3, 4]})), [Some(3.0), Some(4.0)]);
    assert_eq!(scores(json!({"candidates": ["a"]})), [None]);
    let rewarded =
        json!({"answers": [{"id": 0, "content": "a"}, {"id": 1, "content": "b"}], "rewards": {"1": 0.5, "0": -1}});
    assert_eq!(scores(rewarded), [Some(-1.0), Some(0.5)]);
    let chosen = |record: Value| of(record).candidates.iter().find(|one| one.relevance > 0.0).unwrap().score;
    assert_eq!(chosen(json!({"reward_w": 2, "reward_l": 1, "answer_w": {"role": "bot", "content": "a"}})), Some(2.0));
    assert_eq!(chosen(json!({"rewards": {"chosen": 2, "rejected": 1}})), Some(2.0));
    refused(json!({"candidates": ["a", "b"], "scores": [3]}), "`scores` has 1 numbers for 2 candidates");
}

#[test]
fn tools_are_lists_or_their_json() {
    let tools = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]);
    for written in [tools.clone(), Value::String(tools.to_string())] {
        assert_eq!(of(json!({"tools": written})).tools[0].name, "f");
    }
    refused(json!({"tools": "f"}), "`tools` must be a list of tools");
    refused(json!({"tools": [{}]}), "`tools[0]` must be a tool");
}

fn references(lines: &[Value]) -> (tempfile::NamedTempFile, Result<References, DataError>) {
    let mut file = tempfile::Builder::new().suffix(".jsonl").tempfile().unwrap();
    lines.iter().for_each(|line| writeln!(file, "{line}").unwrap());
    let opened = References::open(&[file.path().to_owned()]);
    (file, opened)
}

#[test]
fn a_data_file_says_what_is_right() {
    let (_file, opened) = references(&[
        json!({"id": "a", "answers": [{"answer": "x"}, {"answer": "y"}], "meta": {"kind": 1}}),
        json!({"question_id": 12, "label": "z"}),
        json!({"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "llava"}]}),
        json!({"id": "t", "messages": [{"role": "user", "content": "Q"}, {"role": "bot", "content": "turbo"}]}),
        json!({"id": "p", "context": [], "answer_w": {"role": "bot", "content": "won"}, "answer_l": {"content": "lost"}}),
        json!({"id": "m", "choices": ["x", "y"], "answer": 1}),
        json!({"id": "c", "choices": ["x", "y"], "answer": 0, "conversations": [{"from": "gpt", "value": "the x"}]}),
        json!({"id": "u", "messages": [{"role": "user", "content": "Q"}]}),
    ]);
    let opened = opened.unwrap();
    let filled = |id: &str| {
        let mut record = read(
            json!({"id": id, "label": "own", "answers": [{"id": 0, "content": "said"}], "messages": [{"role": "user", "content": "asked"}]}),
        );
        opened.fill(&mut record, &place()).unwrap();
        assert_eq!((record.answers.len(), record.messages.len()), (1, 1), "the model's words stay");
        judged(&record, &place()).unwrap()
    };
    for (id, expected) in
        [("a", &["x", "y"][..]), ("12", &["z"]), ("2", &["llava"]), ("t", &["turbo"]), ("p", &["won"]), ("u", &["own"])]
    {
        assert_eq!(filled(id).references, expected, "{id}");
    }
    let options = filled("m");
    assert_eq!((options.candidates[1].relevance, options.references[0].as_str()), (1.0, "own"));
    // The number of the right option is no text; the conversation's answer is.
    let said = filled("c");
    assert_eq!((said.candidates[0].relevance, said.references[0].as_str()), (1.0, "the x"));
    let said = opened.fill(&mut read(json!({"id": "b"})), &place()).unwrap_err().to_string();
    assert!(said.starts_with("p.jsonl:3: no row of ") && said.contains("the id `b`"), "{said}");
    let (_file, twice) = references(&[json!({"id": 1}), json!({"id": "1"})]);
    let said = twice.unwrap_err().to_string();
    assert!(said.contains(":2: the id `1` is also that of") && said.contains(":1;"), "{said}");
}

#[test]
fn rewards_make_no_options_of_answers() {
    use crate::metrics::Facts;
    let found = of(json!({"label": "C", "rewards": {"0": 0.5, "1": -1},
        "answers": [{"id": 0, "content": "C"}, {"id": 1, "content": "B"}]}));
    let metric = crate::pipelines::evaluation::registry().by_name("choice_letter", &Facts::default()).unwrap();
    assert_eq!(metric.measure(&found).unwrap().value, Some(0.5));
}

#[test]
fn calls_stand_behind_the_words() {
    let answers = json!([
        {"id": 0, "content": "", "tool_calls": [{"function": {"name": "f", "arguments": "{\"tag\": \"</tool_call>\"}"}}, {"name": "g", "arguments": {}}]},
        {"id": 1, "content": "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>", "tool_calls": [{"name": "f"}]},
    ]);
    let found = of(json!({"answers": answers}));
    let calls = crate::text::parse_tool_calls(&found.answers[0].text).unwrap();
    assert_eq!(calls.iter().map(|call| call.name.as_str()).collect::<Vec<_>>(), ["f", "g"]);
    assert_eq!(calls[0].arguments, json!({"tag": "</tool_call>"}));
    assert_eq!(found.answers[1].text, answers[1]["content"]);
}
