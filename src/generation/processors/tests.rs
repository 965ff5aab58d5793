//! Every processor, alone and together, against transformers' scores.

use super::*;
use crate::generation::settings::{CheckpointDefaults, Generation, Vocabulary};
use crate::settings::Component;
use serde::Deserialize;
use std::path::Path;

/// Scores are changed by a few operations in `f32`.
const CLOSE: f32 = 1e-6;

#[derive(Deserialize)]
struct Fixture {
    rows: Vec<Row>,
    cases: Vec<Case>,
    invalid_replaced: Vec<f32>,
}

#[derive(Deserialize)]
struct Row {
    prompt: Vec<u32>,
    generated: Vec<u32>,
    scores: Vec<f32>,
}

#[derive(Deserialize)]
struct Case {
    settings: serde_json::Value,
    /// `null` is -∞.
    expected: Vec<Vec<Option<f32>>>,
}

struct Mute;

impl Vocabulary for Mute {
    fn encode(&self, _: &str) -> Vec<u32> {
        Vec::new()
    }

    fn special_id(&self, _: &str) -> Option<u32> {
        None
    }
}

fn fixture() -> Fixture {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/generation/processors.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn scores_are_those_of_transformers() {
    let fixture = fixture();
    for case in &fixture.cases {
        let file = CheckpointDefaults::parse(&case.settings.to_string(), "file").unwrap();
        let decoding = file.under(&Generation::given()).unwrap().resolve(&Mute).unwrap();
        assert!(!(decoding.processors.is_empty() && decoding.filters.is_empty()), "{}", case.settings);
        for (number, (row, expected)) in fixture.rows.iter().zip(&case.expected).enumerate() {
            let context = RowContext { prompt: &row.prompt, generated: &row.generated, beams: 1 };
            let mut scores = row.scores.clone();
            decoding.process(&context, &mut scores);
            decoding.filter(&context, &mut scores);
            for (id, (ours, theirs)) in scores.iter().zip(expected).enumerate() {
                let same = match theirs {
                    None => *ours == f32::NEG_INFINITY,
                    Some(theirs) => (ours - theirs).abs() <= CLOSE * theirs.abs().max(1.0),
                };
                assert!(same, "{} row {number} id {id}: {ours} {theirs:?}", case.settings);
            }
        }
    }
}

/// Where nothing would change, a processor says so, and where it says so nothing changes.
#[test]
fn inactive_processors_change_nothing() {
    let fixture = fixture();
    let (mut active, mut inactive) = (0, 0);
    for case in &fixture.cases {
        let file = CheckpointDefaults::parse(&case.settings.to_string(), "file").unwrap();
        let decoding = file.under(&Generation::given()).unwrap().resolve(&Mute).unwrap();
        for row in &fixture.rows {
            let context = RowContext { prompt: &row.prompt, generated: &row.generated, beams: 1 };
            for processor in &decoding.processors {
                if processor.active(&context) {
                    active += 1;
                    continue;
                }
                let mut scores = row.scores.clone();
                processor.process(&context, &mut scores);
                assert_eq!(scores, row.scores, "{processor:?}");
                inactive += 1;
            }
        }
    }
    assert!(active > 20 && inactive > 10, "{active} {inactive}");
}

/// Filters that say that they need no more than the survivors do the same to the survivors alone.
#[test]
fn filters_work_on_the_survivors_alone() {
    let fixture = fixture();
    let mut compared = 0;
    for case in &fixture.cases {
        let file = CheckpointDefaults::parse(&case.settings.to_string(), "file").unwrap();
        let decoding = file.under(&Generation::given()).unwrap().resolve(&Mute).unwrap();
        for row in &fixture.rows {
            let context = RowContext { prompt: &row.prompt, generated: &row.generated, beams: 1 };
            let mut all = row.scores.clone();
            TopK { k: 12, keep: 1 }.process(&context, &mut all);
            let kept: Vec<usize> = (0..all.len()).filter(|&id| all[id] > f32::NEG_INFINITY).collect();
            let mut few: Vec<f32> = kept.iter().map(|&id| all[id]).collect();
            decoding.filter(&context, &mut all);
            decoding.filter(&context, &mut few);
            for (&id, few) in kept.iter().zip(few) {
                let close = all[id] == few || (all[id] - few).abs() <= CLOSE * few.abs().max(1.0);
                assert!(close, "{}: {} {few}", case.settings, all[id]);
                compared += 1;
            }
        }
    }
    assert!(compared > 500);
}

#[test]
fn invalid_scores_are_replaced() {
    let mut scores = [1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 2.0];
    RemoveInvalid.process(&RowContext { prompt: &[], generated: &[], beams: 1 }, &mut scores);
    assert_eq!(scores.to_vec(), fixture().invalid_replaced);
}

/// By hand, as OpenAI's reference puts it: `logit - count·frequency - (count > 0)·presence`, over the answer alone.
#[test]
fn frequency_and_presence_count_the_answer_alone() {
    let context = RowContext { prompt: &[0, 0, 3], generated: &[1, 2, 1, 9], beams: 1 };
    let mut scores = [1.0, 1.0, -1.0, 0.0];
    FrequencyPenalty { penalty: 0.5 }.process(&context, &mut scores);
    assert_eq!(scores, [1.0, 0.0, -1.5, 0.0]);
    PresencePenalty { penalty: -0.25 }.process(&context, &mut scores);
    assert_eq!(scores, [1.0, 0.25, -1.25, 0.0]);
}

#[test]
fn allowed_tokens_alone_are_left() {
    let (free, beam) =
        (RowContext { prompt: &[], generated: &[], beams: 1 }, RowContext { prompt: &[], generated: &[], beams: 2 });
    let none = f32::NEG_INFINITY;
    let allowed = AllowedTokens::new(vec![2, 0, 2, 77]);
    let mut scores = [1.0, 2.0, 3.0, 4.0];
    allowed.process(&free, &mut scores);
    assert_eq!(scores, [1.0, none, 3.0, none]);
    // All of them forbidden: allowed again, unless other beams obey.
    let mut scores = [none, 2.0, none, 4.0];
    allowed.process(&free, &mut scores);
    assert_eq!(scores, [0.0, none, 0.0, none]);
    let mut scores = [none, 2.0, none, 4.0];
    allowed.process(&beam, &mut scores);
    assert_eq!(scores, [none; 4]);
}

#[test]
fn equal_scores_at_a_border() {
    let context = RowContext { prompt: &[], generated: &[], beams: 1 };
    let none = f32::NEG_INFINITY;
    // Top-k keeps whatever is as good as the last of the k.
    let mut scores = [3.0, 1.0, 2.0, 1.0, 0.0];
    TopK { k: 3, keep: 1 }.process(&context, &mut scores);
    assert_eq!(scores, [3.0, 1.0, 2.0, 1.0, none]);
    // Top-p sorts, and drops the lower of equal ids first.
    let mut scores = [0.0; 4];
    TopP { p: 0.6, keep: 1 }.process(&context, &mut scores);
    assert_eq!(scores, [none, 0.0, 0.0, 0.0]);
}

proptest::proptest! {
    /// Whatever the scores: something stays, what stays is unchanged, and the best stays.
    #[test]
    fn filters_keep_the_best(
        scores in proptest::collection::vec(-20.0_f32..20.0, 1..300),
        p in 0.0_f32..1.0, k in 1_usize..20, keep in 1_usize..4,
    ) {
        let context = RowContext { prompt: &[], generated: &[], beams: 1 };
        let mass = p.max(1e-3);
        let filters: [&dyn LogitsProcessor; 6] = [
            &TopK { k, keep }, &TopP { p, keep }, &MinP { p, keep }, &TopH { h: mass },
            &EpsilonCutoff { epsilon: mass, keep }, &EtaCutoff { epsilon: mass, keep },
        ];
        let best = scores.iter().copied().fold(f32::MIN, f32::max);
        for filter in filters {
            let mut filtered = scores.clone();
            filter.process(&context, &mut filtered);
            let kept = filtered.iter().filter(|s| **s > f32::NEG_INFINITY).count();
            let least = if format!("{filter:?}").starts_with("TopH") { 1 } else { keep.min(scores.len()) };
            proptest::prop_assert!(kept >= least, "{filter:?} kept {kept}");
            proptest::prop_assert!(filtered.contains(&best), "{filter:?} dropped the best");
            for (new, old) in filtered.iter().zip(&scores) {
                proptest::prop_assert!(new == old || *new == f32::NEG_INFINITY);
            }
        }
    }

    /// The set that top-p keeps is what sorting everything keeps.
    #[test]
    fn top_p_is_that_of_a_full_sort(scores in proptest::collection::vec(-9.0_f32..9.0, 1..200), p in 0.0_f32..1.0) {
        let context = RowContext { prompt: &[], generated: &[], beams: 1 };
        let mut ours = scores.clone();
        TopP { p, keep: 1 }.process(&context, &mut ours);
        let total: f64 = scores.iter().map(|&s| f64::from(s).exp()).sum();
        let mut order: Vec<usize> = (0..scores.len()).collect();
        order.sort_by(|&a, &b| scores[a].total_cmp(&scores[b]).then(a.cmp(&b)));
        let mut sum = 0.0;
        for (rank, &id) in order.iter().enumerate() {
            sum += f64::from(scores[id]).exp() / total;
            let distance = sum - (1.0 - f64::from(p));
            // At the border itself rounding decides.
            if distance.abs() > 1e-6 && rank + 1 < order.len() {
                proptest::prop_assert_eq!(ours[id] > f32::NEG_INFINITY, distance > 0.0, "{} {}", id, distance);
            }
        }
    }
}
