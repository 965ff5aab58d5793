//! Classes, rankings, resamples.

use super::super::bootstrap::{jackknife_error, normal_quantile, normal_share};
use super::super::*;
use super::{Check, fixture, floats, number, rows, texts};

#[test]
fn classes_are_counted_as_by_scikit_learn() {
    let mut check = Check::default();
    for row in rows(&fixture("numbers.json")["classes"]) {
        let pairs: Vec<(&str, &str)> = texts(&row["right"]).into_iter().zip(texts(&row["predicted"])).collect();
        let confusion: Confusion<&str> = pairs.iter().copied().collect();
        let table: Vec<Vec<u64>> = rows(&row["table"])
            .iter()
            .map(|line| rows(line).iter().map(|cell| cell.as_u64().unwrap()).collect())
            .collect();
        check.equal("table", confusion.table(), table);
        let samples: Vec<Judged> = pairs
            .iter()
            .map(|(right, predicted)| Judged { label: Some((*right).to_owned()), ..Judged::new("", *predicted, &[]) })
            .collect();
        for (name, expected) in row["values"].as_object().unwrap() {
            let average = match name.split('/').nth(1) {
                Some("macro") => Average::Macro,
                Some("micro") => Average::Micro,
                _ => Average::Weighted,
            };
            let found = match name.split('/').next() {
                Some("precision") => confusion.precision(average),
                Some("recall") => confusion.recall(average),
                Some("f1") => confusion.f1(average),
                _ => confusion.accuracy(),
            };
            check.close(name, found, number(expected));
            let metric = by_name(&name.replace('/', "_"), &Facts::default()).unwrap();
            check.close(name, evaluate(&*metric, &samples).unwrap().corpus, number(expected));
        }
    }
}

#[test]
fn rankings_have_the_reference_s_values() {
    let mut check = Check::default();
    for row in rows(&fixture("numbers.json")["rankings"]) {
        let (scores, relevances) = (floats(&row["scores"]), floats(&row["relevances"]));
        for (name, expected) in row["values"].as_object().unwrap() {
            let k = name.split('/').nth(1).map(|k| k.parse().unwrap());
            let found = match name.split('/').next() {
                Some("recall") => recall_at(k.unwrap(), &scores, &relevances),
                Some("mrr") => reciprocal_rank(&scores, &relevances),
                _ => ndcg(k, &scores, &relevances),
            };
            check.close(&format!("{name} of {scores:?} {relevances:?}"), found, number(expected));
        }
        let log_likelihoods = floats(&row["log_likelihoods"]);
        let lengths: Vec<usize> = floats(&row["lengths"]).iter().map(|&length| length as usize).collect();
        let chosen = [None, Some(&lengths[..])].map(|lengths| most_likely(&log_likelihoods, lengths).unwrap() as f64);
        check.equal("chosen", chosen.to_vec(), floats(&row["chosen"]));
    }
}

#[test]
fn documents_are_worth_what_they_add() {
    assert_eq!(utility(-2.0, &[-1.5, -3.0]), [0.5, -1.0]);
    let candidate = |score| Candidate { score: Some(score), ..Candidate::default() };
    let mut sample =
        Judged { candidates: vec![candidate(-1.5), candidate(-3.0)], baseline: Some(-2.0), ..Judged::default() };
    let metric = by_name("retrieval_utility", &Facts::default()).unwrap();
    assert_eq!(metric.measure(&sample).unwrap().value, Some(-0.25));
    sample.baseline = None;
    assert!(metric.measure(&sample).unwrap_err().to_string().contains("there is no baseline"));
}

#[test]
fn intervals_are_scipy_s_over_the_same_resamples() {
    let mut check = Check::default();
    for row in rows(&fixture("numbers.json")["bootstrap"]) {
        let (data, values, level) = (floats(&row["data"]), floats(&row["values"]), number(&row["level"]));
        let mean = |data: &[f64]| data.iter().sum::<f64>() / data.len() as f64;
        let left_out: Vec<f64> = (0..data.len()).map(|i| mean(&[&data[..i], &data[i + 1..]].concat())).collect();
        let bca = bca_interval(&values, mean(&data), &left_out, level);
        let percentile = percentile_interval(&values, level);
        for (name, interval) in [("BCa", bca), ("percentile", percentile)] {
            let expected = floats(&row[name]);
            check.close(name, interval.low, expected[0]);
            check.close(name, interval.high, expected[1]);
        }
    }
}

#[test]
fn the_normal_distribution_is_scipy_s() {
    let mut check = Check::default();
    for row in rows(&fixture("numbers.json")["normal"]) {
        let (share, z) = (number(&row[0]), number(&row[1]));
        check.close(&format!("share below {z}"), normal_share(z) / share, 1.0);
        check.close(&format!("where {share} is below"), normal_quantile(share), z);
    }
}

