use super::super::testing::{agrees, evaluate, finite, fixture, floats, metric, recorded, setting};
use super::*;
use crate::settings::{Component, audit};
use burn::tensor::{Device, Tensor};

fn inputs(policy: TokenLogProbs) -> Inputs<'static, TokenLogProbs> {
    Inputs { policy, reference: None, mismatched: None, facts: &[] }
}

fn step(tokens: usize) -> StepTotals {
    StepTotals { examples: 1, tokens: vec![tokens], training: true }
}

fn loss(log_probs: Tensor<1>, total: usize) -> Tensor<1> {
    let n = log_probs.dims()[0];
    let policy = TokenLogProbs::new(log_probs, vec![n], vec![0; n]);
    Sft::default().loss(inputs(policy), &step(total), &mut State::default()).value
}

/// Of two tokens: their log-probabilities, normalizers and mean logits, two each.
fn of_six(objective: &Sft, six: Tensor<1>) -> Tensor<1> {
    let mut policy = TokenLogProbs::new(six.clone().narrow(0, 0, 2), vec![2], vec![0; 2]);
    policy.normalizers = Some(six.clone().narrow(0, 2, 2));
    policy.mean_logits = Some(six.narrow(0, 4, 2));
    objective.loss(inputs(policy), &step(4), &mut State::default()).value
}

fn check(values: &[f32], total: usize, expected: f32) {
    let value = loss(Tensor::<1>::from_floats(values, &Device::flex()), total);
    assert!((value.into_scalar::<f32>() - expected).abs() < 1e-6);
}

#[test]
fn hand_worked_values() {
    check(&[-1.0, -3.0], 2, 2.0);
    // Half of a step's tokens contribute half of its loss.
    check(&[-1.0, -3.0], 4, 1.0);
    check(&[-80.0], 1, 80.0);
}

#[test]
fn the_gradient_is_minus_one_over_the_steps_tokens() {
    let log_probs = Tensor::<1>::from_floats([-1.0, -2.0], &Device::flex().autodiff()).require_grad();
    let gradient = log_probs.grad(&loss(log_probs.clone(), 4).backward()).unwrap().into_data_as::<f32>();
    assert_eq!(gradient.as_slice::<f32>().unwrap(), &[-0.25, -0.25]);
}

#[test]
fn an_empty_batch_has_a_loss_of_nothing() {
    let empty = Tensor::<1>::zeros([0], &Device::flex());
    assert_eq!(loss(empty, 3).into_scalar::<f32>(), 0.0);
}

#[test]
fn options_are_their_formulas() {
    let at = [-1.5, -0.2, 3.0, -2.0, 0.4, -5.0];
    for (label_smoothing, z_loss) in [(0.1, 0.0), (0.0, 0.3), (0.4, 0.01)] {
        let objective = Sft { label_smoothing, z_loss, ..Sft::default() };
        let plain = |x: &[f64]| {
            let token = |i: usize| {
                let spread = x[2 + i] - x[4 + i];
                -(1.0 - label_smoothing) * x[i] + label_smoothing * spread + z_loss * x[2 + i] * x[2 + i]
            };
            (token(0) + token(1)) / 4.0
        };
        agrees(|six| of_six(&objective, six), plain, &at);
        finite(|six| of_six(&objective, six), &[-1e4, 1e4, 1e4, -1e4, -1e4, 1e4]);
    }
}

#[test]
fn dft_weighs_by_a_probability_that_passes_no_gradient() {
    let objective = Sft { dft: true, ..Sft::default() };
    let run = |values: Tensor<1>| {
        let policy = TokenLogProbs::new(values, vec![2], vec![0; 2]);
        objective.loss(inputs(policy), &step(2), &mut State::default()).value
    };
    let (value, gradient) = evaluate(run, &[0.5f32.ln(), 0.25f32.ln()]);
    // −½·(½ ln ½ + ¼ ln ¼), and of each token −p/2.
    assert!((value - 0.5 * 2f64.ln()).abs() < 1e-6);
    assert!((gradient[0] + 0.25).abs() < 1e-6 && (gradient[1] + 0.125).abs() < 1e-6);
    finite(run, &[-1e4, 0.0]);
}

#[test]
fn the_losses_of_trl() {
    let fixture = fixture("supervised.json");
    let tokens = &fixture["learned_tokens_answers"];
    let column = |name: &str| Tensor::<1>::from_data(floats(&tokens[name]).as_slice(), &Device::flex());
    let of_list = |name: &str| tokens[name].as_array().unwrap().iter().map(|n| n.as_u64().unwrap());
    let per_row: Vec<usize> = of_list("per_row").map(|n| n as usize).collect();
    let total = per_row.iter().sum();
    let mut policy = TokenLogProbs::new(column("log_probs"), per_row, of_list("ids").map(|id| id as u32).collect());
    policy.normalizers = Some(column("normalizers"));
    policy.mean_logits = Some(column("mean_logits"));
    policy.entropies = Some(column("entropies"));
    policy.correct = Some(tokens["correct"].as_array().unwrap().iter().map(|is| is.as_bool().unwrap()).collect());
    let mut compared = 0;
    for case in fixture["sft"].as_array().unwrap() {
        let settings = &case["settings"];
        if settings["assistant_only_loss"] != true {
            continue;
        }
        let dft = settings["loss_type"] == "dft";
        let label_smoothing = if dft { 0.0 } else { setting(case, "label_smoothing_factor", 0.0) };
        let objective = Sft { label_smoothing, dft, token_metrics: true, ..Sft::default() };
        let loss = objective.loss(inputs(policy.clone()), &step(total), &mut State::default());
        recorded(f64::from(loss.value.into_scalar::<f32>()), &case["loss"], &settings.to_string());
        for name in ["mean_token_accuracy", "entropy"] {
            // Where batches were accumulated, TRL averages their means.
            if settings.get("gradient_accumulation_steps").is_none() {
                recorded(metric(&loss.metrics, name), &case["metrics"][name], name);
            }
        }
        compared += 1;
    }
    assert_eq!(compared, 6);
}

#[test]
fn nothing_is_asked_for_that_is_not_used() {
    audit::<Sft>().unwrap();
    assert_eq!(Sft::default().wants(), Wants { weights: Weights::Equal, ..Wants::default() });
    let smoothed = Sft { label_smoothing: 0.1, ..Sft::default() }.wants();
    assert!(smoothed.normalizers && smoothed.mean_logits && !smoothed.entropies && !smoothed.correct);
    let z_loss = Sft { z_loss: 1e-4, ..Sft::default() }.wants();
    assert!(z_loss.normalizers && !z_loss.mean_logits);
    // A token's weight depends on what the model says of it.
    let dft = Sft { dft: true, ..Sft::default() }.wants();
    assert_eq!([smoothed, z_loss, dft].map(|wants| wants.weights), [Weights::Equal, Weights::Own, Weights::Own]);
    assert_eq!(Sft { neftune_noise_alpha: 5.0, ..Sft::default() }.wants().embedding_noise, 5.0);
    let error = Sft::given().set("dft", true).set("label_smoothing", 0.1).build().unwrap_err().to_string();
    assert!(error.contains("0.1") && error.contains("`dft`"), "{error}");
}
