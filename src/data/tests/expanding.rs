//! Rows that hold several records or none.

use serde_json::{Value, json};

use crate::data::expand::{count, nth};
use crate::data::{DataError, DataKind, LlavaData, Place, Row, VlFeedbackData};

fn place() -> Place {
    Place::new(std::path::Path::new("t.jsonl"), 7)
}

/// A row with answers `a`, `b`, … rated so; each rating is the two aspects'.
fn row(ratings: &[[&str; 2]]) -> Value {
    let rated = |[helpful, faithful]: &[&str; 2]| json!({"Helpfulness": {"Rating": helpful, "Rationale": "…"}, "Visual Faithfulness": {"Rating": faithful}});
    let annotations: Vec<Value> = ratings.iter().map(rated).collect();
    let said: Vec<String> = ('a'..).take(ratings.len()).map(String::from).collect();
    json!({"id": "v", "img_path": "a.png", "prompt": "What?", "completions": {"annotations": annotations, "response": said}})
}

fn object(row: &Value) -> Row {
    row.as_object().expect("an object").clone()
}

/// The pairs as `ab` (a is better), and what is dropped.
fn pairs(kind: &VlFeedbackData, row: &Value) -> (Vec<String>, Vec<(&'static str, usize)>) {
    let (number, dropped) = count(kind, Ok(object(row)), &place());
    let mut found = Vec::new();
    for n in 0..number {
        let sample = kind.parse(&nth(kind, object(row), n, &place()).expect("a row"), &place()).expect("a pair");
        assert_eq!((sample.images.len(), sample.conversation.image_count()), (1, 1));
        assert!(sample.id.starts_with("v-"), "{}", sample.id);
        found.push(format!("{}{}", sample.target.chosen[0].words(), sample.target.rejected[0].words()));
    }
    assert!(nth(kind, object(row), number, &place()).is_err());
    (found, dropped.into_iter().collect())
}

#[test]
fn ratings_become_pairs() {
    let all = VlFeedbackData::default();
    // Means 4.5, 3, 4.5, 2.
    let four = row(&[["5", "4"], ["3", "3"], ["4", "5"], ["1", "3"]]);
    let expected: Vec<String> = ["ab", "ad", "cb", "bd", "cd"].map(str::to_owned).to_vec();
    assert_eq!(pairs(&all, &four), (expected, vec![("ratings tie", 1)]));
    let apart = VlFeedbackData::builder().score_margin(1.5).build().expect("settings");
    let (found, dropped) = pairs(&apart, &four);
    assert_eq!(found, ["ab", "ad", "cb", "cd"], "a gap of just the margin is enough");
    assert_eq!(dropped, [("ratings tie", 1), ("ratings within score_margin", 1)]);
    let widest = VlFeedbackData::builder().pairs("widest".to_owned()).build().expect("settings");
    assert_eq!(
        pairs(&widest, &four),
        (vec!["ad".into(), "cd".into()], vec![("not the widest pair", 3), ("ratings tie", 1)])
    );
    let unrated = row(&[["5", "N/A"], ["3", "3"], ["4", "5"]]);
    assert_eq!(pairs(&all, &unrated), (vec!["cb".into()], vec![("not rated in numbers", 2)]));
    let ties = row(&[["4", "4"], ["3", "5"]]);
    assert_eq!(pairs(&all, &ties), (vec![], vec![("ratings tie", 1)]));
    assert_eq!(pairs(&all, &row(&[["4", "4"]])), (vec![], vec![("fewer than two answers", 1)]));
    // Means of three thirds each, added up in another order, tie as well.
    let tenths = row(&[["0.1", "0.7"], ["0.7", "0.1"]]);
    assert_eq!(pairs(&all, &tenths).0, Vec::<String>::new());
}

#[test]
fn both_forms_of_completions_are_read() {
    let mut objects = row(&[["5", "4"], ["3", "3"]]);
    let columns = objects["completions"].clone();
    objects["completions"] = (0..2)
        .map(|i| json!({"annotations": columns["annotations"][i], "response": columns["response"][i], "model": "m"}))
        .collect();
    assert_eq!(pairs(&VlFeedbackData::default(), &objects).0, ["ab"]);
}

#[test]
fn a_row_that_cannot_be_expanded_is_one_bad_record() {
    let kind = VlFeedbackData::default();
    let good = row(&[["5", "4"], ["3", "3"]]);
    let check = |field: &str, value: Value, reason: &str, part: &str| {
        let mut bad = good.clone();
        *bad.pointer_mut(field).expect("a field") = value;
        assert_eq!(count(&kind, Ok(object(&bad)), &place()).0, 1);
        let error = nth(&kind, object(&bad), 0, &place()).expect_err("a bad row");
        let message = error.to_string();
        assert_eq!(error.reason(), reason, "{message}");
        assert!(message.starts_with("t.jsonl:7") && message.contains(part), "{message}");
    };
    check("/completions", json!(4), "wrong type", "`completions`");
    check("/completions", json!({"response": []}), "missing field", "`completions.annotations`");
    check("/completions/response", json!(["a"]), "lists of different lengths", "completions.annotations");
    check("/completions/response/1", json!(1), "wrong type", "completions[1].response");
    check("/completions/annotations/0", json!([]), "wrong type", "completions[0].annotations");
    check("/completions/annotations/0/Helpfulness", json!(5), "wrong type", "Helpfulness");
    check("/prompt", json!(null), "wrong type", "`prompt`");
    let broken = || DataError::NotAnObject { place: place(), found: "a number".into() };
    assert_eq!(count(&kind, Err(broken()), &place()).0, 1);
}

#[test]
fn other_kinds_have_one_record_in_a_row() {
    const { assert!(VlFeedbackData::EXPANDS && !LlavaData::EXPANDS) };
    let row = object(&json!({"conversations": []}));
    assert_eq!(count(&LlavaData::default(), Ok(row.clone()), &place()).0, 1);
    assert_eq!(nth(&LlavaData::default(), row.clone(), 0, &place()).expect("the row"), row);
}
