//! What the tests of objectives share.

use super::{Facts, Inputs, Loss, Metric, Objective, State, StepTotals, TokenLogProbs};
use burn::tensor::{Device, Tensor};
use serde_json::Value;
use std::path::Path;

/// How far a loss of f32 may be from the same formula in f64, relatively.
const SINGLE: f64 = 2e-6;
/// The same for gradients, whose comparison has the error of a central difference besides.
const GRADIENT: f64 = 2e-5;
/// How far a loss or a metric may be from the recorded one, relatively: both were computed in f32, in another order.
const RECORDED: f64 = 1e-5;
/// Numbers below this are compared as if they were this large: they are what is left of larger ones.
const LEFT_OVER: f64 = 1e-2;

/// Compares `loss` and its gradient at `at` with `plain`, the formula written down once more in f64.
pub(super) fn agrees(loss: impl Fn(Tensor<1>) -> Tensor<1>, plain: impl Fn(&[f64]) -> f64, at: &[f32]) {
    let (value, gradient) = evaluate(loss, at);
    let at: Vec<f64> = at.iter().map(|&x| f64::from(x)).collect();
    near(value, plain(&at), SINGLE, "the loss");
    for (i, found) in gradient.into_iter().enumerate() {
        /// Balances the formula's curvature against the digits that a difference loses.
        const STEP: f64 = 1e-5;
        let moved = |by: f64| {
            let mut moved = at.clone();
            moved[i] += by;
            plain(&moved)
        };
        near(found, (moved(STEP) - moved(-STEP)) / (2.0 * STEP), GRADIENT, &format!("the gradient of {i} at {at:?}"));
    }
}

/// Checks that `loss` and its gradient are finite at `at`.
pub(super) fn finite(loss: impl Fn(Tensor<1>) -> Tensor<1>, at: &[f32]) {
    let (value, gradient) = evaluate(loss, at);
    assert!(value.is_finite() && gradient.iter().all(|g| g.is_finite()), "{value}, {gradient:?} at {at:?}");
}

/// The value and the gradient of `loss`.
pub(super) fn evaluate(loss: impl Fn(Tensor<1>) -> Tensor<1>, at: &[f32]) -> (f64, Vec<f64>) {
    let leaf = Tensor::<1>::from_data(at, &Device::flex().autodiff()).require_grad();
    let value = loss(leaf.clone());
    let gradient = leaf.grad(&value.backward()).expect("the loss depends on its input").into_data_as::<f32>();
    let gradient = gradient.as_slice::<f32>().unwrap().iter().map(|&g| f64::from(g)).collect();
    (f64::from(value.into_scalar::<f32>()), gradient)
}

/// The mean called `name`.
pub(super) fn metric(metrics: &[Metric], name: &str) -> f64 {
    let metric = metrics.iter().find(|metric| metric.name == name);
    let metric = metric.unwrap_or_else(|| panic!("no metric `{name}` in {metrics:?}"));
    metric.sum / metric.weight
}

/// Fails where `found` is not the recorded number.
pub(super) fn recorded(found: f64, expected: &Value, what: &str) {
    recorded_above(LEFT_OVER, found, expected, what);
}

/// The same for what may be left of numbers as large as `least`.
fn recorded_above(least: f64, found: f64, expected: &Value, what: &str) {
    let expected = expected.as_f64().unwrap_or_else(|| panic!("{what}: nothing was recorded"));
    near_above(least, found, expected, RECORDED, what);
}

fn near(found: f64, expected: f64, tolerance: f64, what: &str) {
    near_above(LEFT_OVER, found, expected, tolerance, what);
}

fn near_above(least: f64, found: f64, expected: f64, tolerance: f64, what: &str) {
    let allowed = tolerance * expected.abs().max(least);
    assert!((found - expected).abs() <= allowed, "{what}: {found}, not {expected}");
}

/// A file of `tests/fixtures/objectives`; the scripts that write them are `tests/parity/gen/trl_*.py`.
pub(super) fn fixture(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/objectives").join(name);
    let text = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

/// A recorded list of numbers.
pub(super) fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap() as f32).collect()
}

/// A number of recorded settings, or the default.
pub(super) fn setting(case: &Value, name: &str, default: f64) -> f64 {
    case["settings"].get(name).map_or(default, |value| value.as_f64().unwrap())
}

/// A recorded judged answer: sums of log-probabilities, and means over the answer's tokens.
pub(super) struct Judged {
    desirable: bool,
    tokens: usize,
    /// Of the policy and the reference.
    sums: [f32; 2],
    /// The same with the answer of another.
    mismatched: [f32; 2],
    mean_logit: f32,
    entropy: f32,
}

/// The judged answers of a policy that is the checkpoint (`policy_plain`) or its moved copy (`policy_perturbed`).
pub(super) fn judged(sequences: &Value) -> Vec<Judged> {
    let row = |sequence: &Value| {
        let number = |part: &str, name: &str| sequence[part][name].as_f64().unwrap() as f32;
        let sums = |part| [number(part, "policy"), number(part, "reference")];
        Judged {
            desirable: sequence["label"].as_bool().unwrap(),
            tokens: sequence["own"]["ids"].as_array().unwrap().len() - number("own", "start") as usize,
            sums: sums("own"),
            mismatched: sums("mismatched"),
            mean_logit: number("own", "mean_logits"),
            entropy: number("own", "entropy"),
        }
    };
    sequences.as_array().unwrap().iter().map(row).collect()
}