#[test]
fn mcnemar_s_test_is_scipy_s_binomial_one() {
    let mut check = Check::default();
    for row in rows(&fixture("numbers.json")["mcnemar"]) {
        let [a, b, p] = [0, 1, 2].map(|i| number(&row[i]));
        let found = McNemar::of(a as usize, b as usize).p_value;
        check.close(&format!("{a} {b}"), found.ln() - p.ln(), 0.0);
    }
}

#[test]
fn a_summary_is_numpy_s() {
    let file = fixture("numbers.json");
    let found = Summary::of(floats(&file["summary"]["data"])).unwrap();
    let values =
        [found.mean, found.deviation, found.min, found.first_quartile, found.median, found.third_quartile, found.max];
    let mut check = Check::default();
    for (found, expected) in values.into_iter().zip(floats(&file["summary"]["values"])) {
        check.close("summary", found, expected);
    }
    assert_eq!(Summary::of([]), None);
    assert_eq!(Summary::of([3.0]).unwrap().deviation, 0.0);
}

#[test]
fn perplexity_and_divergence_weigh_tokens() {
    let answer = |log_probs: &[f64], other: &[f64]| Generated {
        log_probs: Some(log_probs.to_vec()),
        reference_log_probs: Some(other.to_vec()),
        ..Generated::default()
    };
    let sample = |answer| Judged { id: "3".to_owned(), answers: vec![answer], ..Judged::default() };
    let samples = [sample(answer(&[-1.0, -3.0], &[-2.0, -3.5])), sample(answer(&[-5.0], &[-4.0]))];
    let scored = |name: &str| evaluate(&*by_name(name, &Facts::default()).unwrap(), &samples).unwrap();
    assert_eq!(scored("perplexity").corpus, 3.0_f64.exp());
    assert_eq!(scored("perplexity").measured[0].value, Some(2.0_f64.exp()));
    assert_eq!(scored("kl").corpus, (1.5 - 1.0) / 3.0);
    assert_eq!(scored("kl_answer").corpus, (1.5 - 1.0) / 2.0);
    assert_eq!(scored("length_tokens").corpus, 1.5);
    assert_eq!(perplexity(&[-1.0, -3.0]), 2.0_f64.exp());
    assert_eq!(mean_kl(&[-1.0, -3.0], &[-2.0, -3.5]), Some(0.75));
    assert_eq!(mean_kl(&[-1.0], &[]), None);
    assert_eq!((perplexity(&[]), mean_kl(&[], &[])), (1.0, Some(0.0)));
    let error =
        by_name("kl", &Facts::default()).unwrap().measure(&sample(answer(&[-1.0], &[]))).unwrap_err().to_string();
    assert!(error.contains("`kl`, record `3`: 1 log-probabilities but 0 of the reference"), "{error}");
}

fn measured(values: &[f64]) -> Vec<Measured> {
    values.iter().map(|&value| Measured::mean(value)).collect()
}

fn mean(better: Better) -> PerAnswer {
    PerAnswer::new("mean", better, |_, _| Ok(0.0))
}

#[test]
fn an_interval_of_a_metric_is_that_of_its_mean_and_depends_on_the_seed_alone() {
    let values: Vec<f64> = (0..60).map(|i| f64::from(i * i % 17)).collect();
    let all = measured(&values);
    let of = |bootstrap: Bootstrap| bootstrap.interval(&mean(Better::Higher), &all).unwrap();
    let bca = of(Bootstrap::default());
    assert_eq!(bca, of(Bootstrap::default()));
    assert_ne!(bca, of(Bootstrap { seed: 1, ..Bootstrap::default() }));
    let average = values.iter().sum::<f64>() / 60.0;
    let error = Summary::of(values.iter().copied()).unwrap().deviation / 60.0_f64.sqrt();
    // The normal interval, to a tenth of its width.
    for interval in [bca, of(Bootstrap { method: Method::Percentile, ..Bootstrap::default() })] {
        assert!((interval.low - (average - 1.96 * error)).abs() < 0.4 * error, "{interval:?}");
        assert!((interval.high - (average + 1.96 * error)).abs() < 0.4 * error, "{interval:?}");
    }
    let narrow = of(Bootstrap { level: 0.5, ..Bootstrap::default() });
    assert!(bca.low < narrow.low && narrow.high < bca.high);
}

#[test]
fn an_interval_without_anything_to_correct_by_is_the_percentiles_one() {
    let same = Bootstrap::default().interval(&mean(Better::Higher), &measured(&[2.0; 5])).unwrap();
    assert_eq!((same.low, same.high), (2.0, 2.0));
    let single = Bootstrap::default().interval(&mean(Better::Higher), &measured(&[3.0])).unwrap();
    assert_eq!((single.low, single.high), (3.0, 3.0));
}

#[test]
fn settings_of_a_bootstrap_are_checked() {
    let refusal = |bootstrap: Bootstrap, values: &[f64]| {
        bootstrap.interval(&mean(Better::Higher), &measured(values)).unwrap_err().to_string()
    };
    let none = Bootstrap { resamples: 0, ..Bootstrap::default() };
    assert_eq!(refusal(none, &[1.0]), "bootstrap: `resamples` is 0 and must be at least 1");
    for level in [0.0, 1.0, f64::NAN] {
        assert!(refusal(Bootstrap { level, ..Bootstrap::default() }, &[1.0]).contains("above 0 and below 1"));
    }
    assert!(refusal(Bootstrap::default(), &[]).contains("there are no records"));
}

