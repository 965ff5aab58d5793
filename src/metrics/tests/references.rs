//! Overlap with references: sacreBLEU, rouge-score, NLTK, SQuAD, DocVQA.

use super::super::*;
use super::{Check, fixture, number, rows, text, texts};

fn bleu(name: &str, effective_order: bool) -> Bleu {
    let mut bleu = Bleu { effective_order, ..Bleu::default() };
    for part in name.split('/').skip(1) {
        match part {
            "13a" => bleu.tokens = Tokens::Mteval13a,
            "intl" => bleu.tokens = Tokens::International,
            "char" => bleu.tokens = Tokens::Characters,
            "none" if name.starts_with("bleu/none/") && bleu.tokens == Tokens::Mteval13a => {
                bleu.tokens = Tokens::Spaces;
                if name.ends_with("/none") {
                    bleu.smoothing = Smoothing::None;
                }
            }
            "none" => bleu.smoothing = Smoothing::None,
            "exp" => bleu.smoothing = Smoothing::Exp,
            "floor" => bleu.smoothing = Smoothing::Floor(0.1),
            "add-k" => bleu.smoothing = Smoothing::AddK(1.0),
            "lower" => bleu.lowercase = true,
            "2" => bleu.max_order = 2,
            other => panic!("{other}"),
        }
    }
    bleu
}

fn chrf(name: &str) -> Chrf {
    match name {
        "chrf" => Chrf::default(),
        "chrf++" => Chrf::plus_plus(),
        "chrf/lower" => Chrf { lowercase: true, beta: 1.0, ..Chrf::default() },
        other => panic!("{other}"),
    }
}

fn value(name: &str, answer: &str, references: &[&str]) -> f64 {
    let parts: Vec<&str> = name.split('/').collect();
    match parts[..] {
        ["bleu", ..] => {
            let bleu = bleu(name, true);
            bleu.score(&bleu.statistics(answer, references))
        }
        ["chrf" | "chrf++", ..] => chrf(name).score(&chrf(name).statistics(answer, references)),
        ["meteor"] => Meteor::default().score(answer, references),
        ["squad", "exact"] => f64::from(exact_match(Normalise::Squad, answer, references)),
        ["squad", "f1"] => word_overlap(answer, references).f1,
        ["anls"] => anls(answer, references),
        [kind, stem, part] => {
            let kind = match kind {
                "rougeL" => Rouge::L,
                "rougeLsum" => Rouge::Lsum,
                n => Rouge::N(n["rouge".len()..].parse().unwrap()),
            };
            let found = rouge(kind, stem == "stem", answer, references);
            match part {
                "precision" => found.precision,
                "recall" => found.recall,
                _ => found.f1,
            }
        }
        _ => panic!("{name}"),
    }
}

#[test]
fn single_texts_have_the_reference_s_values() {
    let file = fixture("references.json");
    let mut check = Check::default();
    for row in rows(&file["rows"]) {
        let (answer, references) = (text(&row["answer"]), texts(&row["references"]));
        for (name, expected) in texts(&file["names"]).iter().zip(rows(&row["values"])) {
            let what = format!("{name} of {answer:?} against {references:?}");
            check.close(&what, value(name, answer, &references), number(expected));
        }
    }
}

#[test]
fn a_corpus_has_the_reference_s_value() {
    let file = fixture("references.json");
    let samples: Vec<Judged> = rows(&file["rows"])
        .iter()
        .map(|row| Judged::new("", text(&row["answer"]), &texts(&row["references"])))
        .collect();
    let mut check = Check::default();
    for (name, expected) in file["corpus"].as_object().unwrap() {
        let metric: AnyMetric = match name.starts_with("bleu") {
            true => Box::new(BleuMetric::new(name, bleu(name, false))),
            false => Box::new(ChrfMetric::new(name, chrf(name))),
        };
        check.close(name, evaluate(&*metric, &samples).unwrap().corpus, number(expected));
    }
}

#[test]
fn stems_are_nltk_s() {
    let mut check = Check::default();
    for row in rows(&fixture("stems.json")) {
        check.equal(text(&row[0]), stem(text(&row[0])).as_str(), text(&row[1]));
    }
}

#[test]
fn by_hand() {
    // 5 of 6 words, 3 of 5 pairs, 1 of 4 threes, no four of 3: half a match.
    let bleu = Bleu::default();
    let found = bleu.score(&bleu.statistics("the cat sat on the mat", &["the cat is on the mat"]));
    let expected = 100.0 * (5.0 / 6.0 * 3.0 / 5.0 * 1.0 / 4.0 * 0.5 / 3.0_f64).powf(0.25);
    assert!((found - expected).abs() < 1e-12, "{found} {expected}");
    // Six words in common of 6 and 7, in two chunks.
    let found = Meteor::default().score("on the mat sat the cat", &["on the mat the cat sat down"]);
    let mean = 1.0 * (6.0 / 7.0) / (0.9 + 0.1 * 6.0 / 7.0);
    assert!((found - (1.0 - 0.5 * (3.0_f64 / 6.0).powi(3)) * mean).abs() < 1e-12, "{found}");
    assert_eq!(rouge(Rouge::Lsum, false, "b a\nc", &["a b\nc"]).f1, 2.0 / 3.0);
    assert_eq!(anls("hello", &["hallo"]), 0.8);
    assert_eq!(anls("hello", &["h"]), 0.0);
    assert!(exact_match(Normalise::Squad, " The  cat!", &["cat"]));
    assert!(!exact_match(Normalise::Trim, " The  cat!", &["cat"]));
}

#[test]
fn without_texts_or_references_the_value_is_that_of_nothing_in_common() {
    let none: [&str; 0] = [];
    for references in [&none[..], &[""], &["a"]] {
        for answer in ["", "a"] {
            let equal = references == [answer];
            let found = bleu("bleu/13a/exp", true).score(&Bleu::default().statistics(answer, references));
            let expected = if equal && answer == "a" { 100.0 } else { 0.0 };
            assert!((found - expected).abs() < 1e-10, "{answer:?} {references:?}: {found}");
            let chrf = Chrf::default();
            assert_eq!(chrf.score(&chrf.statistics(answer, references)) > 0.0, equal && answer == "a");
            for kind in [Rouge::N(1), Rouge::L, Rouge::Lsum] {
                assert_eq!(rouge(kind, true, answer, references).f1, f64::from(equal && answer == "a"));
            }
            assert_eq!(Meteor::default().score(answer, references), if equal && answer == "a" { 0.5 } else { 0.0 });
            assert_eq!(anls(answer, references), f64::from(equal));
            assert_eq!(exact_match(Normalise::Trim, answer, references), equal);
        }
    }
}
