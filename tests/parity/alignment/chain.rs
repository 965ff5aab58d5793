//! What all these checks share: the models, the batches, one step, and the comparison.

use super::super::case::{Largest, device, fixtures, load, nats};
use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use firebrick::checkpoint::read_json;
use firebrick::data::{Batch, Encoded, Example, PadSide, Padding, Place, collate_examples};
use firebrick::example::Facts;
use firebrick::models::Llama;
use firebrick::nn::params::{self, NamedMapper, NamedVisitor};
use firebrick::objectives::{Inputs, Loss, Objective, State, StepTotals, Wants};
use firebrick::projector::NoProjector;
use firebrick::recipe::VlmOf;
use firebrick::trainer::anchor::{Anchor, Split};
use firebrick::trainer::{GradientSum, Signal};
use firebrick::vision::NoVision;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// Losses below this are compared as if they were this large: the smallest of the fixtures is 0.009.
const LEAST_LOSS: f64 = 1e-2;
/// Metrics below this are compared as if they were this large: a mean of logits of order 1 that cancel, or a difference of
/// sums of a hundred nats, times β.
const LEAST_METRIC: f64 = 1e-1;

/// A language model alone.
pub type Text = VlmOf<Llama, NoVision, NoProjector>;

/// A file of `tests/fixtures/objectives`.
pub fn recorded(name: &str) -> Value {
    read_json(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/objectives").join(name)).unwrap()
}

/// The checkpoint, every parameter trained.
pub fn plain(device: &Device) -> Text {
    let dir = fixtures().join("llama_text/model");
    let model = load(&dir, &NoVision::default(), &NoProjector::default(), device).0.model;
    params::set_trainable(model, |_| true)
}

/// The checkpoint with every weight moved, every parameter trained.
pub fn moved(device: &Device) -> Text {
    let model = plain(device);
    let mut names: Vec<String> = params::list(&model).iter().map(|p| file_name(&p.name)).collect();
    names.sort();
    assert_eq!(names.len(), 21);
    params::set_trainable(params::map(model, &mut Move { names }), |_| true)
}

/// A parameter's name in the files of transformers.
pub fn file_name(parameter: &str) -> String {
    match parameter.strip_prefix("language_model.") {
        Some(head) if head.starts_with("lm_head.") => head.to_owned(),
        Some(name) => format!("model.{name}"),
        None => parameter.to_owned(),
    }
}

/// The fixtures' perturbation: `w + 0.06·u`, `u` in ±1 hashed from the weight's place in its tensor and the tensor's place
/// among all names.
struct Move {
    names: Vec<String>,
}

impl NamedMapper for Move {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let k = self.names.binary_search(&file_name(name)).unwrap();
        let (id, tensor, mapper) = param.consume();
        let (shape, device) = (tensor.dims(), tensor.device());
        let values = tensor.into_data();
        let weights = values.iter::<f32>().enumerate();
        let weights: Vec<f32> =
            weights.map(|(i, w)| (f64::from(w) + 0.06 * noise(i as u32, k as u32)) as f32).collect();
        Param::from_mapped_value(id, Tensor::from_data(TensorData::new(weights, shape), &device), mapper)
    }
}

/// murmur3's finalizer of the place, as a number from −1 to 1.
fn noise(i: u32, k: u32) -> f64 {
    let mut x = i.wrapping_add(k.wrapping_mul(0x9E37_79B9));
    x = (x ^ (x >> 16)).wrapping_mul(0x85EB_CA6B);
    x = (x ^ (x >> 13)).wrapping_mul(0xC2B2_AE35);
    x ^= x >> 16;
    2.0 * f64::from(x) / 2f64.powi(32) - 1.0
}

/// Fails where the first values or the sum of one of these weights are not the recorded ones.
pub fn check_weights<M: Module>(largest: &mut Largest, model: &M, expected: &Value) {
    struct All(BTreeMap<String, Vec<f64>>);
    impl NamedVisitor for All {
        fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            self.0.insert(file_name(name), param.val().into_data().iter::<f32>().map(f64::from).collect());
        }
    }
    let mut all = All(BTreeMap::new());
    params::visit(model, &mut all);
    for (name, expected) in expected.as_object().unwrap() {
        for (i, first) in expected["first"].as_array().unwrap().iter().enumerate() {
            largest.check(&format_args!("{name}[{i}]"), all.0[name][i], number(first), LEAST_METRIC);
        }
        let sum = number(&expected["sum"]);
        largest.check(&format_args!("the sum of {name}"), all.0[name].iter().sum(), sum, sum.abs());
    }
}

