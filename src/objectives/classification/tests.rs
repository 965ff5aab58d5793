use super::super::testing::{agrees, finite, fixture, floats, metric};
use super::*;
use crate::settings::{Component, audit};
use burn::tensor::Device;
use serde_json::Value;

/// scikit-learn's numbers are of f64, and so are ours.
const MEASURED: f64 = 1e-12;

fn run(objective: &Classification, scores: Tensor<1>, labels: &[Label], training: bool, state: &mut State) -> Loss {
    let facts: Vec<Facts> =
        labels.iter().map(|label| Facts { label: Some(label.clone()), ..Facts::default() }).collect();
    let k = objective.num_labels().unwrap();
    let policy = SequenceScores { values: scores.reshape([labels.len(), k]) };
    let inputs = Inputs { policy, reference: None, mismatched: None, facts: &facts };
    // One row more in another micro-batch.
    let step = StepTotals { examples: labels.len() + 1, tokens: vec![0], training };
    objective.loss(inputs, &step, state)
}

fn three() -> Classification {
    Classification { num_labels: Some(3), ..Classification::default() }
}

fn classes(classes: &[usize]) -> Vec<Label> {
    classes.iter().copied().map(Label::Class).collect()
}

fn list(texts: &[&str]) -> Option<ClassWeights> {
    Some(ClassWeights::List(texts.iter().map(|text| (*text).to_owned()).collect()))
}

#[test]
fn one_class_is_the_formula_and_so_is_its_gradient() {
    let labels = [2, 0];
    for (gamma, alpha, weights) in [
        (0.0, None, [1.0; 3]),
        (2.0, None, [1.0; 3]),
        (0.5, None, [1.0; 3]),
        (0.0, list(&["0.5", "1", "3"]), [0.5, 1.0, 3.0]),
        (1.5, list(&["0.5", "1", "3"]), [0.5, 1.0, 3.0]),
    ] {
        let objective = Classification { gamma, alpha, ..three() };
        let loss = |scores| run(&objective, scores, &classes(&labels), true, &mut State::default()).value;
        let plain = |x: &[f64]| {
            let row = |scores: &[f64], class: usize| {
                let ce = weights[class] * (scores.iter().map(|s| s.exp()).sum::<f64>().ln() - scores[class]);
                (1.0 - (-ce).exp()).powf(gamma) * ce
            };
            (row(&x[..3], labels[0]) + row(&x[3..], labels[1])) / 3.0
        };
        for at in [[0.0; 6], [1.0, -1.0, 0.5, 2.0, 0.1, -3.0]] {
            agrees(loss, plain, &at);
        }
        finite(loss, &[1e4, -1e4, 0.0, 1e4, -1e4, 0.0]);
        finite(loss, &[-1e4, 0.0, 1e4, -1e4, 1e4, 1e4]);
    }
}

#[test]
fn hand_worked_values() {
    // Two equal scores: ce is ln 2 and p is a half, so that γ 2 leaves a quarter; one of two rows.
    let objective = Classification { num_labels: Some(2), gamma: 2.0, ..Classification::default() };
    let loss = run(&objective, Tensor::from([3.0, 3.0]), &classes(&[1]), true, &mut State::default());
    assert!((loss.value.into_scalar::<f32>() - std::f32::consts::LN_2 / 8.0).abs() < 1e-7);
    // A row that is right beyond doubt has neither loss nor gradient, for every γ.
    for gamma in [0.3, 1.0, 2.0] {
        let objective = Classification { gamma, ..three() };
        finite(|scores| run(&objective, scores, &classes(&[0]), true, &mut State::default()).value, &[100.0, 0.0, 0.0]);
    }
}

