//! Blocks that are run again, and steps in the backward walk.

use super::model::{Small, batch, device, small, tuned, weights};
use crate::adapters::{Ia3, Lora, PTuning, PrefixTuning, PromptTuning};
use crate::nn::params;
use crate::nn::recompute::{Keep, Selection};
use crate::objectives::{Sft, State, StepTotals};
use crate::trainer::anchor::{Anchor, Others};
use crate::trainer::optimizer::AdamW;
use crate::trainer::step::Stepping;
use crate::trainer::{GradientSum, Stepped, Train};
use std::collections::BTreeMap;

const EVERY_SECOND: Selection = Selection { every: 2, first: usize::MAX, keep: Keep::Device };
const FIRST: Selection = Selection { every: 1, first: 1, keep: Keep::Device };
const FIRST_AND_THIRD: Selection = Selection { every: 2, first: 3, keep: Keep::Host };
const THIRD_ON_TAPE: Selection = Selection { every: 3, first: usize::MAX, keep: Keep::Host };

fn totals() -> StepTotals {
    StepTotals { examples: 3, tokens: batch().supervised_by_place(), training: true }
}

fn stepping<'a>(
    objective: &'a Sft,
    others: &'a Others<Small>,
    device: &'a burn::tensor::Device,
    recompute: Option<Selection>,
    step: usize,
) -> Stepping<'a, Sft, Small> {
    Stepping { objective, others, device, seed: 42, step, recompute }
}

fn host(sum: &GradientSum) -> BTreeMap<String, Vec<f32>> {
    sum.iter().map(|(name, tensor)| (name.to_owned(), tensor.clone().into_data().try_to_vec().unwrap())).collect()
}

fn gradients(model: &Small, recompute: Option<Selection>, micro: usize) -> (f64, f64, BTreeMap<String, Vec<f32>>) {
    let (sft, others, device) = (Sft::default(), Others { anchor: Anchor::None, observer: None }, device());
    let batches = vec![batch(); micro];
    let found = stepping(&sft, &others, &device, recompute, 1)
        .gradients(model, &batches, &totals(), &mut State::default())
        .unwrap();
    (found.loss, found.norm, host(&found.gradients))
}

/// Loss, norm and every gradient have the same bits as without recompute, for every choice of blocks.
fn check(name: &str, model: &Small) {
    let expected = gradients(model, None, 2);
    assert!(expected.2.len() >= 5, "{name}: {} gradients", expected.2.len());
    assert_eq!(expected.2.len(), params::list_trainable(model).len() - unused(model), "{name}");
    for selection in [Selection::ALL, EVERY_SECOND, FIRST, FIRST_AND_THIRD, THIRD_ON_TAPE] {
        let found = gradients(model, Some(selection), 2);
        assert_eq!(
            (found.0.to_bits(), found.1.to_bits()),
            (expected.0.to_bits(), expected.1.to_bits()),
            "{name} {selection:?}"
        );
        for (parameter, values) in &expected.2 {
            assert_eq!(found.2.get(parameter), Some(values), "{name} {selection:?}: {parameter}");
        }
        assert_eq!(found.2.len(), expected.2.len(), "{name} {selection:?}");
    }
}

/// Parameters that are part of every tower's file and of no feature.
fn unused(model: &Small) -> usize {
    params::list_trainable(model).iter().filter(|info| info.name.contains("post_layernorm")).count()
}

#[test]
fn full_training_has_the_same_bits_run_again() {
    check("untied", &small(false));
    check("tied", &small(true));
    let frozen_below =
        params::set_trainable(small(true), |name| !name.contains("layers.0") && !name.contains("embed_tokens"));
    check("frozen at the bottom", &frozen_below);
}

#[test]
fn layers_with_adapters_have_the_same_bits_run_again() {
    let lora = Lora { lora_dropout: 0.3, ..Lora::default() };
    check("LoRA with dropout", &tuned(&lora, false));
    check("DoRA with dropout", &tuned(&Lora { use_dora: true, ..lora.clone() }, false));
    let rows =
        Lora { trainable_token_indices: serde_json::from_value(serde_json::json!(["17", "34", "5"])).unwrap(), ..lora };
    check("trained token rows", &tuned(&rows, true));
    check("IA3", &tuned(&Ia3::default(), false));
}

#[test]
fn virtual_tokens_have_the_same_bits_run_again() {
    check("prompt tuning", &tuned(&PromptTuning { num_virtual_tokens: 3, ..PromptTuning::default() }, false));
    check("P-tuning", &tuned(&PTuning { num_virtual_tokens: 3, ..PTuning::default() }, false));
    let prefix = PrefixTuning { num_virtual_tokens: 3, ..PrefixTuning::default() };
    check("prefix tuning", &tuned(&prefix, false));
    check("prefix tuning with a projection", &tuned(&PrefixTuning { prefix_projection: true, ..prefix }, false));
}

