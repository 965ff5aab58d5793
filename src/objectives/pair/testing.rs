//! Pairs with known log-probabilities, and what every loss over pairs is held to.

use crate::example::Facts;
use crate::objectives::{Inputs, Loss, Metric, Objective, State, StepTotals, TokenLogProbs};
use burn::tensor::{Device, Tensor};

/// Agreement of f32 tensors with f64 formulas, whose terms here are below 100.
const TOLERANCE: f64 = 1e-5;

/// One pair: log-probabilities of both answers under policy and reference, and their lengths.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub pw: f64,
    pub pl: f64,
    pub rw: f64,
    pub rl: f64,
    pub nw: usize,
    pub nl: usize,
    pub margin: f64,
}

impl Pair {
    pub fn a(&self) -> f64 {
        self.pw - self.rw
    }

    pub fn b(&self) -> f64 {
        self.pl - self.rl
    }

    pub fn h(&self) -> f64 {
        self.a() - self.b()
    }
}

/// A pair by its sums, one token an answer.
pub(crate) fn pair(pw: f64, pl: f64, rw: f64, rl: f64) -> Pair {
    Pair { pw, pl, rw, rl, nw: 1, nl: 1, margin: 0.0 }
}

/// A few pairs away from every kink; the order of policy and reference differs in the second.
pub(crate) fn some_pairs() -> Vec<Pair> {
    let rows = [
        (-12.5, -14.0, -13.0, -13.5, 4, 6, 0.5),
        (-30.0, -22.0, -28.0, -29.0, 9, 5, 0.25),
        (-3.0, -3.5, -3.25, -3.125, 2, 2, 1.0),
        (-18.0, -19.75, -17.0, -16.0, 7, 3, -0.5),
    ];
    rows.map(|(pw, pl, rw, rl, nw, nl, margin)| Pair { pw, pl, rw, rl, nw, nl, margin }).to_vec()
}

pub(crate) fn logistic(x: f64) -> f64 {
    (-x).max(0.0) + (-x.abs()).exp().ln_1p()
}

pub(crate) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

pub(crate) fn mean(pairs: &[Pair], f: impl Fn(&Pair) -> f64) -> f64 {
    pairs.iter().map(f).sum::<f64>() / pairs.len() as f64
}

pub(crate) fn close(found: f64, expected: f64, tolerance: f64, what: &str) {
    let error = (found - expected).abs();
    assert!(error <= tolerance * expected.abs().max(1.0), "{what}: {found}, expected {expected}");
}

/// Row by row: the whole sum at the first token, so that its gradient is that of the sum.
fn tokens(values: impl Iterator<Item = (f64, usize)>) -> (Vec<f32>, Vec<usize>, Vec<usize>) {
    let (mut flat, mut per_row, mut first) = (Vec::new(), Vec::new(), Vec::new());
    for (sum, n) in values {
        first.push(flat.len());
        flat.push(sum as f32);
        flat.resize(flat.len() + n - 1, 0.0);
        per_row.push(n);
    }
    (flat, per_row, first)
}

pub(crate) fn facts(pairs: &[Pair]) -> Vec<Facts> {
    pairs.iter().map(|pair| Facts { margin: Some(pair.margin), ..Facts::default() }).collect()
}

pub(crate) fn totals(pairs: &[Pair]) -> StepTotals {
    let tokens = [pairs.iter().map(|p| p.nw).sum(), pairs.iter().map(|p| p.nl).sum()];
    StepTotals { examples: pairs.len(), tokens: tokens.to_vec(), training: true }
}

/// Log-probabilities of both answers' rows; ids tell every token from every other.
pub(crate) fn log_probs(pairs: &[Pair], reference: bool, device: &Device) -> (TokenLogProbs, Vec<usize>) {
    let rows = pairs.iter().flat_map(|p| match reference {
        true => [(p.rw, p.nw), (p.rl, p.nl)],
        false => [(p.pw, p.nw), (p.pl, p.nl)],
    });
    let (flat, per_row, first) = tokens(rows);
    let ids = (0..flat.len() as u32).collect();
    (TokenLogProbs::new(Tensor::from_floats(flat.as_slice(), device), per_row, ids), first)
}

