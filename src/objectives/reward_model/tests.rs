use super::super::testing::{agrees, finite, fixture, floats, metric, recorded, setting};
use super::*;
use crate::example::Facts;
use crate::settings::audit;
use burn::tensor::Device;
use serde_json::Value;

fn inputs<'a>(scores: Tensor<1>, facts: &'a [Facts]) -> Inputs<'a, SequenceScores> {
    let rows = scores.dims()[0];
    let policy = SequenceScores { values: scores.reshape([rows, 1]) };
    Inputs { policy, reference: None, mismatched: None, facts }
}

fn step(examples: usize) -> StepTotals {
    StepTotals { examples, tokens: vec![0, 0], training: true }
}

fn facts(margins: &[f64]) -> Vec<Facts> {
    margins.iter().map(|&margin| Facts { margin: Some(margin), ..Facts::default() }).collect()
}

#[test]
fn is_the_formula_and_so_is_its_gradient() {
    for (c, m) in [(0.0, 0.0), (0.01, 0.0), (0.0, 0.3), (0.5, 0.1)] {
        let plain = |margins: [f64; 2]| {
            move |x: &[f64]| {
                let pair = |w: f64, l: f64, margin: f64| {
                    (-(w - l - margin)).exp().ln_1p() + c * (w + l) * (w + l) + m * (w * w + l * l) / 2.0
                };
                // Two of a step's three pairs.
                (pair(x[0], x[1], margins[0]) + pair(x[2], x[3], margins[1])) / 3.0
            }
        };
        let objective = RewardModel { center_rewards_coefficient: c, regularization: m };
        let loss = |scores| objective.loss(inputs(scores, &[]), &step(3), &mut State::default()).value;
        let at = [0.4, -1.0, 0.3, 2.5];
        agrees(loss, plain([0.0, 0.0]), &at);
        let objective = RewardModelMargin { center_rewards_coefficient: c, regularization: m };
        let facts = facts(&[0.7, -0.2]);
        agrees(
            |scores| objective.loss(inputs(scores, &facts), &step(3), &mut State::default()).value,
            plain([0.7, -0.2]),
            &at,
        );
        for at in [[1e4, -1e4, 0.0, 0.0], [-1e4, 1e4, 1e4, 1e4]] {
            finite(loss, &at);
        }
    }
}

#[test]
fn hand_worked_values() {
    // ln 2 for the order, 0.5·(1 + 1)² for the sum, 0.25·(1 + 1)/2 for the size.
    let objective = RewardModel { center_rewards_coefficient: 0.5, regularization: 0.25 };
    let loss = objective.loss(inputs(Tensor::from([1.0, 1.0]), &[]), &step(1), &mut State::default());
    assert!((loss.value.into_scalar::<f32>() - (std::f32::consts::LN_2 + 2.25)).abs() < 1e-6);
    // Equal scores are no order.
    assert_eq!(metric(&loss.metrics, "accuracy"), 0.0);
    audit::<RewardModel>().unwrap();
    audit::<RewardModelMargin>().unwrap();
}

#[test]
fn a_head_of_one_score_without_bias() {
    let head = RewardModel::default().head().unwrap();
    assert_eq!((head.outputs, head.bias, head.level), (1, false, Level::Sequence));
    assert_eq!(RewardModelMargin::default().head(), Some(head));
}

#[test]
fn the_numbers_of_trl() {
    let scores = fixture("objectives_scores.json");
    let records = fixture("records.json");
    let margins: Vec<f64> =
        records["pairs"].as_array().unwrap().iter().map(|pair| pair["margin"].as_f64().unwrap()).collect();
    let mut compared = 0;
    for pad in ["pad_is_unk", "pad_is_eos"] {
        let recorded_scores = &scores[format!("{pad}_scores")];
        let (chosen, rejected) = (floats(&recorded_scores["chosen"]), floats(&recorded_scores["rejected"]));
        let rows: Vec<f32> = chosen.into_iter().zip(rejected).flat_map(|(w, l)| [w, l]).collect();
        for case in scores[pad].as_array().unwrap() {
            let rows = Tensor::<1>::from_data(rows.as_slice(), &Device::flex());
            compare(case, rows, &margins);
            compared += 1;
        }
    }
    assert_eq!(compared, 8);
}

fn compare(case: &Value, rows: Tensor<1>, margins: &[f64]) {
    let center_rewards_coefficient = setting(case, "center_rewards_coefficient", 0.0);
    let (step, mut state) = (step(margins.len()), State::default());
    let loss = match case["margin"].as_bool().unwrap() {
        true => RewardModelMargin { center_rewards_coefficient, regularization: 0.0 }.loss(
            inputs(rows, &facts(margins)),
            &step,
            &mut state,
        ),
        false => {
            RewardModel { center_rewards_coefficient, regularization: 0.0 }.loss(inputs(rows, &[]), &step, &mut state)
        }
    };
    let what = case["settings"].to_string();
    recorded(f64::from(loss.value.into_scalar::<f32>()), &case["loss"], &what);
    for name in ["accuracy", "margin", "min_reward", "mean_reward", "max_reward"] {
        recorded(metric(&loss.metrics, name), &case["metrics"][name], &format!("{name} {what}"));
    }
}