/// A row whose tokens from `start` on are learned.
pub fn answered(ids: &[u32], start: usize) -> Encoded {
    row(ids, |position| position >= start)
}

/// A recorded sequence: its tokens from `start` on are learned.
pub fn sequence(sequence: &Value) -> Encoded {
    answered(&ids(&sequence["ids"]), sequence["start"].as_u64().unwrap() as usize)
}

/// A row of which some tokens are learned.
pub fn row(ids: &[u32], learned: impl Fn(usize) -> bool) -> Encoded {
    Encoded {
        input_ids: ids.to_vec(),
        supervised: (0..ids.len()).map(learned).collect(),
        image_positions: Vec::new(),
        pixel_values: Vec::new(),
        image_size: (0, 0),
        id: String::new(),
        index: 0,
        place: Place::new(Path::new("records.json"), 1),
    }
}

/// Token ids of a recorded list.
pub fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

/// An example of one row.
pub fn single(row: Encoded, facts: Facts) -> Example {
    Example { rows: vec![row], facts }
}

/// Padded right with an id that is a real token's too.
pub fn batch(examples: &[Example]) -> Batch {
    collate_examples(examples, &Padding { token: 2, side: PadSide::Right, multiple_of: 1 })
}

/// What one optimizer step found before it moved anything.
pub struct Step {
    pub loss: f64,
    /// Before clipping.
    pub norm: f64,
    pub metrics: BTreeMap<String, f64>,
    pub gradients: GradientSum,
}

/// Loss, metrics and gradients of the micro-batches of one step, as the training loop has them; metrics as TRL joins them,
/// the mean of the micro-batches' means.
pub fn step<O: Objective<Signal: Signal>>(
    objective: &O,
    model: &Text,
    anchor: &Anchor<Text>,
    batches: &[Batch],
    state: &mut State,
) -> Step {
    let device = device().autodiff();
    let plain = device.clone().inner();
    let totals = totals(batches, true);
    let (mut gradients, mut value, mut joined) = (GradientSum::default(), 0.0, BTreeMap::<String, Vec<f64>>::new());
    for batch in batches {
        let reference = objective.compares().then(|| anchor.ask::<O::Signal>(batch, Split::Train, &plain).unwrap());
        let mismatched = batch.mismatched.as_deref().filter(|_| objective.compares_mismatched()).map(|batch| {
            let policy = O::Signal::of(&model.valid(), batch, &plain, &Wants::default());
            (policy.constant(), anchor.ask_model::<O::Signal>(batch, &plain).unwrap().constant())
        });
        let policy = O::Signal::of(model, batch, &device, &objective.wants());
        let reference = reference.flatten().map(Signal::constant);
        let inputs = Inputs { policy, reference, mismatched, facts: &batch.facts };
        let loss = objective.loss(inputs, &totals, state);
        for (name, mean) in means(objective, &loss) {
            joined.entry(name).or_default().push(mean);
        }
        value += scalar(&loss.value);
        gradients.add(model, &mut loss.value.backward());
    }
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
    let metrics = joined.into_iter().map(|(name, values)| (name, mean(values))).collect();
    Step { loss: value, norm: gradients.global_norm(), metrics, gradients }
}

/// Loss and metrics of one batch as an evaluation has them.
pub fn evaluate<O: Objective<Signal: Signal>>(
    objective: &O,
    model: &Text,
    anchor: &Anchor<Text>,
    batch: &Batch,
    state: &State,
) -> (f64, BTreeMap<String, f64>) {
    let (model, device) = (model.valid(), device());
    let ask = |model: &Text, batch: &Batch, wants: &Wants| O::Signal::of(model, batch, &device, wants);
    let mismatched = batch.mismatched.as_deref().filter(|_| objective.compares_mismatched());
    let inputs = Inputs {
        policy: ask(&model, batch, &Wants { correct: true, embedding_noise: 0.0, ..objective.wants() }),
        reference: anchor.ask(batch, Split::Eval, &device).unwrap(),
        mismatched: mismatched.map(|batch| {
            (ask(&model, batch, &Wants::default()), anchor.ask_model::<O::Signal>(batch, &device).unwrap())
        }),
        facts: &batch.facts,
    };
    let totals = totals(std::slice::from_ref(batch), false);
    let loss = objective.loss(inputs, &totals, &mut state.clone());
    (scalar(&loss.value), means(objective, &loss))
}

