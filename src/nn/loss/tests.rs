//! The pass over the vocabulary against the form that holds all logits.

use super::*;
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, TensorData};

/// Largest difference from the form that holds all logits, relative to its largest element: both sum in f32, in another
/// order.
const TOLERANCE: f32 = 1e-6;

/// Deterministic values in about -1..1 that differ by `seed`.
pub(super) fn values(shape: [usize; 2], seed: usize) -> Tensor<2> {
    let value = |i: usize| {
        let hash = ((i + 1) * 2_654_435_761 + seed * 40_503 + 12_345) % 1_000_003;
        (hash * hash % 20_011) as f32 / 10_005.5 - 1.0
    };
    let data: Vec<f32> = (0..shape[0] * shape[1]).map(value).collect();
    Tensor::from_data(TensorData::new(data, shape), &Device::flex())
}

/// The same, tracked.
pub(super) fn leaf(shape: [usize; 2], seed: usize) -> Tensor<2> {
    Tensor::from_data(values(shape, seed).into_data(), &Device::flex().autodiff()).require_grad()
}

pub(super) fn vec<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().iter::<f32>().collect()
}

pub(super) fn assert_close(what: &str, found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    // Values that cancel to nothing keep the rounding of terms of about 1.
    let size = expected.iter().fold(1.0f32, |size, x| size.max(x.abs()));
    for (i, (a, e)) in found.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= TOLERANCE * size, "{what}[{i}]: {a}, not {e} (largest {size})");
    }
}

/// Seven positions.
pub(super) struct Problem {
    pub hidden: Tensor<2>,
    pub head: Tensor<2>,
    pub targets: Tensor<1, Int>,
}

pub(super) fn problem() -> Problem {
    let device = Device::flex().autodiff();
    let targets = Tensor::from_data([3i32, 0, 36, 7, 7, 20, 11], &device);
    Problem { hidden: leaf([7, 5], 1), head: leaf([37, 5], 2), targets }
}

/// Everything that a pass reads and the gradients of a sum with weights, against all logits at once.
pub(super) fn check_pass(what: &str, pass: impl Fn(Problem, Asked) -> (Tensor<1>, Aside)) {
    for weights in [Weights::Own, Weights::Equal] {
        let factors = match weights {
            Weights::Own => [0.5f32, -1.0, 2.0, 0.0, 0.25, 1.5, -0.75],
            Weights::Equal => [0.3; 7],
        };
        let factors = Tensor::<1>::from_data(factors, &Device::flex().autodiff());
        let asked = Asked { argmax: true, spread: true, weights, ..Asked::default() };
        let gradients = |problem: &Problem, values: Tensor<1>| {
            let gradients = (values * factors.clone()).sum().backward();
            [&problem.hidden, &problem.head].map(|x| vec(x.grad(&gradients).unwrap()))
        };
        let ours = problem();
        let (values, aside) = pass(problem_of(&ours), asked);
        let found = gradients(&ours, values.clone());

        let theirs = problem();
        let logs = log_softmax(theirs.hidden.clone().matmul(theirs.head.clone().transpose()), 1);
        let expected = logs.clone().gather(1, theirs.targets.clone().reshape([7, 1])).reshape([7]);
        assert_close(what, &vec(values.inner()), &vec(expected.clone().inner()));
        let expected = gradients(&theirs, expected);
        assert_close(&format!("{what}, {weights:?}, hidden states"), &found[0], &expected[0]);
        assert_close(&format!("{what}, {weights:?}, head"), &found[1], &expected[1]);

        let logs = logs.inner();
        let p = logs.clone().exp();
        let spread = aside.spread.unwrap();
        assert_close(what, &vec(spread.entropies), &vec((p.clone() * logs.clone()).sum_dim(1).neg()));
        assert_close(what, &vec(spread.collisions), &vec(p.square().sum_dim(1).log()));
        let argmax = logs.argmax(1).reshape([7]);
        assert!(aside.argmax.unwrap().equal(argmax).all().into_scalar::<bool>(), "{what}");
    }
}

fn problem_of(problem: &Problem) -> Problem {
    let Problem { hidden, head, targets } = problem;
    Problem { hidden: hidden.clone(), head: head.clone(), targets: targets.clone() }
}

#[test]
fn the_door_matches_whole_logits() {
    check_pass("the door", |problem, asked| pass(problem.hidden, problem.head, problem.targets, asked));
}

#[test]
fn what_is_read_besides_leaves_the_log_probabilities_as_they_are() {
    let Problem { hidden, head, targets } = problem();
    let plain = token_log_probs(hidden.clone(), head.clone(), targets.clone());
    let asked = Asked { argmax: true, spread: true, normalizers: true, mean_logits: true, weights: Weights::Equal };
    let readings = token_readings(hidden, head, targets, asked);
    assert_eq!(vec(readings.log_probs), vec(plain));
    assert!(readings.spread.unwrap().entropies.device().is_autodiff());
}

#[test]
fn normalizers_and_mean_logits_are_those_of_all_logits() {
    let run = |held: bool| {
        let Problem { hidden, head, targets } = problem();
        let (normalizers, means) = match held {
            true => {
                let logits = hidden.clone().matmul(head.clone().transpose());
                (logits.clone().exp().sum_dim(1).log().reshape([7]), logits.mean_dim(1).reshape([7]))
            }
            false => {
                let asked = Asked { normalizers: true, mean_logits: true, ..Asked::default() };
                let readings = token_readings(hidden.clone(), head.clone(), targets, asked);
                (readings.normalizers.unwrap(), readings.mean_logits.unwrap())
            }
        };
        let gradients = (normalizers.clone().square() + means.clone()).sum().backward();
        [vec(normalizers), vec(means), vec(hidden.grad(&gradients).unwrap()), vec(head.grad(&gradients).unwrap())]
    };
    for (found, expected) in run(false).iter().zip(&run(true)) {
        assert_close("normalizers and mean logits", found, expected);
    }
}

#[test]
fn nothing_is_an_empty_answer() {
    for rows in [None, Some(2)] {
        let Problem { head, targets, .. } = problem();
        let hidden = values([1, 5], 1).slice([0..0, 0..5]).autodiff();
        let targets = targets.slice(0..0);
        let asked = Asked { argmax: true, spread: true, ..Asked::default() };
        let (found, aside) = match rows {
            Some(rows) => chunked::token_pass(hidden, head.clone(), targets, asked, rows),
            None => pass(hidden, head.clone(), targets, asked),
        };
        assert_eq!((found.dims(), aside.argmax.unwrap().dims()), ([0], [0]));
        let gradients = found.sum().backward();
        assert!(vec(head.grad(&gradients).unwrap()).iter().all(|g| *g == 0.0));
    }
}