/// The loss of `pairs` and its gradient for the sum of every row.
pub(crate) fn run<O>(objective: &O, pairs: &[Pair], step: &StepTotals, state: &mut State) -> (Loss, Vec<f64>)
where
    O: Objective<Signal = TokenLogProbs>,
{
    let device = Device::flex();
    let (mut policy, first) = log_probs(pairs, false, &device.clone().autodiff());
    policy.values = policy.values.require_grad();
    let leaf = policy.values.clone();
    let reference = objective.compares().then(|| log_probs(pairs, true, &device).0);
    let facts = facts(pairs);
    let loss = objective.loss(Inputs { policy, reference, mismatched: None, facts: &facts }, step, state);
    let gradients = leaf.grad(&loss.value.clone().backward());
    let gradients = gradients.map_or_else(|| vec![0.0; leaf.dims()[0]], super::host_values);
    (loss, first.into_iter().map(|at| gradients[at]).collect())
}

/// The loss of recorded pairs, whose reference is there whether it is compared with or not; `prompt` has the value of each
/// token before an answer and their number in each pair.
pub(crate) fn run_recorded<O>(objective: &O, pairs: &[Pair], prompt: Option<(f64, &[usize])>) -> Loss
where
    O: Objective<Signal = TokenLogProbs>,
{
    let device = Device::flex();
    let mut policy = log_probs(pairs, false, &device).0;
    policy.prompt = prompt.map(|(value, counts)| {
        let per_row: Vec<usize> = counts.iter().flat_map(|&n| [n, n]).collect();
        (Tensor::full([per_row.iter().sum::<usize>()], value, &device), per_row)
    });
    let reference = Some(log_probs(pairs, true, &device).0);
    let facts = facts(pairs);
    let inputs = Inputs { policy, reference, mismatched: None, facts: &facts };
    objective.loss(inputs, &totals(pairs), &mut State::default())
}

pub(crate) fn value(loss: &Loss) -> f64 {
    f64::from(loss.value.clone().into_scalar::<f32>())
}

pub(crate) fn metric(metrics: &[Metric], name: &str) -> f64 {
    let found: Vec<&Metric> = metrics.iter().filter(|metric| metric.name == name).collect();
    assert_eq!(found.len(), 1, "{name} among {:?}", metrics.iter().map(|m| &m.name).collect::<Vec<_>>());
    found[0].sum / found[0].weight
}

/// The loss of one pair with one token an answer.
pub(crate) fn of<O: Objective<Signal = TokenLogProbs>>(objective: &O, pair: Pair) -> f64 {
    value(&run(objective, &[pair], &totals(&[pair]), &mut State::default()).0)
}

/// Holds an objective to a formula in f64 over the whole batch: its value, its gradient against the formula's
/// differences, its table of parameters, and finite values and gradients where log-ratios reach ±1e4.
pub(crate) fn held_to<O>(objective: &O, formula: impl Fn(&[Pair]) -> f64)
where
    O: Objective<Signal = TokenLogProbs>,
{
    crate::settings::audit::<O>().unwrap();
    objective.check().unwrap();
    agrees(objective, &some_pairs(), &formula);
    stays_finite(objective);
}

/// Value and gradient at `pairs`.
pub(crate) fn agrees<O>(objective: &O, pairs: &[Pair], formula: &impl Fn(&[Pair]) -> f64)
where
    O: Objective<Signal = TokenLogProbs>,
{
    const STEP: f64 = 1e-5;
    let (loss, gradient) = run(objective, pairs, &totals(pairs), &mut State::default());
    close(value(&loss), formula(pairs), TOLERANCE, "the loss");
    for (row, found) in gradient.into_iter().enumerate() {
        let at = |shift: f64| {
            let mut moved = pairs.to_vec();
            let pair = &mut moved[row / 2];
            *(if row % 2 == 0 { &mut pair.pw } else { &mut pair.pl }) += shift;
            formula(&moved)
        };
        let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP);
        close(found, expected, TOLERANCE, &format!("the gradient of row {row}"));
    }
}

/// Every combination of certain and impossible answers, one by one and as one batch.
pub(crate) fn stays_finite<O: Objective<Signal = TokenLogProbs>>(objective: &O) {
    let mut all = Vec::new();
    for bits in 0..16 {
        let at = |bit: u32| if bits >> bit & 1 == 1 { -1e4 } else { 0.0 };
        all.push(Pair { nw: 1 + bits % 3, nl: 2, ..pair(at(0), at(1), at(2), at(3)) });
    }
    let batches = all.iter().map(|&pair| vec![pair]).chain([all.clone()]);
    for pairs in batches {
        let (loss, gradient) = run(objective, &pairs, &totals(&pairs), &mut State::default());
        assert!(value(&loss).is_finite(), "{pairs:?}: {}", value(&loss));
        assert!(gradient.iter().all(|g| g.is_finite()), "{pairs:?}: {gradient:?}");
        let bad = loss.metrics.iter().find(|metric| !metric.sum.is_finite());
        assert!(bad.is_none(), "{pairs:?}: {bad:?}");
    }
}
