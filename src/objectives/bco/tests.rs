use super::super::testing::{
    Logged, agrees, evaluate, finite, fixture, judged, logged, of_judged, of_two, recorded, setting,
};
use super::*;
use crate::settings::audit;

/// TRL's are sums over padding, and its entropy is not logged.
const NOT_COMPARED: &[&str] = &["logits/chosen", "logits/rejected", "entropy"];

#[test]
fn is_the_formula_and_so_is_its_gradient() {
    for beta in [0.1, 0.5, 2.0] {
        for at in [[-1.0f32, -2.0], [-0.1, -0.2], [-3.0, -0.5]] {
            // The mean of the two rewards themselves, which passes no gradient.
            let delta = beta * (f64::from(at[0]) + 1.5 + f64::from(at[1]) + 0.5) / 2.0;
            let plain = |x: &[f64]| {
                let (r_w, r_l) = (beta * (x[0] + 1.5), beta * (x[1] + 0.5));
                ((delta - r_w).exp().ln_1p() + (r_l - delta).exp().ln_1p()) / 4.0
            };
            agrees(|logps| of_two(&Bco { beta }, logps, 0.0), plain, &at);
        }
    }
}

#[test]
fn hand_worked_values() {
    // Both rewards 0 and so is their mean: ln 2 for each, two of four.
    let (value, gradient) = evaluate(|logps| of_two(&Bco::default(), logps, 0.0), &[-1.5, -0.5]);
    assert!((value - 0.5 * 2f64.ln()).abs() < 1e-6);
    // β·½/4.
    assert!((gradient[0] + 0.0125).abs() < 1e-7 && (gradient[1] - 0.0125).abs() < 1e-7);
}

#[test]
fn stays_finite() {
    for at in [[-1e4, 0.0], [0.0, -1e4], [-1e4, -1e4]] {
        finite(|logps| of_two(&Bco { beta: 1.0 }, logps, 0.0), &at);
    }
}

#[test]
fn an_evaluation_leaves_the_mean_as_it_is() {
    let rows = judged(&fixture("objectives_unpaired.json")["policy_plain"]["sequences"]);
    let mut state = State::default();
    // Before the first step the mean is 0.
    let loss = of_judged(&Bco::default(), &rows, false, &mut state);
    assert_eq!(state, State::default());
    assert_eq!(loss.metrics.last().map(|metric| metric.sum), Some(0.0));
    of_judged(&Bco::default(), &rows[..3], true, &mut state);
    let before = state.clone();
    of_judged(&Bco::default(), &rows, false, &mut state);
    assert_eq!(state, before);
}

#[test]
fn the_numbers_of_trl() {
    audit::<Bco>().unwrap();
    let fixture = fixture("objectives_unpaired.json");
    let mut compared = 0;
    for policy in ["policy_plain", "policy_perturbed"] {
        let rows = judged(&fixture[policy]["sequences"]);
        for case in fixture[policy]["bco"].as_array().unwrap() {
            // The last case trains: its first step alone is of the recorded sums.
            let trains = setting(case, "learning_rate", 0.0) > 0.0;
            let objective = Bco { beta: setting(case, "beta", 0.1) };
            let size = setting(case, "per_device_train_batch_size", 8.0) as usize;
            let steps = case["steps"].as_array().unwrap();
            let mut state = State::default();
            for (rows, step) in rows.chunks(size).zip(steps).take(if trains { 1 } else { steps.len() }) {
                let loss = of_judged(&objective, rows, true, &mut state);
                let rebatched = (size < 8).then_some(objective.beta);
                let expected = Logged { step, but: NOT_COMPARED, rebatched };
                logged(&objective, &loss, &expected, &case["settings"].to_string());
                compared += 1;
            }
            if !trains {
                let running = &case["running_after"];
                let moments = Moments::of(&state);
                recorded(moments.mean, &running["mean"], "mean");
                recorded(moments.variance, &running["var"], "var");
                recorded(moments.count, &running["count"], "count");
            }
        }
    }
    assert_eq!(compared, 2 * (1 + 1 + 2 + 4 + 1));
}