#[test]
fn several_classes_and_numbers_are_their_formulas() {
    let of =
        |kind: &str| Classification { num_labels: Some(2), problem_type: kind.to_owned(), ..Classification::default() };
    let at = [0.3f32, -1.2, 2.0, 0.5];
    let labels = [Label::Values(vec![1.0, 0.0]), Label::Values(vec![1.0, 1.0])];
    let objective = of(MULTI);
    let loss = |scores| run(&objective, scores, &labels, true, &mut State::default()).value;
    let not = |x: f64| (-x).exp().ln_1p();
    agrees(loss, |x| (not(x[0]) + not(-x[1]) + not(x[2]) + not(x[3])) / 6.0, &at);
    finite(loss, &[-1e4, 1e4, 1e4, -1e4]);
    let objective = of(REGRESSION);
    let labels = [Label::Values(vec![1.5, -1.0]), Label::Values(vec![0.0, 4.0])];
    let loss = |scores| run(&objective, scores, &labels, true, &mut State::default());
    let square = |x: f64| x * x;
    let plain = |x: &[f64]| (square(x[0] - 1.5) + square(x[1] + 1.0) + square(x[2]) + square(x[3] - 4.0)) / 6.0;
    agrees(|scores| loss(scores).value, plain, &at);
    finite(|scores| loss(scores).value, &[-1e4, 1e4, 1e4, -1e4]);
    let metrics = loss(Tensor::from([1.5, 0.0, 1.0, 2.0])).metrics;
    assert_eq!((metric(&metrics, "mse"), metric(&metrics, "mae")), (1.5, 1.0));
    // A class is a number where one number is wanted.
    let one = Classification { num_labels: Some(1), ..of(REGRESSION) };
    let loss = run(&one, Tensor::from([1.0]), &classes(&[3]), true, &mut State::default());
    assert_eq!(loss.value.into_scalar::<f32>(), 2.0);
}

#[test]
fn auto_weights_are_counted_once() {
    let objective = Classification { alpha: Some(ClassWeights::Text("auto".to_owned())), ..three() };
    assert!(objective.wants_facts() && !three().wants_facts());
    let facts: Vec<Facts> =
        classes(&[0, 0, 0, 2]).into_iter().map(|label| Facts { label: Some(label), ..Facts::default() }).collect();
    let mut state = State::default();
    objective.begin(&facts, &mut state);
    let weights: Vec<f64> = (0..3).map(|class| objective.weight(class, &state)).collect();
    // n/(K·count); the class without records counts as one record.
    assert_eq!(weights, [4.0 / 9.0, 4.0 / 3.0, 4.0 / 3.0]);
    let value = |objective: &Classification, state: &mut State| {
        run(objective, Tensor::from([0.0, 1.0, 0.0]), &classes(&[0]), true, state).value.into_scalar::<f32>()
    };
    let plain = value(&three(), &mut State::default());
    assert!((value(&objective, &mut state) - plain * 4.0 / 9.0).abs() < 1e-6);
    // An evaluation without a training has nothing to count.
    assert_eq!(value(&objective, &mut State::default()), plain);
    three().begin(&facts, &mut State::default());
}

