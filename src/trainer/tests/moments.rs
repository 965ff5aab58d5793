//! Moments in 8 bits and in host memory: learning with them, and checkpoints of them.

use super::model::{Small, batch, device, small, weights};
use crate::checkpoint::run as checkpoints;
use crate::nn::Moment8;
use crate::objectives::{Sft, State, StepTotals};
use crate::trainer::Train;
use crate::trainer::anchor::{Anchor, Others};
use crate::trainer::moments::{Held, Optim, Precision};
use crate::trainer::optimizer::AdamW;
use crate::trainer::state::{self, Counters, Saved};
use crate::trainer::step::Stepping;

fn settings(optim: &str) -> Train {
    Train { optim: optim.to_owned(), learning_rate: 0.01, max_grad_norm: 0.0, ..Train::default() }
}

fn adam(settings: &Train) -> AdamW {
    AdamW { optim: Optim::of(settings), ..AdamW::default() }
}

/// Steps `steps`, each on the same batch: the model and the losses.
fn train(
    mut model: Small,
    adam: &mut AdamW,
    settings: &Train,
    steps: std::ops::RangeInclusive<usize>,
) -> (Small, Vec<f64>) {
    let (sft, others, device) = (Sft::default(), Others { anchor: Anchor::None, observer: None }, device());
    let totals = StepTotals { examples: 3, tokens: batch().supervised_by_place(), training: true };
    let mut losses = Vec::new();
    for step in steps {
        let stepping = Stepping { objective: &sft, others: &others, device: &device, seed: 1, step, recompute: None };
        let found = stepping.gradients(&model, &[batch()], &totals, &mut State::default()).unwrap();
        losses.push(found.loss);
        model = adam.step(model, found.gradients, settings, 1.0, 1.0);
    }
    (model, losses)
}

#[test]
fn eight_bits_learn_as_32_do() {
    let run = |name: &str| {
        let settings = settings(name);
        let mut adam = adam(&settings);
        let losses = train(small(false), &mut adam, &settings, 1..=30).1;
        (losses, adam)
    };
    let ((full, _), (eight, adam)) = (run("adamw_torch"), run("adamw_8bit"));
    assert_eq!(full[..1], eight[..1]);
    let (start, full, eight) = (full[0], full[29], eight[29]);
    assert!(full < 0.2 * start && (eight - full).abs() < 0.02 * start, "{start} {full} {eight}");
    // A table of 160 × 32 is large enough, a norm is not.
    let held = |name: &str| &adam.moments[name].held;
    assert!(matches!(held("language_model.embed_tokens.weight"), Held::Eight { first: Moment8::Host { .. }, .. }));
    assert!(matches!(held("language_model.norm.weight"), Held::Full { .. }));
}

#[test]
fn host_memory_changes_no_bit() {
    for (device, host) in [("adamw_torch", "paged_adamw_32bit"), ("adamw_8bit", "paged_adamw_8bit")] {
        let run = |name: &str| {
            let settings = settings(name);
            train(small(false), &mut adam(&settings), &settings, 1..=3)
        };
        let ((a, a_losses), (b, b_losses)) = (run(device), run(host));
        assert_eq!((weights(&a), a_losses), (weights(&b), b_losses), "{host}");
    }
}

#[test]
fn a_checkpoint_brings_moments_back_to_the_bit() {
    for name in Optim::NAMES {
        let (settings, folder) = (settings(name), tempfile::tempdir().unwrap());
        let mut unbroken = adam(&settings);
        let (model, _) = train(small(false), &mut unbroken, &settings, 1..=2);
        let counters = Counters { step: 2, ..Counters::default() };
        state::save(folder.path(), &model, &Anchor::None, &unbroken, &counters).unwrap();
        let (expected, _) = train(model, &mut unbroken, &settings, 3..=5);

        let found = checkpoints::latest(folder.path()).unwrap().found.unwrap();
        let restored = state::restore(&found, small(false), Anchor::None, Optim::of(&settings), &device()).unwrap();
        let Saved { model, mut optimizer, .. } = restored;
        let (resumed, _) = train(model, &mut optimizer, &settings, 3..=5);
        assert_eq!(weights(&resumed), weights(&expected), "{name}");

        let other = match Optim::of(&settings).precision {
            Precision::Full => "adamw_8bit",
            Precision::Eight => "adamw_torch",
        };
        let optim = Optim::of(&Train { optim: other.to_owned(), ..settings });
        let error = state::restore(&found, small(false), Anchor::None, optim, &device()).unwrap_err().to_string();
        assert!(error.contains("train.optim") && error.contains("bits"), "{error}");
    }
}
