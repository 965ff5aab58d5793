use super::super::testing::{
    Logged, agrees, evaluate, finite, fixture, judged, logged, metric, mismatch, of_judged, of_two, setting,
};
use super::*;
use crate::settings::audit;
use burn::tensor::Tensor;

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

#[test]
fn is_the_formula_and_so_is_its_gradient() {
    for (beta, w_d, w_u, drift) in [(0.1, 1.0, 1.0, 0.0), (0.5, 1.33, 0.5, 0.75), (2.0, 0.0, 2.0, -1.0)] {
        let objective = Kto { beta, desirable_weight: w_d, undesirable_weight: w_u };
        // A drift below 0 counts as none.
        let kl = f64::max(drift, 0.0);
        let plain = |x: &[f64]| {
            let (a, b) = (x[0] + 1.5, x[1] + 0.5);
            (w_d * (1.0 - sigmoid(beta * (a - kl))) + w_u * (1.0 - sigmoid(beta * (kl - b)))) / 4.0
        };
        for at in [[-1.0, -2.0], [-0.1, -0.2], [-3.0, -0.5]] {
            agrees(|logps| of_two(&objective, logps, drift as f32), plain, &at);
        }
    }
}

#[test]
fn hand_worked_values() {
    // Both answers as the reference has them, no drift: σ(0) is a half, two of the step's four answers.
    let (value, gradient) = evaluate(|logps| of_two(&Kto::default(), logps, 0.0), &[-1.5, -0.5]);
    assert!((value - 0.25).abs() < 1e-7);
    // β·σ'(0)/4 = 0.1·0.25/4, towards the desirable and away from the other.
    assert!((gradient[0] + 0.00625).abs() < 1e-8 && (gradient[1] - 0.00625).abs() < 1e-8);
}

#[test]
fn stays_finite() {
    let objective = Kto { beta: 1.0, ..Kto::default() };
    for (at, drift) in [([-1e4, 0.0], 0.0), ([0.0, -1e4], 1e4), ([-1e4, -1e4], -1e4)] {
        finite(|logps| of_two(&objective, logps, drift), &at);
    }
}

#[test]
fn the_drift_passes_no_gradient() {
    // The mismatched rows of this policy are the rows themselves: through the loss alone, the gradient is the one above.
    let through = |logps: Tensor<1>| {
        let of = |values: Tensor<1>| TokenLogProbs::new(values, vec![1, 1], vec![0; 2]);
        let reference = of(Tensor::from_data([-2.0f32, -1.0].as_slice(), &logps.device()));
        let inputs = Inputs {
            policy: of(logps.clone()),
            reference: Some(reference.clone()),
            mismatched: Some((of(logps), reference)),
            facts: &[true, false].map(|is| crate::example::Facts { desirable: Some(is), ..Default::default() }),
        };
        let step = StepTotals { examples: 2, tokens: vec![2], training: true };
        Kto::default().loss(inputs, &step, &mut State::default()).value
    };
    // Both ratios are 0.5 and so is the drift.
    let (value, gradient) = evaluate(through, &[-1.5, -0.5]);
    assert!((value - 0.5).abs() < 1e-7);
    assert!((gradient[0] + 0.0125).abs() < 1e-8 && (gradient[1] - 0.0125).abs() < 1e-8, "{gradient:?}");
}

#[test]
fn a_class_without_rows_is_not_logged() {
    let fixture = fixture("objectives_unpaired.json");
    let rows = judged(&fixture["policy_plain"]["sequences"]);
    let loss = of_judged(&Kto::default(), &rows[..1], true, &mut State::default());
    let names: Vec<&str> = loss.metrics.iter().map(|metric| metric.name.as_ref()).collect();
    assert_eq!(names, ["rewards/chosen", "logps/chosen", "logits/chosen", "entropy", "kl"]);
}

#[test]
fn the_numbers_of_trl() {
    audit::<Kto>().unwrap();
    let fixture = fixture("objectives_unpaired.json");
    let mut compared = 0;
    for policy in ["policy_plain", "policy_perturbed"] {
        let policy = &fixture[policy];
        let mut rows = judged(&policy["sequences"]);
        for case in policy["kto"].as_array().unwrap().iter().filter(|case| case["settings"]["loss_type"] == "kto") {
            let objective = Kto {
                beta: setting(case, "beta", 0.1),
                desirable_weight: setting(case, "desirable_weight", 1.0),
                undesirable_weight: setting(case, "undesirable_weight", 1.0),
            };
            let loss = of_judged(&objective, &rows, true, &mut State::default());
            let expected = Logged { step: case, but: &[], rebatched: None };
            logged(&objective, &loss, &expected, &case["settings"].to_string());
            compared += 1;
        }
        for batches in policy["kto_batches"].as_array().unwrap() {
            let size = batches["batch_size"].as_u64().unwrap() as usize;
            for (i, (rows, step)) in rows.chunks_mut(size).zip(batches["steps"].as_array().unwrap()).enumerate() {
                mismatch(rows, &step["mismatched"]);
                let loss = of_judged(&Kto::default(), rows, true, &mut State::default());
                let expected = Logged { step, but: &[], rebatched: Some(0.1) };
                logged(&Kto::default(), &loss, &expected, &format!("batch {i} of {size}"));
                compared += 1;
            }
        }
    }
    assert_eq!(compared, 2 * (5 + 2 + 3 + 4));
}

#[test]
fn evaluation_is_the_same() {
    let rows = judged(&fixture("objectives_unpaired.json")["policy_plain"]["sequences"]);
    let of = |training| of_judged(&Kto::default(), &rows, training, &mut State::default());
    assert_eq!(of(true).metrics, of(false).metrics);
    assert!(metric(&of(false).metrics, "kl") > 0.7);
}
