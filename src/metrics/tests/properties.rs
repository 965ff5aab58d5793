//! What must hold of any texts and numbers.

use super::super::*;
use proptest::collection::vec;
use proptest::prelude::*;

/// Texts with words in common, and texts of anything.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => vec(prop::sample::select(vec!["the", "cat", "sat", "on", "a", "mat", ".", "1,000", "don't", "猫"]), 0..12)
            .prop_map(|words| words.join(" ")),
        1 => any::<String>(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn overlaps_stay_in_their_range(answer in any_text(), references in vec(any_text(), 0..3)) {
        for tokens in [Tokens::Mteval13a, Tokens::International, Tokens::Characters, Tokens::Spaces] {
            for smoothing in [Smoothing::None, Smoothing::Floor(0.1), Smoothing::AddK(1.0), Smoothing::Exp] {
                let bleu = Bleu { tokens, smoothing, ..Bleu::sentence() };
                let score = bleu.score(&bleu.statistics(&answer, &references));
                prop_assert!((0.0..=100.0 + 1e-9).contains(&score), "{}", score);
            }
        }
        let chrf = Chrf::plus_plus();
        prop_assert!((0.0..=100.0 + 1e-9).contains(&chrf.score(&chrf.statistics(&answer, &references))));
        for kind in [Rouge::N(1), Rouge::N(2), Rouge::L, Rouge::Lsum] {
            let found = rouge(kind, true, &answer, &references);
            for value in [found.precision, found.recall, found.f1] {
                prop_assert!((0.0..=1.0 + 1e-12).contains(&value));
            }
        }
        for value in [Meteor::default().score(&answer, &references), anls(&answer, &references), word_overlap(&answer, &references).f1] {
            prop_assert!((0.0..=1.0 + 1e-12).contains(&value));
        }
        prop_assert!((0.0..=1.0).contains(&vqa_accuracy(&answer, &references)));
    }

    #[test]
    fn references_may_come_in_any_order(answer in any_text(), mut references in vec(any_text(), 1..4)) {
        let all = |references: &[String]| {
            let bleu = Bleu::sentence();
            [
                bleu.score(&bleu.statistics(&answer, references)),
                Chrf::default().score(&Chrf::default().statistics(&answer, references)),
                rouge(Rouge::L, false, &answer, references).f1,
                Meteor::default().score(&answer, references),
                anls(&answer, references),
                vqa_accuracy(&answer, references),
            ]
        };
        let before = all(&references);
        references.reverse();
        for (a, b) in before.into_iter().zip(all(&references)) {
            prop_assert!((a - b).abs() < 1e-9);
        }
    }

    #[test]
    fn rouge_and_words_in_common_are_symmetric(a in any_text(), b in any_text()) {
        for kind in [Rouge::N(1), Rouge::N(2), Rouge::L] {
            let (there, back) = (rouge(kind, false, &a, &[&b]), rouge(kind, false, &b, &[&a]));
            prop_assert_eq!((there.precision, there.recall), (back.recall, back.precision));
        }
        prop_assert_eq!(word_overlap(&a, &[&b]).f1, word_overlap(&b, &[&a]).f1);
        prop_assert_eq!(anls(&a, &[&b]), anls(&b, &[&a]));
    }

    #[test]
    fn a_text_matches_itself(text in any_text()) {
        prop_assert!(exact_match(Normalise::Trim, &text, &[&text]));
        prop_assert!(exact_match(Normalise::Squad, &text, &[&text]));
        prop_assert_eq!(word_overlap(&text, &[&text]).f1, 1.0);
        let same = rouge(Rouge::L, true, &text, &[&text]).f1;
        prop_assert!(same == 1.0 || text.to_lowercase().chars().all(|c| !c.is_ascii_alphanumeric()));
        prop_assert_eq!(vqa_accuracy(&text, &[text.as_str(); 10]), 1.0);
    }

    #[test]
    fn normalising_an_answer_and_finding_letters_or_calls_never_panics(text in any::<String>(), options in 0_usize..30) {
        vqa_normalise(&text);
        says_yes(&text);
        stem(&text);
        let _ = parse_tool_calls(&text);
        let _ = parse_tool_calls(&format!("[TOOL_CALLS]{text}"));
        let _ = parse_tool_calls(&format!("<tool_call>{text}"));
        let _ = parse_tool_calls(&format!("{{\"tool_calls\": [{text}]}}"));
        for rule in [LetterRule::ScienceQa, LetterRule::Free] {
            prop_assert!(letter(rule, &text, options).is_none_or(|place| place < options));
        }
    }

    #[test]
    fn variety_stays_in_its_range(texts in vec(vec(0_u8..6, 0..12), 0..5), n in 1_usize..5) {
        prop_assert!((0.0..=1.0).contains(&distinct(&texts, n)));
        for tokens in &texts {
            let most = (tokens.len() as f64).max(1.0).ln();
            prop_assert!((0.0..=most + 1e-12).contains(&entropy(tokens, n, None)));
        }
    }

    #[test]
    fn rankings_stay_in_their_range_and_need_no_order(pairs in vec((-3_i8..3, 0_u8..3), 0..10), k in 0_usize..12) {
        let split = |pairs: &[(i8, u8)]| -> (Vec<f64>, Vec<f64>) {
            pairs.iter().map(|&(score, relevance)| (f64::from(score), f64::from(relevance))).unzip()
        };
        let all = |pairs: &[(i8, u8)]| {
            let (scores, relevances) = split(pairs);
            [recall_at(k, &scores, &relevances), reciprocal_rank(&scores, &relevances), ndcg(Some(k), &scores, &relevances), ndcg(None, &scores, &relevances)]
        };
        let values = all(&pairs);
        let mut reversed = pairs.clone();
        reversed.reverse();
        for (a, b) in values.into_iter().zip(all(&reversed)) {
            prop_assert!((0.0..=1.0 + 1e-12).contains(&a));
            prop_assert!((a - b).abs() < 1e-12);
        }
    }

    #[test]
    fn classes_may_be_called_anything(pairs in vec((0_u8..4, 0_u8..4), 1..30)) {
        let confusion: Confusion<u8> = pairs.iter().copied().collect();
        let renamed: Confusion<u8> = pairs.iter().map(|&(a, b)| (9 - a, 9 - b)).collect();
        for average in [Average::Macro, Average::Micro, Average::Weighted] {
            prop_assert!((confusion.f1(average) - renamed.f1(average)).abs() < 1e-12);
            prop_assert!((0.0..=1.0).contains(&confusion.precision(average)));
        }
        prop_assert_eq!(confusion.accuracy(), confusion.recall(Average::Micro));
        prop_assert_eq!(confusion.table().iter().flatten().sum::<u64>(), pairs.len() as u64);
    }

    #[test]
    fn statistics_of_parts_pool_to_those_of_the_whole(pairs in vec((any_text(), any_text()), 2..6), cut in 0_usize..6) {
        let samples: Vec<Judged> = pairs.iter().map(|(answer, reference)| Judged::new("", answer, &[reference])).collect();
        let cut = cut % (samples.len() - 1) + 1;
        for name in ["bleu", "chrf_pp", "rouge_l", "corpus_distinct_2", "f1_macro"] {
            let metric = by_name(name, &Facts::default()).unwrap();
            let measured = evaluate(&*metric, &samples).unwrap();
            let pool = |part: &[Measured]| Statistics::pool(part.iter().map(|one| &one.statistics)).unwrap();
            let (left, right) = measured.measured.split_at(cut);
            let whole = Statistics::pool([&pool(left), &pool(right)]).unwrap();
            prop_assert!((metric.corpus(&whole) - measured.corpus).abs() < 1e-9);
        }
    }

    #[test]
    fn a_wider_interval_holds_a_narrower_one(values in vec(-10.0_f64..10.0, 2..20), seed in any::<u64>()) {
        let measured: Vec<Measured> = values.iter().map(|&value| Measured::mean(value)).collect();
        let metric = PerAnswer::new("mean", Better::Higher, |_, _| Ok(0.0));
        let of = |level| {
            let bootstrap = Bootstrap { resamples: 50, level, seed, method: Method::Percentile };
            bootstrap.interval(&metric, &measured).unwrap()
        };
        let (wide, narrow) = (of(0.9), of(0.5));
        prop_assert!(wide.low <= narrow.low && narrow.high <= wide.high);
    }
}