#[test]
fn dropout_is_there_and_depends_on_the_step() {
    let model = tuned(&Lora { lora_dropout: 0.3, ..Lora::default() }, false);
    let (sft, others, device) = (Sft::default(), Others { anchor: Anchor::None, observer: None }, device());
    let loss = |step: usize| {
        let stepping = stepping(&sft, &others, &device, Some(Selection::ALL), step);
        stepping.gradients(&model, &[batch()], &totals(), &mut State::default()).unwrap().loss
    };
    assert_eq!(loss(1).to_bits(), loss(1).to_bits());
    assert_ne!(loss(1), loss(2));
    let still = tuned(&Lora::default(), false);
    assert_ne!(loss(1), gradients(&still, None, 1).0);
}

/// Four steps, in the backward walk and after it, give the same weights, losses and norms.
fn check_steps(name: &str, model: &Small, settings: &Train) {
    let (sft, others, device) = (Sft::default(), Others { anchor: Anchor::None, observer: None }, device());
    let (mut usual, mut usual_adam) = (model.clone(), AdamW::default());
    let (mut walked, mut walked_adam) = (model.clone(), AdamW::default());
    let mut parts = 0;
    for step in 1..=4 {
        let ordinary = stepping(&sft, &others, &device, None, step);
        let found = ordinary.gradients(&usual, &[batch()], &totals(), &mut State::default()).unwrap();
        usual = usual_adam.step(usual, found.gradients, settings, 1.0, 1.0);
        let in_walk = stepping(&sft, &others, &device, settings.recompute(), step);
        let apply = |model, gradients: GradientSum| {
            parts += 1;
            walked_adam.step(model, gradients, settings, 1.0, 1.0)
        };
        let moved = in_walk.in_backward(walked, &batch(), &totals(), &mut State::default(), apply);
        let (model, Stepped { loss, norm, .. }) = moved.unwrap();
        walked = model;
        assert_eq!((loss.to_bits(), norm.to_bits()), (found.loss.to_bits(), found.norm.to_bits()), "{name} {step}");
        assert_eq!(weights(&walked), weights(&usual), "{name} {step}");
    }
    assert!(parts >= 4 * 5, "{name}: {parts} parts");
}

#[test]
fn steps_in_the_backward_walk_give_the_same_weights() {
    let settings = Train {
        gradient_checkpointing: true,
        optimizer_in_backward: true,
        max_grad_norm: 0.0,
        learning_rate: 0.01,
        weight_decay: 0.1,
        ..Train::default()
    };
    check_steps("full, tied", &small(true), &settings);
    check_steps("LoRA with dropout", &tuned(&Lora { lora_dropout: 0.3, ..Lora::default() }, false), &settings);
    check_steps(
        "every second",
        &small(false),
        &Train { gradient_checkpointing_every: 2, gradient_checkpointing_first: None, ..settings },
    );
}

#[test]
fn settings_that_do_not_go_together_are_refused_by_name() {
    let good =
        Train { gradient_checkpointing: true, optimizer_in_backward: true, max_grad_norm: 0.0, ..Train::default() };
    assert!(crate::settings::Component::check(&good).is_ok());
    for (settings, names) in [
        (Train { gradient_checkpointing: false, ..good.clone() }, ["optimizer_in_backward", "gradient_checkpointing"]),
        (Train { max_grad_norm: 1.0, ..good.clone() }, ["optimizer_in_backward", "max_grad_norm"]),
        (Train { gradient_accumulation_steps: 2, ..good }, ["optimizer_in_backward", "gradient_accumulation_steps"]),
        (
            Train { gradient_checkpointing_every: 2, ..Train::default() },
            ["gradient_checkpointing_every", "gradient_checkpointing"],
        ),
        (
            Train { gradient_checkpointing_offload: true, ..Train::default() },
            ["gradient_checkpointing_offload", "gradient_checkpointing"],
        ),
    ] {
        let error = crate::settings::Component::check(&settings).unwrap_err().to_string();
        assert!(names.iter().all(|name| error.contains(&format!("`{name}`"))), "{error}");
    }
    for settings in [
        Train { gradient_checkpointing: true, gradient_checkpointing_offload: true, ..Train::default() },
        Train { optim: "paged_adamw_8bit".to_owned(), ..Train::default() },
    ] {
        assert!(settings.check_device(false).is_ok());
        assert!(settings.check_device(true).unwrap_err().to_string().contains("the device is the CPU"));
    }
}
