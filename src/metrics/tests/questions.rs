//! Questions about pictures: VQA, POPE, ScienceQA; letters in free text.

use super::super::*;
use super::{Check, fixture, number, rows, text, texts};

#[test]
fn answers_count_as_in_the_challenges() {
    let file = fixture("questions.json");
    let mut check = Check::default();
    for row in rows(&file["vqa"]) {
        let (answer, people) = (text(&row["answer"]), texts(&row["people"]));
        check.close(&format!("{answer:?} beside {people:?}"), vqa_accuracy(answer, &people), number(&row["value"]));
    }
    for row in rows(&file["vqa_normalise"]) {
        check.equal(text(&row[0]), vqa_normalise(text(&row[0])).as_str(), text(&row[1]));
    }
    for row in rows(&file["pope"]) {
        check.equal(text(&row[0]), says_yes(text(&row[0])), row[1].as_bool().unwrap());
    }
    for row in rows(&file["science"]) {
        let found = letter(LetterRule::ScienceQa, text(&row[0]), number(&row[1]) as usize);
        check.equal(&format!("{row}"), found, row[2].as_u64().map(|place| place as usize));
    }
}

#[test]
fn a_letter_is_found_in_free_text() {
    for (answer, expected) in [
        ("B", Some('B')),
        (" (b) ", Some('B')),
        ("**C**", Some('C')),
        ("D.", Some('D')),
        ("A) a cat", Some('A')),
        ("b. the dog", Some('B')),
        ("C: because", Some('C')),
        ("The correct answer is (B).", Some('B')),
        ("The answer is B, not C", Some('B')),
        ("Option A is wrong, so the answer is C", Some('C')),
        ("answer: d", Some('D')),
        ("Answer: **A**", Some('A')),
        ("So we have \\boxed{C}", Some('C')),
        ("The final answer is $\\boxed{\\text{B}}$.", Some('B')),
        ("I would choose D here", Some('D')),
        ("A cat is B", Some('B')),
        ("A cat sits there", None),
        ("Either B or C", None),
        ("", None),
        ("no idea", None),
        ("Answer: Because it is so", None),
        ("I'm sure", None),
        ("E", None),
        ("Ä. B", Some('B')),
        ("（B）", Some('B')),
    ] {
        let found = letter(LetterRule::Free, answer, 4).map(|place| char::from(b'A' + place as u8));
        assert_eq!(found, expected, "{answer:?}");
    }
}

#[test]
fn pope_s_figures_are_by_hand() {
    let sample = |answer: &str, label: &str| Judged { label: Some(label.to_owned()), ..Judged::new("", answer, &[]) };
    let samples =
        [sample("Yes", "yes"), sample("Yes.", "no"), sample("No", "no"), sample("yes", "yes"), sample("no", "yes")];
    let value = |name: &str| evaluate(&*by_name(name, &Facts::default()).unwrap(), &samples).unwrap().corpus;
    assert_eq!(value("pope_accuracy"), 0.6);
    assert_eq!(value("pope_precision"), 2.0 / 3.0);
    assert_eq!(value("pope_recall"), 2.0 / 3.0);
    assert_eq!(value("pope_f1"), 2.0 / 3.0);
    assert_eq!(value("pope_yes_rate"), 0.6);
    let error =
        by_name("pope_f1", &Facts::default()).unwrap().measure(&sample("Yes", "maybe")).unwrap_err().to_string();
    assert!(error.contains("there is no label `yes` or `no`"), "{error}");
}

#[test]
fn choices_by_letter_and_by_likelihood() {
    let candidate =
        |text: &str, score: f64, relevance: f64| Candidate { text: text.to_owned(), score: Some(score), relevance };
    let candidates = vec![candidate("no", -2.0, 0.0), candidate("certainly", -4.5, 1.0)];
    let sample = Judged { candidates, ..Judged::new("1", "The answer is B.", &[]) };
    let value = |name: &str| {
        evaluate(&*by_name(name, &Facts::default()).unwrap(), std::slice::from_ref(&sample)).unwrap().corpus
    };
    assert_eq!(value("choice_likelihood"), 0.0);
    assert_eq!(value("choice_likelihood_norm"), 1.0);
    assert_eq!(value("choice_letter"), 1.0);
    assert_eq!(value("science_qa"), 1.0);
    assert_eq!(most_likely(&[1.0, 1.0, f64::NAN], None), Some(0));
    assert_eq!(most_likely(&[], None), None);
    assert_eq!(most_likely(&[-1.0, -3.0], Some(&[0, 9])), Some(1));
}