/// Replaces the sums of mismatched pairs, which depend on how the records were batched.
pub(super) fn mismatch(rows: &mut [Judged], recorded: &Value) {
    let (policy, reference) = (floats(&recorded["policy"]), floats(&recorded["reference"]));
    assert_eq!((policy.len(), reference.len()), (rows.len(), rows.len()));
    rows.iter_mut().zip(policy.into_iter().zip(reference)).for_each(|(row, (p, r))| row.mismatched = [p, r]);
}

/// The loss of one micro-batch that is its whole step.
pub(super) fn of_judged<O>(objective: &O, rows: &[Judged], training: bool, state: &mut State) -> Loss
where
    O: Objective<Signal = TokenLogProbs>,
{
    let device = Device::flex();
    let per_row: Vec<usize> = rows.iter().map(|row| row.tokens).collect();
    // A row's sum lies on its first token.
    let sums = |of: &dyn Fn(&Judged) -> f32| {
        let tokens = |row: &Judged| std::iter::once(of(row)).chain(std::iter::repeat_n(0.0, row.tokens - 1));
        let values: Vec<f32> = rows.iter().flat_map(tokens).collect();
        let ids = vec![0; values.len()];
        TokenLogProbs::new(Tensor::from_data(values.as_slice(), &device), per_row.clone(), ids)
    };
    let every = |of: &dyn Fn(&Judged) -> f32| {
        let values: Vec<f32> = rows.iter().flat_map(|row| std::iter::repeat_n(of(row), row.tokens)).collect();
        Some(Tensor::from_data(values.as_slice(), &device))
    };
    let mut policy = sums(&|row| row.sums[0]);
    policy.mean_logits = every(&|row| row.mean_logit);
    policy.entropies = every(&|row| row.entropy);
    let mismatched = (sums(&|row| row.mismatched[0]), sums(&|row| row.mismatched[1]));
    let facts = |row: &Judged| Facts { desirable: Some(row.desirable), ..Facts::default() };
    let facts: Vec<Facts> = rows.iter().map(facts).collect();
    let inputs =
        Inputs { policy, reference: Some(sums(&|row| row.sums[1])), mismatched: Some(mismatched), facts: &facts };
    let step = StepTotals { examples: rows.len(), tokens: vec![per_row.iter().sum()], training };
    objective.loss(inputs, &step, state)
}

/// The loss of one desirable and one undesirable answer of one token each, a quarter of a step each: `logps` are the
/// policy's log-probabilities; the reference's are −1.5 and −0.5; the mismatched ones differ by `drift`.
pub(super) fn of_two<O>(objective: &O, logps: Tensor<1>, drift: f32) -> Tensor<1>
where
    O: Objective<Signal = TokenLogProbs>,
{
    let device = logps.device();
    let of = |values: Tensor<1>| TokenLogProbs::new(values, vec![1, 1], vec![0; 2]);
    let given = |values: [f32; 2]| of(Tensor::from_data(values.as_slice(), &device));
    let inputs = Inputs {
        policy: of(logps),
        reference: Some(given([-1.5, -0.5])),
        mismatched: Some((given([drift - 1.0, drift - 3.0]), given([-1.0, -3.0]))),
        facts: &[true, false].map(|is| Facts { desirable: Some(is), ..Facts::default() }),
    };
    let step = StepTotals { examples: 4, tokens: vec![4], training: true };
    objective.loss(inputs, &step, &mut State::default()).value
}

/// A step that TRL logged.
pub(super) struct Logged<'a> {
    /// Loss and metrics.
    pub(super) step: &'a Value,
    /// Names that mean something else there. The running count of tokens is the trainer's.
    pub(super) but: &'a [&'a str],
    /// β, where the sums were recorded in another batch than the step. Rewards are then β times what is left of sums of
    /// some hundred nats, which differ in their last bit, 8e-6: they are compared as if they were no less than β.
    pub(super) rebatched: Option<f64>,
}

/// Compares a loss and all metrics with those of a step.
pub(super) fn logged<O: Objective>(objective: &O, loss: &Loss, expected: &Logged<'_>, what: &str) {
    let Logged { step, but, rebatched } = expected;
    recorded(f64::from(loss.value.clone().into_scalar::<f32>()), &step["loss"], what);
    let mut found: Vec<(String, f64)> =
        loss.metrics.iter().map(|metric| (metric.name.to_string(), metric.sum / metric.weight)).collect();
    let value = |name: &str| loss.metrics.iter().find(|m| m.name == name).map(|m| m.sum / m.weight);
    for difference in objective.differences() {
        let parts = value(difference.of).zip(value(difference.less));
        found.extend(parts.map(|(of, less)| (difference.name.to_owned(), of - less)));
    }
    found.retain(|(name, _)| !but.contains(&name.as_str()));
    let expected = step["metrics"].as_object().unwrap();
    let expected = expected.iter().filter(|(name, _)| *name != "num_tokens" && !but.contains(&name.as_str()));
    let mut names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, expected.clone().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), "{what}");
    for (name, expected) in expected {
        let (_, found) = found.iter().find(|(known, _)| known == name).unwrap();
        let least = rebatched.filter(|_| name.starts_with("rewards/")).unwrap_or(LEFT_OVER);
        recorded_above(least, *found, expected, &format!("{name} {what}"));
    }
}
