use super::super::pair_testing::{
    Pair, agrees, close, held_to, log_probs, logistic, mean, metric, of, pair, run, some_pairs, totals, value,
};
use super::super::{Divergence, Inputs, Objective, StepTotals, TokenLogProbs, Wants};
use super::*;
use burn::tensor::Device;

#[test]
fn value_gradient_and_extremes() {
    held_to(&Dpo::default(), |pairs| mean(pairs, |p| logistic(0.1 * p.h())));
    let smoothed = Dpo { beta: 0.5, label_smoothing: 0.25, ..Dpo::default() };
    held_to(&smoothed, |pairs| mean(pairs, |p| 0.75 * logistic(0.5 * p.h()) + 0.25 * logistic(-0.5 * p.h())));
    // h = 0: log 2; h = 20 at β = 0.1: −log σ(2).
    close(of(&Dpo::default(), pair(-1.0, -1.0, -1.0, -1.0)), std::f64::consts::LN_2, 1e-6, "no difference");
    close(of(&Dpo::default(), pair(-1.0, -21.0, -1.0, -1.0)), 0.126_928_01, 1e-6, "twenty nats apart");
}

#[test]
fn divergences_stand_in_for_the_log_ratio() {
    type Score = fn(f64) -> f64;
    let scores: [(Divergence, Option<f64>, Score); 6] = [
        (Divergence::ForwardKl, None, |x| 1.0 - (-x).exp()),
        (Divergence::JsDivergence, None, |x| std::f64::consts::LN_2 - logistic(x)),
        (Divergence::AlphaDivergence, None, |x| ((-0.5 * x).exp() - 1.0) / -0.5),
        (Divergence::AlphaDivergence, Some(2.0), |x| x.exp() - 1.0),
        // The limit α = 1 is the reverse divergence, not 0/0.
        (Divergence::AlphaDivergence, Some(1.0), |x| x),
        (Divergence::ReverseKl, None, |x| x),
    ];
    for (f_divergence_type, f_alpha_divergence_coef, score) in scores {
        let objective = Dpo { f_divergence_type, f_alpha_divergence_coef, ..Dpo::default() };
        held_to(&objective, |pairs| mean(pairs, |p| logistic(0.1 * (score(p.a()) - score(p.b())))));
    }
    let error = Dpo::builder().f_alpha_divergence_coef(Some(2.0)).build().unwrap_err();
    assert!(error.to_string().contains("only the divergence `alpha_divergence` reads it"), "{error}");
}

#[test]
fn means_instead_of_sums() {
    let objective = Dpo { average_log_prob: true, beta: 2.0, ..Dpo::default() };
    let h = |p: &Pair| p.a() / p.nw as f64 - p.b() / p.nl as f64;
    held_to(&objective, |pairs| mean(pairs, |p| logistic(2.0 * h(p))));
    // What is logged is what was compared.
    let pairs = some_pairs();
    let metrics = run(&objective, &pairs, &totals(&pairs), &mut State::default()).0.metrics;
    close(metric(&metrics, "rewards/margins"), mean(&pairs, |p| 2.0 * h(p)), 1e-5, "margins");
    close(metric(&metrics, "logps/chosen"), mean(&pairs, |p| p.pw / p.nw as f64), 1e-5, "logps");
}

/// Chosen answer of three tokens, rejected one of two.
fn uneven() -> (TokenLogProbs, TokenLogProbs) {
    let device = Device::flex();
    let tokens =
        |values: [f32; 5]| TokenLogProbs::new(Tensor::from_floats(values, &device), vec![3, 2], (0..5).collect());
    (tokens([-1.0, -2.0, -4.0, -0.5, -3.0]), tokens([-1.5, -2.0, -2.0, -1.0, -2.0]))
}

#[test]
fn ld_alpha_weighs_the_tokens_beyond_the_shorter_answer() {
    for (alpha, chosen, reference) in [(0.0, -3.0, -3.5), (0.5, -5.0, -4.5), (1.0, -7.0, -5.5)] {
        let objective = Dpo { ld_alpha: Some(alpha), ..Dpo::default() };
        let (policy, frozen) = uneven();
        let inputs = Inputs { policy, reference: Some(frozen), mismatched: None, facts: &[] };
        let step = StepTotals { examples: 1, tokens: vec![3, 2], training: true };
        let loss = objective.loss(inputs, &step, &mut State::default());
        // The rejected answer has no such token: −3.5 and −3.
        let h = (chosen - reference) - (-3.5 + 3.0);
        close(value(&loss), logistic(0.1 * h), 1e-6, "the loss");
        close(metric(&loss.metrics, "logps/chosen"), chosen, 1e-6, "the reweighted sum is logged");
        close(metric(&loss.metrics, "rewards/margins"), 0.1 * h, 1e-6, "the reward is of the reweighted sums");
    }
}

