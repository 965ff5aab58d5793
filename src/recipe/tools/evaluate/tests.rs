//! The command line's own rules.

use super::*;

fn parsed(arguments: &[&str]) -> Evaluate {
    Evaluate::try_parse_from(std::iter::once(&"evaluate").chain(arguments)).unwrap()
}

#[test]
fn systems_have_short_names_where_these_differ() {
    let names = |arguments: &[&str]| parsed(arguments).names();
    let one = ["--predictions", "x/first.jsonl", "y/more.jsonl", "--against", "second.json.gz", "z/third"];
    assert_eq!(names(&one), ["first", "second", "third"]);
    let same = ["--predictions", "x/p.jsonl", "--against", "y/p.jsonl", "q.jsonl"];
    assert_eq!(names(&same), ["x/p.jsonl", "y/p.jsonl", "q"]);
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    let said = |arguments: &[&str]| parsed(arguments).check().unwrap_err().to_string();
    assert!(said(&["--metrics", "bleu"]).contains("--predictions FILE"));
    let model = ["--model", "m", "--data", "d.json"];
    let with = |more: &[&str]| said(&[&model, more].concat());
    assert!(with(&[]).contains("--metrics"));
    assert!(with(&["--metrics", "kl"]).contains("--reference-model"));
    assert!(with(&["--metrics", "bleu, kl "]).contains("--reference-model"));
    assert!(with(&["--metrics", "bleu", "--reference-model", "m"]).contains("`kl_answer`"));
    assert!(with(&["--metrics", "bleu", "--num-answers", "2"]).contains("--temperature"));
    assert!(with(&["--metrics", "perplexity", "--against", "b.jsonl"]).contains("perplexity"));
    for bad in [
        &["--model", "m"][..],
        &["--data", "d"],
        &["--predictions", "p", "--model", "m", "--data", "d"],
        &["--predictions", "p", "--level", "1"],
        &["--predictions", "p", "--template", "v1"],
        &["--predictions", "p", "--images", "i"],
        &["--predictions", "p", "--reference-model", "m"],
        &["--predictions", "p", "--temperature", "1"],
        &["--predictions", "p", "--max-new-tokens", "8"],
        &["--predictions", "p", "--batch-size", "2"],
        &["--predictions", "p", "--num-answers", "2"],
        &["--predictions", "p", "--format", "chat"],
        &["--predictions", "p", "--samples", "0"],
    ] {
        assert!(Evaluate::try_parse_from(std::iter::once(&"evaluate").chain(bad)).is_err(), "{bad:?}");
    }
}

#[test]
fn what_a_model_alone_is_told_has_defaults() {
    // Which are no reason to refuse prediction files.
    assert_eq!(parsed(&["--predictions", "p", "--metrics", "bleu"]).batch_size, 8);
}

#[test]
fn names_that_are_none_come_with_the_nearest() {
    let said = |name: &str| parsed(&["--metrics", name, "--predictions", "p"]).named(&registry()).err().unwrap();
    let error = said("rougel");
    assert!(error.to_string().contains("did you mean `rouge_l`?); `evaluate --list`"), "{error}");
    assert_eq!(error.exit_code(), 2);
    assert!(said("ead_2").to_string().contains("--vocabulary, or take `distinct_2`"));
    let both = parsed(&["--metrics", "bleu,rouge_l", "bleu", "--predictions", "p"]);
    let names: Vec<String> = both.named(&registry()).unwrap().iter().map(|metric| metric.name().to_owned()).collect();
    assert_eq!(names, ["bleu", "rouge_l"]);
}

#[test]
fn columns_stand_under_each_other() {
    let rows = [["metric", "value", ""], ["größe", "1", ""]].map(|row| row.map(str::to_owned).to_vec());
    assert_eq!(table::columns(&rows), ["metric  value", "größe       1"]);
}

#[test]
fn questions_need_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("q.json");
    let asked = r#"{"id": "a", "answers": ["x"], "conversations": [{"from": "human", "value": "What?"}]}"#;
    let bare = r#"{"id": "b", "conversations": [{"from": "human", "value": "What?"}]}"#;
    let answered =
        r#"{"id": "c", "conversations": [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That."}]}"#;
    std::fs::write(&file, format!("[{asked}, {bare}, {answered}]")).unwrap();
    let questions = DataFormat::Llava.questions(&[file], &[]).unwrap();
    for (question, right) in questions.into_iter().zip([&["x"][..], &[], &["That."]]) {
        assert_eq!(question.conversation.messages.len(), 1);
        assert_eq!(Record::of(question.record, question.place).unwrap().judged.references, right);
    }
}
