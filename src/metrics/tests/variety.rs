//! How varied several answers are.

use super::super::*;
use super::{Check, fixture, number, rows, texts};
use std::num::NonZeroUsize;

#[test]
fn several_answers_have_the_reference_s_values() {
    let file = fixture("variety.json");
    let vocabulary = NonZeroUsize::new(number(&file["vocabulary"]) as usize).unwrap();
    let mut check = Check::default();
    for row in rows(&file["rows"]) {
        let answers = texts(&row["answers"]);
        let split: Vec<Vec<&str>> = answers.iter().map(|text| words(text).collect()).collect();
        for (name, expected) in row["values"].as_object().unwrap() {
            let mut parts = name.split('/');
            let kind = parts.next().unwrap();
            let n = parts.next().map_or(0, |n| n.parse().unwrap());
            let found = match (kind, parts.next()) {
                ("distinct", _) => distinct(&split, n),
                ("ead", _) => expectation_adjusted_distinct(&split, n, vocabulary),
                ("entropy", top) => entropy(&split[0], n, top.map(|_| 3)),
                _ => self_bleu(&Bleu::sentence(), &answers).unwrap(),
            };
            check.close(&format!("{name} of {answers:?}"), found, number(expected));
        }
    }
}

#[test]
fn scopes_differ_in_what_is_compared() {
    let sample = |answers: [&str; 2]| Judged { answers: answers.map(Generated::new).to_vec(), ..Judged::default() };
    let samples = [sample(["a b", "a c"]), sample(["a b", "d"])];
    let value = |name: &str| evaluate(&*by_name(name, &Facts::default()).unwrap(), &samples).unwrap().corpus;
    assert_eq!(value("distinct_1"), (3.0 / 4.0 + 1.0) / 2.0);
    assert_eq!(value("corpus_distinct_1"), 4.0 / 7.0);
    assert_eq!(value("distinct_4"), 0.0);
    assert_eq!(value("corpus_distinct_2"), 2.0 / 3.0);
}

#[test]
fn the_expectation_keeps_its_digits_in_a_large_vocabulary() {
    // One of one n-gram: expected 1 whatever the vocabulary.
    let vocabulary = NonZeroUsize::new(1 << 50).unwrap();
    assert_eq!(expectation_adjusted_distinct(&[vec![1]], 1, vocabulary), 1.0);
    assert_eq!(expectation_adjusted_distinct(&[vec![1, 1, 1]], 1, NonZeroUsize::MIN), 1.0);
    assert_eq!(expectation_adjusted_distinct::<u8>(&[], 1, vocabulary), 0.0);
}

#[test]
fn entropy_of_equal_shares_is_their_logarithm() {
    assert_eq!(entropy(&[1, 2, 1, 2], 1, None), 2.0_f64.ln());
    assert_eq!(entropy(&[1, 1, 1], 2, None), 0.0);
    assert_eq!(entropy::<u8>(&[], 1, None), 0.0);
    assert_eq!(entropy(&[1, 2], 1, Some(0)), 0.0);
}

#[test]
fn one_answer_has_no_self_bleu() {
    assert_eq!(self_bleu(&Bleu::sentence(), &["a b c d"]), None);
    let same = self_bleu(&Bleu::sentence(), &["a b c d", "a b c d"]).unwrap();
    assert!((same - 100.0).abs() < 1e-10, "{same}");
    let metric = by_name("self_bleu", &Facts::default()).unwrap();
    let error = evaluate(&*metric, &[Judged::new("7", "a", &[])]).unwrap_err().to_string();
    assert!(error.contains("`self_bleu`, record `7`: there is no second generated answer"), "{error}");
}
