//! What a run needs of memory, from shapes alone: parameters, what a step adds to them, and the largest sum of what lives at
//! the same time.
//!
//! The activations are those that the fused CPU kernels keep ([`nn::flex`](crate::nn)): what several of them read is one
//! tensor and counts once. Composed operations on other devices keep more.

mod activations;
mod auto_batch;
mod available;

pub use activations::{Batch, Blocks, Hints};
pub use auto_batch::{Batching, largest};
pub use available::{available, resident};

use super::preflight::bytes;
use crate::nn::params::ParamInfo;
use crate::nn::recompute::Selection;
use crate::trainer::Optim;
use crate::vlm::Part;
use activations::layer_of;
use std::collections::BTreeMap;

/// Bytes of a value in f32.
const F32: usize = 4;

/// What is known of a run before its weights are read.
#[derive(Clone, Copy)]
pub struct Known<'a> {
    /// Every parameter, the adapter's among them.
    pub parameters: &'a [ParamInfo],
    /// Whether a step changes a parameter.
    pub trained: &'a dyn Fn(&str) -> bool,
    /// Bytes that a parameter's weights take.
    pub weight: &'a dyn Fn(&ParamInfo) -> usize,
    /// Sizes and options that parameters do not tell.
    pub hints: Hints,
    /// The largest micro-batch of training.
    pub batch: Batch,
    /// Whether several micro-batches form a step.
    pub accumulates: bool,
    /// The largest batch of an evaluation, and the tokens that an answer may have; `None` without held-out data.
    pub evaluation: Option<(Batch, usize)>,
    /// What stands beside the model that is trained.
    pub beside: OtherModels,
    /// How the optimizer holds its moments.
    pub optim: Optim,
    /// Which blocks are run again in the backward pass.
    pub recompute: Option<Selection>,
    /// Whether a block's gradients go as soon as its weights have moved.
    pub in_backward: bool,
    /// Bytes that the process has already: code, tokenizer, records.
    pub base: usize,
    /// Batches that are made ahead.
    pub queued: usize,
    /// Threads that compute.
    pub threads: usize,
}

/// Models beside the one that is trained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OtherModels {
    /// Bytes of trained weights that a reference holds as they were, or as it follows them.
    pub copied: usize,
    /// Bytes of weights of other models.
    pub others: usize,
}

/// A run's memory in bytes, by what takes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Weights of the model that is trained.
    pub weights: usize,
    /// The share of them that is frozen.
    pub frozen: usize,
    /// Weights of references and of a model that is only logged.
    pub beside: usize,
    /// Gradients of one step, all together.
    pub gradients: usize,
    /// Moments.
    pub moments: usize,
    /// What the forward pass keeps for the backward pass.
    pub activations: usize,
    /// Logits of a chunk and what belongs to them.
    pub loss: usize,
    /// What the backward pass of one block needs at a time.
    pub work: usize,
    /// What an evaluation needs besides weights and moments.
    pub evaluation: usize,
    /// Batches in the queue.
    pub data: usize,
    /// The process itself.
    pub base: usize,
    /// The most of what comes and goes within a step that lives at the same time.
    pub moving: usize,
    /// What allocator and threads hold besides.
    pub overhead: usize,
    /// The most that lives at the same time.
    pub peak: usize,
}

/// Of what comes and goes within a step the allocator holds this many hundredths more: it rounds up, and gives back late.
///
/// This and the next three were measured on two Zen 4 cores with mimalloc, over Llamas of 5M, 60M and 300M parameters, an
/// adapter or the whole model, rows of 240 to 2032 tokens: with them the plan is within 11% of the largest resident size.
const ALLOCATOR: usize = 9;

/// Of the gradients that the optimizer has let go of, the share in hundredths that is not given back when the next step's
/// activations come.
const LINGERING: usize = 50;

/// What a run adds to the process besides tensors: code that is touched, logs, buffers.
const PROCESS: usize = 24 << 20;

/// What each thread keeps for its kernels: packed operands and scratch.
const THREAD: usize = 10 << 20;

