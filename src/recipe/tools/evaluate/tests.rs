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
    assert!(with(&["--metrics", "bleu", "--num-answers", "2"]).contains("--temperature"));
    assert!(with(&["--metrics", "perplexity", "--against", "b.jsonl"]).contains("perplexity"));
    for bad in [
        &["--model", "m"][..],
        &["--data", "d"],
        &["--predictions", "p", "--model", "m", "--data", "d"],
        &["--predictions", "p", "--level", "1"],
        &["--predictions", "p", "--samples", "0"],
    ] {
        assert!(Evaluate::try_parse_from(std::iter::once(&"evaluate").chain(bad)).is_err(), "{bad:?}");
    }
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