#[test]
fn labels_that_cannot_be_learned_are_refused() {
    let refused = |objective: &Classification, label: Label, parts: &[&str]| {
        let error = objective.check_label(&label).unwrap_err();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    let of = |kind: &str, k| Classification { num_labels: Some(k), problem_type: kind.to_owned(), ..three() };
    refused(&three(), Label::Class(3), &["class 3", "is 3", "0 to 2", "at least 4"]);
    refused(&three(), Label::Values(vec![1.0]), &["[1.0]", "one class"]);
    refused(&of(MULTI, 2), Label::Class(1), &["class 1", "list of 2"]);
    refused(&of(MULTI, 2), Label::Values(vec![1.0]), &["1 values", "is 2"]);
    refused(&of(MULTI, 2), Label::Values(vec![1.0, 0.5]), &["0.5", "0 or 1"]);
    refused(&of(REGRESSION, 1), Label::Values(vec![f64::NAN]), &["NaN", "finite"]);
    refused(&of(REGRESSION, 2), Label::Class(1), &["class 1", "list of 2"]);
    refused(&Classification::default(), Label::Class(0), &["`num_labels` is not given"]);
    assert_eq!(three().check_label(&Label::Class(2)), Ok(()));
    assert_eq!(of(MULTI, 2).check_label(&Label::Values(vec![1.0, 0.0])), Ok(()));
    assert_eq!(of(REGRESSION, 2).check_label(&Label::Values(vec![-1.5, 7.0])), Ok(()));
    assert_eq!(of(REGRESSION, 1).check_label(&Label::Class(4)), Ok(()));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    audit::<Classification>().unwrap();
    let given = || Classification::given().set("num_labels", 2);
    let refused = |given: crate::settings::Given<Classification>, parts: &[&str]| {
        let error = given.build().unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    refused(given().set("alpha", ["1", "2", "3"]), &["3 weights", "`num_labels` is 2"]);
    refused(given().set("alpha", ["1", "much"]), &["\"much\"", "at least 0"]);
    refused(given().set("alpha", ["1", "-1"]), &["\"-1\""]);
    refused(given().set("problem_type", MULTI).set("gamma", 2.0), &["`gamma` is 2", MULTI]);
    refused(given().set("problem_type", REGRESSION).set("alpha", "auto"), &["`alpha` is given", REGRESSION]);
    refused(Classification::given().set("num_labels", 1), &["`num_labels` is 1", REGRESSION]);
    refused(Classification::given().set("num_labels", 0), &["`num_labels`"]);
    let built = given().set("alpha", "auto").build().unwrap();
    assert!(built.counts());
    assert_eq!(given().set("alpha", ["1", "2.5"]).build().unwrap().weight(1, &State::default()), 2.5);
    let head = built.head().unwrap();
    assert_eq!((head.outputs, head.bias, head.problem_type), (2, false, Some(SINGLE)));
}

#[test]
fn the_measures_of_scikit_learn() {
    let fixture = fixture("classification.json");
    for (group, kind) in [("one_class", SINGLE), ("several_classes", MULTI)] {
        for case in fixture[group].as_array().unwrap() {
            measured(case, kind);
        }
    }
}

fn measured(case: &Value, kind: &str) {
    let rows: Vec<Vec<f32>> = case["scores"].as_array().unwrap().iter().map(floats).collect();
    let label = |value: &Value| match value.as_u64() {
        Some(class) => Label::Class(class as usize),
        None => Label::Values(floats(value).into_iter().map(f64::from).collect()),
    };
    let labels: Vec<Label> = case["labels"].as_array().unwrap().iter().map(label).collect();
    let objective =
        Classification { num_labels: Some(rows[0].len()), problem_type: kind.to_owned(), ..Classification::default() };
    // In two micro-batches.
    let half = labels.len() / 2;
    let mut observations = Vec::new();
    let (mut right, mut all) = (0.0, 0.0);
    for part in [0..half, half..labels.len()].into_iter().filter(|part| !part.is_empty()) {
        let scores = Tensor::<1>::from_data(rows[part.clone()].concat().as_slice(), &Device::flex());
        let loss = run(&objective, scores, &labels[part], false, &mut State::default());
        right += loss.metrics[0].sum;
        all += loss.metrics[0].weight;
        observations.extend(loss.observations);
    }
    let mut found = objective.summarise(&observations);
    found.push(("accuracy".into(), right / all));
    let expected = case["expected"].as_object().unwrap();
    assert_eq!(found.len(), expected.len(), "{}: {found:?}, not {expected:?}", case["name"]);
    for (name, value) in found {
        let expected = expected[name.as_ref()].as_f64().unwrap();
        assert!((value - expected).abs() < MEASURED, "{}, {name}: {value}, not {expected}", case["name"]);
    }
}

#[test]
fn training_keeps_no_observations() {
    let of = |training| {
        run(&three(), Tensor::from([1.0, 0.0, 0.0]), &classes(&[0]), training, &mut State::default()).observations.len()
    };
    assert_eq!((of(true), of(false)), (0, 1));
    assert!(three().summarise(&[]).is_empty());
}
