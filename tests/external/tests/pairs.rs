//! A data kind of pairs, read through the library's data set.

use firebrick::data::Dataset;
use firebrick_external::RankedAnswers;

const GOOD: &str = r#"{"question": "2 + 2?", "answers": ["5", "4", "22"], "best": 1, "worst": 2}"#;

#[test]
fn ranked_answers_are_pairs() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ranked.jsonl");
    let bad = [
        (GOOD.replace("\"best\": 1", "\"best\": 2"), "equal answers"),
        (GOOD.replace("\"best\": 1", "\"best\": 7"), "no preference"),
        (GOOD.replace("\"22\"", "\" \""), "empty answer"),
        (GOOD.replace("2 + 2?", ""), "no question"),
        (GOOD.replace("\"best\": 1, ", ""), "missing field"),
    ];
    let lines: Vec<&str> = std::iter::once(GOOD).chain(bad.iter().map(|(line, _)| line.as_str())).collect();
    std::fs::write(&file, lines.join("\n")).unwrap();
    let kind = RankedAnswers::builder().preface(Some("Count.".to_owned())).build().unwrap();
    let data = Dataset::open(kind, &[file], &[]).unwrap();

    let sample = data.sample(0).unwrap();
    let rows: Vec<Vec<String>> =
        sample.rows().iter().map(|row| row.messages.iter().map(|message| message.words()).collect()).collect();
    assert_eq!(rows, [["Count.", "2 + 2?", "4"], ["Count.", "2 + 2?", "22"]]);
    for (index, (_, reason)) in bad.iter().enumerate() {
        let error = data.sample(index + 1).unwrap_err();
        assert_eq!(error.reason(), *reason, "{error}");
        assert!(error.to_string().contains(&format!("ranked.jsonl:{}", index + 2)), "{error}");
    }
}