fn totals(batches: &[Batch], training: bool) -> StepTotals {
    let mut tokens = vec![0; batches[0].rows_per_example];
    for batch in batches {
        batch.supervised_by_place().iter().zip(&mut tokens).for_each(|(n, sum)| *sum += n);
    }
    StepTotals { examples: batches.iter().map(Batch::examples).sum(), tokens, training }
}

fn means<O: Objective>(objective: &O, loss: &Loss) -> BTreeMap<String, f64> {
    let mut found: BTreeMap<String, f64> =
        loss.metrics.iter().map(|metric| (metric.name.to_string(), metric.sum / metric.weight)).collect();
    for difference in objective.differences() {
        if let (Some(of), Some(less)) = (found.get(difference.of), found.get(difference.less)) {
            found.insert(difference.name.to_owned(), of - less);
        }
    }
    found
}

pub fn scalar(loss: &Tensor<1>) -> f64 {
    f64::from(loss.clone().into_scalar::<f32>())
}

pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// A number of recorded settings, or TRL's default.
pub fn setting(case: &Value, name: &str, default: f64) -> f64 {
    case["settings"].get(name).map_or(default, number)
}

/// The largest differences of one test.
pub struct Compared {
    losses: Largest,
    norms: Largest,
    metrics: Largest,
}

impl Compared {
    pub fn new(what: &str) -> Self {
        let largest = |kind: &str| Largest::new(format!("{what}, {kind}"), nats());
        Self { losses: largest("losses"), norms: largest("norms"), metrics: largest("metrics") }
    }

    /// Fails where a step is not what TRL logged; `but` names metrics that mean something else there.
    pub fn step(&mut self, place: &str, found: &Step, expected: &Value, but: &[&str]) {
        self.loss(place, found.loss, &expected["loss"]);
        // TRL 1.10 logged no norm of some runs.
        if let Some(norm) = expected["grad_norm"].as_f64() {
            self.norm(place, found.norm, norm);
        }
        self.metrics(place, &found.metrics, &expected["metrics"], "", but);
    }

    pub fn loss(&mut self, place: &str, found: f64, expected: &Value) {
        let expected = number(expected);
        self.losses.check(&place, found, expected, expected.abs().max(LEAST_LOSS));
    }

    pub fn norm(&mut self, place: &str, found: f64, expected: f64) {
        self.norms.check(&place, found, expected, expected);
    }

    /// Every metric that TRL logged below `prefix` must be there. The count of tokens is the trainer's, not the objective's.
    pub fn metrics(
        &mut self,
        place: &str,
        found: &BTreeMap<String, f64>,
        expected: &Value,
        prefix: &str,
        but: &[&str],
    ) {
        for (name, expected) in expected.as_object().unwrap() {
            let Some(name) = name.strip_prefix(prefix).filter(|name| !but.contains(name)) else { continue };
            if ["num_tokens", "loss"].contains(&name) {
                continue;
            }
            let found = found.get(name).unwrap_or_else(|| panic!("{place}: `{name}` is not logged"));
            let expected = number(expected);
            self.metrics.check(&format_args!("{place}, {name}"), *found, expected, expected.abs().max(LEAST_METRIC));
        }
    }
}

#[test]
fn the_reference_is_the_recorded_one() {
    assert_eq!([noise(0, 0), noise(2, 0), noise(0, 1)], [-1.0, -0.617_530_462_332_069_9, 0.146_795_160_137_116_9]);
    let mut largest = Largest::new("the moved checkpoint", nats());
    check_weights(&mut largest, &moved(&device()), &recorded("objectives_pairs.json")["reference_check"]);
}