#[test]
fn two_systems_are_compared_record_by_record() {
    let first = measured(&[1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]);
    let second = measured(&[1.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 0.0]);
    let found = compare(&mean(Better::Higher), &first, &second, &Bootstrap::default()).unwrap();
    assert_eq!((found.first, found.second, found.difference), (0.375, 0.75, 0.375));
    assert_eq!(found.records, Some(Counts { wins: 4, ties: 3, losses: 1 }));
    assert_eq!(found.mcnemar, Some(McNemar::of(1, 4)));
    assert!(found.interval.low < 0.375 && found.interval.high > 0.375);
    let lower = compare(&mean(Better::Lower), &first, &second, &Bootstrap::default()).unwrap();
    assert_eq!(lower.records, Some(Counts { wins: 1, ties: 3, losses: 4 }));
    let same = compare(&mean(Better::Higher), &first, &first, &Bootstrap::default()).unwrap();
    assert_eq!((same.p_value, same.difference), (1.0, 0.0));
    let far =
        compare(&mean(Better::Higher), &measured(&[0.0; 50]), &measured(&[1.5; 50]), &Bootstrap::default()).unwrap();
    assert_eq!((far.p_value, far.mcnemar), (1.0 / 1001.0, None));
    let error = compare(&mean(Better::Higher), &first, &second[1..], &Bootstrap::default()).unwrap_err().to_string();
    assert_eq!(error, "metric `mean`: 8 records of the first system but 7 of the second; measure the same ones");
}

#[test]
fn chance_alone_gives_small_p_values_rarely() {
    // A hash instead of a generator: two systems that differ by noise.
    let noise = |seed: u64, i: u64| {
        let mixed = (seed * 1_000_003 + i).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 40) as f64 / (1_u64 << 24) as f64
    };
    let bootstrap = Bootstrap { resamples: 200, ..Bootstrap::default() };
    let p = |seed: u64| {
        let [a, b] = [0, 1].map(|system| (0..40).map(|i| noise(seed * 2 + system, i)).collect::<Vec<_>>());
        compare(&mean(Better::Higher), &measured(&a), &measured(&b), &bootstrap).unwrap().p_value
    };
    let small = (0..200).filter(|&seed| p(seed) < 0.1).count();
    // 20 are expected of 200; four standard deviations are 17.
    assert!((3..=37).contains(&small), "{small}");
}

#[test]
fn records_are_paired_by_id() {
    let file = |ids: &[&str]| ids.iter().map(|id| Judged::new(*id, "", &[])).collect::<Vec<_>>();
    assert_eq!(pair(&file(&["a", "b", "c"]), &file(&["c", "a", "b"])).unwrap(), [1, 2, 0]);
    for (first, second, message) in [
        (&["a", "b"][..], &["a"][..], "record `b` is 0 times in the second file"),
        (&["a"], &["a", "b"], "record `b` is 0 times in the first file"),
        (&["a", "a"], &["a"], "record `a` is 2 times in the first file"),
        (&["a"], &["a", "a"], "record `a` is 2 times in the second file"),
    ] {
        let error = pair(&file(first), &file(second)).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn different_n_grams_have_an_interval_around_their_share() {
    let system = |step: usize| -> Vec<Judged> {
        let text = |i: usize| format!("w{} w{}", i % 7, i * i % (90 + step));
        (0..450).map(|i| Judged::new("", text(i), &[])).collect()
    };
    let metric = by_name("corpus_distinct_1", &Facts::default()).unwrap();
    let [first, second] = [0, 7].map(|step| evaluate(&*metric, &system(step)).unwrap());
    // Drawing 450 records finds about 0.63 of what is rare: such an interval would lie below the value.
    let interval = Bootstrap::default().interval(&*metric, &first.measured).unwrap();
    assert!(interval.low <= first.corpus && first.corpus <= interval.high, "{interval:?} {}", first.corpus);
    let found = compare(&*metric, &first.measured, &second.measured, &Bootstrap::default()).unwrap();
    assert!(found.interval.low <= found.difference && found.difference <= found.interval.high, "{found:?}");
    let same = compare(&*metric, &first.measured, &first.measured, &Bootstrap::default()).unwrap();
    assert_eq!((same.p_value, same.interval.low, same.interval.high), (1.0, 0.0, 0.0));
}

#[test]
fn the_jackknife_s_error_of_a_mean_is_the_standard_error() {
    let values = [1.0, 4.0, 2.0, 8.0, 5.0];
    let left_out: Vec<f64> = values.iter().map(|value| (20.0 - value) / 4.0).collect();
    let expected = Summary::of(values).unwrap().deviation / 5.0_f64.sqrt();
    assert!((jackknife_error(&left_out) - expected).abs() < 1e-12);
}
