use super::super::testing::{agrees, evaluate, finite, fixture, floats, metric, recorded};
use super::*;
use crate::nn::Predictor;
use crate::settings::audit;
use burn::tensor::{Device, Int, Tensor};

/// Logits as hidden states, read by a head that leaves them as they are.
fn logits(logits: Tensor<2>) -> Predictor {
    let [_, v] = logits.dims();
    let head_vd = Tensor::eye(v, &logits.device());
    Predictor { hidden_nd: logits, head_vd }
}

/// Of logits `[s, v]`, all in one row.
fn run(objective: &Gkd, student: Tensor<1>, teacher: &[f32], [s, v]: [usize; 2], total: usize) -> Loss {
    let device = student.device();
    let teacher = Tensor::<1>::from_data(teacher, &device);
    let of = |values: Tensor<1>| Distributions {
        predictor: logits(values.reshape([s, v])),
        ids: Tensor::<1, Int>::zeros([s], &device),
        per_row: vec![s],
    };
    let inputs = Inputs { policy: of(student), reference: Some(of(teacher)), mismatched: None, facts: &[] };
    let step = StepTotals { examples: 1, tokens: vec![total], training: true };
    objective.loss(inputs, &step, &mut State::default())
}

fn softmax(logits: &[f64], temperature: f64) -> Vec<f64> {
    let sum: f64 = logits.iter().map(|x| (x / temperature).exp()).sum();
    logits.iter().map(|x| (x / temperature).exp() / sum).collect()
}

fn kl(p: &[f64], q: &[f64]) -> f64 {
    p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum()
}

#[test]
fn is_the_formula_and_so_is_its_gradient() {
    let teacher = [0.5f32, -1.0, 2.0];
    for (beta, temperature) in [(0.0, 1.0), (0.3, 1.0), (0.5, 2.0), (1.0, 0.7)] {
        let objective = Gkd { beta, temperature };
        let plain = |student: &[f64]| {
            let s = softmax(student, temperature);
            let t = softmax(&teacher.map(f64::from), temperature);
            let m: Vec<f64> = s.iter().zip(&t).map(|(s, t)| beta * t + (1.0 - beta) * s).collect();
            // One of two tokens of the step.
            0.5 * match beta {
                0.0 => kl(&t, &s),
                1.0 => kl(&s, &t),
                _ => beta * kl(&t, &m) + (1.0 - beta) * kl(&s, &m),
            }
        };
        for at in [[1.0, 0.2, -0.4], [-3.0, 0.1, 1.0]] {
            agrees(|student| run(&objective, student, &teacher, [1, 3], 2).value, plain, &at);
        }
    }
}

#[test]
fn equal_distributions_have_no_loss() {
    for beta in [0.0, 0.5, 1.0] {
        let (value, gradient) = evaluate(
            |student| run(&Gkd { beta, temperature: 1.0 }, student, &[1.0, 2.0], [1, 2], 1).value,
            &[-4.0, -3.0],
        );
        assert!(value.abs() < 1e-6 && gradient.iter().all(|g| g.abs() < 1e-6), "{value} {gradient:?}");
    }
}

#[test]
fn a_coin_against_a_certainty() {
    // The teacher knows, the student does not: KL(t ‖ s) is ln 2.
    let loss = run(&Gkd { beta: 0.0, temperature: 1.0 }, Tensor::from([0.0, 0.0]), &[50.0, 0.0], [1, 2], 1);
    assert!((loss.value.into_scalar::<f32>() - std::f32::consts::LN_2).abs() < 1e-6);
    assert!((metric(&loss.metrics, "kl") - 2f64.ln()).abs() < 1e-6);
}

#[test]
fn stays_finite() {
    for beta in [0.0, 0.5, 1.0] {
        for teacher in [[1e4, -1e4], [-1e4, 1e4], [0.0, 0.0]] {
            finite(|student| run(&Gkd { beta, temperature: 1.0 }, student, &teacher, [1, 2], 1).value, &[1e4, -1e4]);
        }
    }
}

#[test]
fn agreement_counts_tokens() {
    let loss = run(&Gkd::default(), Tensor::from([1.0, 2.0, 3.0, 0.0]), &[0.0, 9.0, 0.0, 9.0], [2, 2], 2);
    assert_eq!(metric(&loss.metrics, "token_agreement"), 0.5);
    audit::<Gkd>().unwrap();
}

#[test]
fn the_divergences_of_trl() {
    let made = &fixture("supervised.json")["made_divergences"];
    let flat = |name: &str| made[name].as_array().unwrap().iter().flat_map(floats).collect::<Vec<f32>>();
    let (student, teacher) = (flat("student"), flat("teacher"));
    for case in made["cases"].as_array().unwrap() {
        let number = |name: &str| case[name].as_f64().unwrap();
        let objective = Gkd { beta: number("beta"), temperature: number("temperature") };
        let (value, gradient) = evaluate(|student| run(&objective, student, &teacher, [5, 7], 5).value, &student);
        let what = format!("beta {}, temperature {}", objective.beta, objective.temperature);
        recorded(value, &case["loss"], &what);
        let expected = case["gradient"].as_array().unwrap().iter().flat_map(|row| row.as_array().unwrap());
        assert_eq!(expected.clone().count(), gradient.len());
        gradient.iter().zip(expected).for_each(|(found, expected)| recorded(*found, expected, &what));
    }
    assert_eq!(made["cases"].as_array().unwrap().len(), 12);
}

#[test]
fn a_batch_without_answers_adds_nothing() {
    let device = Device::flex();
    let empty = || Distributions {
        predictor: logits(Tensor::zeros([0, 3], &device)),
        ids: Tensor::<1, Int>::zeros([0], &device),
        per_row: vec![0],
    };
    let inputs = Inputs { policy: empty(), reference: Some(empty()), mismatched: None, facts: &[] };
    let step = StepTotals { examples: 2, tokens: vec![5], training: true };
    let loss = Gkd::default().loss(inputs, &step, &mut State::default());
    assert_eq!((loss.value.into_scalar::<f32>(), loss.weight), (0.0, 0.0));
}
