//! Metrics by name.

use super::super::*;
use std::num::NonZeroUsize;

fn facts() -> Facts {
    Facts { vocabulary: NonZeroUsize::new(1000) }
}

/// A record with everything that any metric reads.
fn whole(id: &str, answer: &str) -> Judged {
    let candidate = |text: &str, score, relevance| Candidate { text: text.to_owned(), score: Some(score), relevance };
    let generated = |text: &str| Generated {
        text: text.to_owned(),
        log_probs: Some(vec![-0.5, -1.0]),
        reference_log_probs: Some(vec![-0.7, -0.9]),
    };
    Judged {
        id: id.to_owned(),
        question: "Which?".to_owned(),
        answers: vec![generated(answer), generated("something else")],
        references: vec!["A".to_owned(), answer.to_owned()],
        label: Some("A".to_owned()),
        candidates: vec![candidate("yes", -1.0, 1.0), candidate("no", -2.0, 0.0)],
        baseline: Some(-1.5),
        tools: vec![Tool { name: "f".to_owned(), parameters: serde_json::json!({}) }],
    }
}

#[test]
fn every_name_makes_a_metric_of_that_name_that_works_on_any_text() {
    let registry = Registry::default();
    let odd = [
        "",
        " ",
        "\n\n",
        "A",
        "\u{301}",
        "👩‍👩‍👧",
        "{\"name\": \"f\", \"arguments\": {}}",
        "<tool_call>",
        "...",
        "\0",
        "اب ج",
    ];
    let samples: Vec<Judged> = odd.iter().enumerate().map(|(i, text)| whole(&i.to_string(), text)).collect();
    let mut names = 0;
    for (name, help) in registry.names() {
        assert!(!help.is_empty());
        let metric = registry.by_name(name, &facts()).unwrap();
        assert_eq!(metric.name(), name);
        let mut samples = samples.clone();
        if name.starts_with("pope_") {
            samples.iter_mut().for_each(|sample| sample.label = Some("No".to_owned()));
        }
        let scored = evaluate(&*metric, &samples).unwrap();
        assert!(scored.corpus.is_finite(), "{name} {}", scored.corpus);
        assert!(scored.measured.iter().all(|one| one.value.is_some_and(f64::is_finite)), "{name}");
        let bootstrap = Bootstrap { resamples: 20, ..Bootstrap::default() };
        let interval = bootstrap.interval(&*metric, &scored.measured).unwrap();
        assert!(interval.low <= interval.high, "{name} {interval:?}");
        names += 1;
    }
    assert!(names > 70, "{names}");
}

#[test]
fn a_record_without_what_is_needed_is_named() {
    let sample = Judged { id: "x7".to_owned(), ..Judged::default() };
    for (name, _) in Registry::default().names() {
        let error = by_name(name, &facts()).unwrap().measure(&sample).unwrap_err();
        assert!(
            matches!(&error, MetricError::Missing { metric, id, .. } if metric == name && id == "x7"),
            "{name}: {error}"
        );
        let empty = evaluate(&*by_name(name, &facts()).unwrap(), &[]).unwrap_err();
        assert_eq!(empty, MetricError::Empty(name.to_owned()));
    }
}

#[test]
fn a_wrong_name_gets_the_nearest_one() {
    let refusal = |name: &str| by_name(name, &facts()).err().unwrap().to_string();
    assert_eq!(refusal("blue"), "there is no metric `blue` (did you mean `bleu`?); `names()` lists them");
    assert!(refusal("rouge1").contains("did you mean `rouge_1`?"));
    assert!(refusal("xyzzy").starts_with("there is no metric `xyzzy`; "));
    let missing = by_name("ead_2", &Facts::default()).err().unwrap().to_string();
    assert_eq!(missing, "metric `ead_2` needs the size of the vocabulary; set it, or use `distinct_2`, which does not");
}

#[test]
fn another_crate_adds_its_own() {
    let mut registry = Registry::default();
    registry.add("polite", "says please", |_| {
        Ok(Box::new(PerAnswer::new("polite", Better::Higher, |_, answer| {
            Ok(f64::from(answer.text.contains("please")))
        })))
    });
    let metric = registry.by_name("polite", &facts()).unwrap();
    let samples = [Judged::new("1", "please", &[]), Judged::new("2", "now", &[])];
    assert_eq!(evaluate(&*metric, &samples).unwrap().corpus, 0.5);
    assert_eq!(metric.better(), Better::Higher);
}

#[test]
fn several_answers_count_as_their_mean_and_records_the_same() {
    let mut first = Judged::new("1", "yes", &["yes"]);
    first.answers.push(Generated::new("no"));
    let samples = [first, Judged::new("2", " yes\n", &["yes"])];
    let scored = evaluate(&*by_name("exact_match", &facts()).unwrap(), &samples).unwrap();
    assert_eq!(scored.measured.iter().map(|one| one.value).collect::<Vec<_>>(), [Some(0.5), Some(1.0)]);
    assert_eq!(scored.corpus, 0.75);
}