impl Known<'_> {
    fn trained(&self) -> impl Iterator<Item = &ParamInfo> {
        self.parameters.iter().filter(|p| (self.trained)(&p.name))
    }

    /// Bytes of the optimizer's moments on the device.
    fn moments(&self) -> usize {
        self.trained().map(|p| self.optim.bytes(p.len())).sum()
    }
}

/// Bytes of the gradients that live at the same time: all, or those outside of the blocks and one block's.
fn gradients(known: &Known<'_>) -> usize {
    let mut blocks = BTreeMap::<(Part, usize), usize>::new();
    let mut outside = 0;
    for parameter in known.trained() {
        match layer_of(&parameter.name).filter(|_| known.in_backward) {
            Some(layer) => *blocks.entry((Part::of(&parameter.name), layer)).or_default() += parameter.len(),
            None => outside += parameter.len(),
        }
    }
    F32 * (outside + blocks.into_values().max().unwrap_or(0))
}

impl MemoryPlan {
    /// Adds up a run.
    pub fn new(known: &Known<'_>) -> Self {
        let sum = |wanted: bool| -> usize {
            known.parameters.iter().filter(|p| (known.trained)(&p.name) == wanted).map(known.weight).sum()
        };
        let (frozen, own) = (sum(false), sum(true));
        let blocks = Blocks::of(known.parameters, known.trained, known.hints);
        let loss = blocks.loss(&known.batch);
        let mut plan = Self {
            weights: frozen + own,
            frozen,
            beside: known.beside.others + known.beside.copied,
            gradients: gradients(known),
            moments: known.moments(),
            activations: blocks.kept(&known.batch, known.recompute),
            loss: loss.chunk + loss.rows,
            work: blocks.work(&known.batch),
            evaluation: known.evaluation.map_or(0, |(batch, answer)| blocks.evaluation(&batch, answer)),
            data: (known.queued + 1) * known.batch.host_bytes(),
            base: known.base,
            moving: 0,
            overhead: 0,
            peak: 0,
        };
        // Sums over the micro-batches so far wait while the next one goes forward.
        let waiting = if known.accumulates { plan.gradients } else { 0 };
        // The head's gradient is made with the loss, while every activation is there.
        let forward = waiting + plan.activations + loss.head_gradient + plan.loss;
        let one = blocks.kept_by_one(&known.batch);
        let last = blocks.first_again(&known.batch, known.recompute);
        let early = waiting + plan.activations + last + loss.head_gradient + loss.rows + plan.work;
        let late = waiting + plan.gradients + one + plan.work;
        plan.moving = forward.max(early).max(late).max(plan.evaluation);
        plan.overhead =
            PROCESS + known.threads * THREAD + plan.moving * ALLOCATOR / 100 + plan.gradients * LINGERING / 100;
        plan.peak = plan.base + plan.data + plan.weights + plan.beside + plan.moments + plan.moving + plan.overhead;
        plan
    }

    /// What of the peak a count of allocations would find: neither the process itself nor what the allocator adds.
    pub fn live(&self) -> usize {
        self.weights + self.beside + self.moments + self.data + self.moving
    }

    /// The plan in a few lines; `room` is what there is.
    pub fn lines(&self, room: Option<usize>) -> Vec<String> {
        let of = room.map_or_else(String::new, |room| format!(" of {} available", bytes(room)));
        let mut lines = vec![format!(
            "memory: peak {}{of}: weights {}, gradients {}, moments {}, activations {} of the largest batch",
            bytes(self.peak),
            bytes(self.weights),
            bytes(self.gradients),
            bytes(self.moments),
            bytes(self.activations),
        )];
        let rest = [
            ("of the weights frozen", self.frozen),
            ("models beside it", self.beside),
            ("loss", self.loss),
            ("backward work", self.work),
            ("evaluation", self.evaluation),
            ("batches ahead", self.data),
            ("program, records, threads, allocator", self.base + self.overhead),
        ];
        let rest: Vec<String> =
            rest.iter().filter(|(_, n)| *n > 0).map(|(what, n)| format!("{what} {}", bytes(*n))).collect();
        lines.push(format!("  {}", rest.join(", ")));
        lines
    }
}
