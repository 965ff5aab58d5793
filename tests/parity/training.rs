//! Gradients, and eight steps of the optimizer that the training loop uses.

use super::case::{Case, GRADIENT, Largest, device, every_case, nats};
use burn::module::{Module, Param};
use burn::tensor::{Gradients, Tensor};
use firebrick::data::{Batch, PadSide};
use firebrick::models::Llama;
use firebrick::nn::params::{self, NamedVisitor};
use firebrick::objectives::{Inputs, Objective, Sft, State, StepTotals, Wants};
use firebrick::projector::Projector;
use firebrick::recipe::VlmOf;
use firebrick::trainer::{AdamW, GradientSum, Policy, Train};
use firebrick::vision::VisionEncoder;
use serde_json::Value;
use std::collections::BTreeMap;

/// Below this a gradient is rounding: a constant added to every key leaves the softmax alone, so the gradient of a
/// `k_proj.bias` is zero but for its last bits.
const ROUNDING: f64 = 1e-6;

/// What is trained.
#[derive(Clone, Copy, PartialEq)]
enum Tower {
    Frozen,
    Trained,
}

mod gradients {
    super::every_case!(super::gradients, super::device().autodiff());
}

fn gradients<V: VisionEncoder, P: Projector>(case: &Case<V, P>) {
    let reference = &case.reference.json;
    let full = case.reference.tensors("grad.");
    let (tower, rest): (Vec<_>, Vec<_>) = full.into_iter().partition(|(name, _)| name.contains("vision_tower."));
    check_gradients(case, Tower::Frozen, &reference["gradients"], &rest);
    if let Some(expected) = reference.get("gradients_with_tower") {
        check_gradients(case, Tower::Trained, expected, &tower);
    }
}

fn check_gradients<V: VisionEncoder, P: Projector>(
    case: &Case<V, P>,
    tower: Tower,
    expected: &Value,
    full: &[(String, Vec<f32>)],
) {
    let mut largest = Largest::new(format!("{}, gradients", case.reference.name), GRADIENT);
    let model = trained(case, tower);
    let batch = case.batch(PadSide::Right);
    let mut computed = loss(&model, &batch, case).backward();
    for (name, values) in full {
        let found = gradient(&model, &computed, &|parameter| case.reference_name(parameter) == *name);
        let norm = values.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
        largest.check_all(name, &found.unwrap_or_else(|| panic!("{name} has no gradient")), values, norm);
    }
    let mut sum = GradientSum::default();
    sum.add(&model, &mut computed);
    largest.check(&"global norm", sum.global_norm(), number(&expected["grad_norm"]), number(&expected["grad_norm"]));
    let norms: BTreeMap<String, f64> =
        sum.norm_by_parameter().into_iter().map(|(name, norm)| (case.reference_name(&name), norm)).collect();
    let expected = expected["grad_norms"].as_object().unwrap();
    let mut names: Vec<&String> = expected.keys().collect();
    names.sort();
    assert_eq!(norms.keys().collect::<Vec<_>>(), names, "{}", case.reference.name);
    for (name, norm) in expected {
        let norm = number(norm);
        largest.check(name, norms[name], norm, norm.max(ROUNDING / GRADIENT));
    }
}

mod trajectory {
    super::every_case!(super::trajectory, super::device().autodiff());
}

/// Eight steps whose losses and norms (before clipping) the reference has.
fn trajectory<V: VisionEncoder, P: Projector>(case: &Case<V, P>) {
    let mut losses = Largest::new(format!("{}, losses of 8 steps", case.reference.name), nats());
    let mut norms = Largest::new(format!("{}, norms of 8 steps", case.reference.name), nats());
    let (given, expected) = (&case.reference.json["trajectory_settings"], &case.reference.json["trajectory"]);
    let settings = Train {
        learning_rate: number(&given["learning_rate"]),
        adam_beta1: number(&given["betas"][0]),
        adam_beta2: number(&given["betas"][1]),
        adam_epsilon: number(&given["eps"]),
        weight_decay: number(&given["weight_decay"]),
        max_grad_norm: number(&given["max_grad_norm"]),
        ..Train::default()
    };
    let batch = case.batch(PadSide::Right);
    let mut model = trained(case, Tower::Frozen);
    let mut adam = AdamW::default();
    for step in 0..given["steps"].as_u64().unwrap() as usize {
        let value = loss(&model, &batch, case);
        losses.check(&step, scalar(&value), number(&expected["losses"][step]), 1.0);
        let mut sum = GradientSum::default();
        sum.add(&model, &mut value.backward());
        let norm = sum.global_norm();
        let wanted = number(&expected["grad_norms"][step]);
        norms.check(&step, norm, wanted, wanted);
        let clip = (settings.max_grad_norm / (norm + 1e-6)).min(1.0);
        model = adam.step(model, sum, &settings, 1.0, clip);
    }
    losses.check(&"last", scalar(&loss(&model, &batch, case)), number(&expected["final_loss"]), 1.0);
}

/// The model with what the reference trains: the adapter and the projector where the file has it, or all but the tower.
fn trained<V: VisionEncoder, P: Projector>(case: &Case<V, P>, tower: Tower) -> VlmOf<Llama, V, P> {
    let model = case.loaded.model.clone();
    match &case.adapter {
        None => params::set_trainable(model, |name| tower == Tower::Trained || !name.starts_with("vision_tower.")),
        Some(lora) => {
            let projector = !lora.modules_to_save.is_empty();
            params::set_trainable(model, |name| {
                name.contains(".adapter.") || (projector && name.starts_with("multi_modal_projector."))
            })
        }
    }
}

fn loss<V: VisionEncoder, P: Projector>(model: &VlmOf<Llama, V, P>, batch: &Batch, case: &Case<V, P>) -> Tensor<1> {
    let step = StepTotals { examples: batch.rows, tokens: batch.supervised_by_place(), training: true };
    let policy = Policy::log_probs(model, batch, &case.device, &Wants::default());
    let inputs = Inputs { policy, reference: None, mismatched: None, facts: &batch.facts };
    Sft::default().loss(inputs, &step, &mut State::default()).value
}

fn scalar(loss: &Tensor<1>) -> f64 {
    f64::from(loss.clone().into_scalar::<f32>())
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// The gradient of the parameter that `wanted` picks; it stays in `gradients`.
fn gradient<M: Module>(model: &M, gradients: &Gradients, wanted: &dyn Fn(&str) -> bool) -> Option<Vec<f32>> {
    struct Find<'a> {
        gradients: &'a Gradients,
        wanted: &'a dyn Fn(&str) -> bool,
        found: Option<Vec<f32>>,
    }
    impl NamedVisitor for Find<'_> {
        fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            if (self.wanted)(name) {
                self.found = param.val().grad(self.gradients).map(|g| g.into_data().iter::<f32>().collect());
            }
        }
    }
    let mut find = Find { gradients, wanted, found: None };
    params::visit(model, &mut find);
    find.found
}