#[test]
fn weights_are_the_likelihood_of_both_answers() {
    let objective = Dpo { use_weighting: true, ..Dpo::default() };
    assert!(objective.wants().collisions && !Dpo::default().wants().collisions);
    let (mut policy, frozen) = uneven();
    policy.collisions = Some(Tensor::from_floats([-0.5, -1.0, -2.5, -0.5, -1.0], &Device::flex()));
    let inputs = Inputs { policy, reference: Some(frozen), mismatched: None, facts: &[] };
    let step = StepTotals { examples: 1, tokens: vec![3, 2], training: true };
    let loss = objective.loss(inputs, &step, &mut State::default());
    // Mean over the tokens of log p − log Σp²: (−0.5 − 1 − 1.5)/3 = −1 and (0 − 2)/2 = −1.
    close(value(&loss), (-2.0_f64).exp() * logistic(-0.1), 1e-6, "the weighted loss");
    close(metric(&loss.metrics, "rewards/margins"), -0.1, 1e-6, "rewards are not weighted");
}

#[test]
fn metrics_are_trl_s_and_turbo_alignment_s() {
    let device = Device::flex();
    let pairs = [pair(-1.0, -2.0, -3.0, -2.5), Pair { nw: 2, ..pair(-4.0, -2.0, -1.0, -2.0) }];
    let mut policy = log_probs(&pairs, false, &device).0;
    policy.mean_logits = Some(Tensor::from_floats([1.0, 2.0, 3.0, 6.0, 4.0], &device));
    policy.entropies = Some(Tensor::from_floats([0.5, 1.0, 1.5, 2.0, 2.5], &device));
    policy.correct = Some(vec![true, true, false, false, true]);
    let reference = Some(log_probs(&pairs, true, &device).0);
    let inputs = Inputs { policy, reference, mismatched: None, facts: &[] };
    let metrics = Dpo::default().loss(inputs, &totals(&pairs), &mut State::default()).metrics;
    // a = 2, b = 0.5; a = −3, b = 0.
    let grad = |margin: f64| 0.1 / (1.0 + margin.exp());
    for (name, expected) in [
        ("rewards/chosen", -0.05),
        ("rewards/rejected", 0.025),
        ("rewards/margins", -0.075),
        ("rewards/accuracies", 0.5),
        ("rewards/grad_term", 0.5 * (grad(0.15) + grad(-0.3))),
        ("logps/chosen", -2.5),
        ("logps/rejected", -2.0),
        ("logps/ref_chosen", -2.0),
        ("logps/ref_rejected", -2.25),
        // The reference prefers the rejected answer of the first pair, the policy that of the second.
        ("flips/correct->correct", 0.0),
        ("flips/correct->incorrect", 0.5),
        ("flips/incorrect->correct", 0.5),
        ("flips/incorrect->incorrect", 0.0),
        // Over tokens, not over answers: (1 + 3 + 6)/3 and (2 + 4)/2.
        ("logits/chosen", 10.0 / 3.0),
        ("logits/rejected", 3.0),
        ("entropy", 1.5),
        // The chosen answers' tokens alone: one of three.
        ("mean_token_accuracy", 1.0 / 3.0),
    ] {
        close(metric(&metrics, name), expected, 1e-6, name);
    }
    assert_eq!(metrics.len(), 17);
    let wants = Wants { mean_logits: true, entropies: true, correct: true, ..Wants::default() };
    assert_eq!(Dpo::default().wants(), wants);
}

#[test]
fn halves_of_a_step_add_up_to_the_whole() {
    let pairs = some_pairs();
    let step = totals(&pairs);
    let (whole, gradient) = run(&Dpo::default(), &pairs, &step, &mut State::default());
    let (first, second) = (&pairs[..1], &pairs[1..]);
    let (one, of_one) = run(&Dpo::default(), first, &step, &mut State::default());
    let (three, of_three) = run(&Dpo::default(), second, &step, &mut State::default());
    close(value(&one) + value(&three), value(&whole), 1e-6, "the loss");
    assert_eq!((one.weight, three.weight, whole.weight), (1.0, 3.0, 4.0));
    for (found, expected) in of_one.iter().chain(&of_three).zip(&gradient) {
        close(*found, *expected, 1e-7, "the gradient");
    }
    agrees(&Dpo::default(), &pairs, &|pairs: &[Pair]| mean(pairs, |p| logistic(0.1 * p.h())));
}

#[test]
fn an_empty_batch_is_worth_nothing() {
    let (loss, gradient) = run(&Dpo::default(), &[], &totals(&some_pairs()), &mut State::default());
    assert_eq!((value(&loss), loss.weight, loss.metrics.len(), gradient.len()), (0.0, 0.0, 0, 0));
}
