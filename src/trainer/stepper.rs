//! One optimizer step by itself: the training loop's own, also for benches and for programs with a loop of their own.

use super::Train;
use super::anchor::{Anchor, Others};
use super::moments::Optim;
use super::optimizer::AdamW;
use super::policy::{Policy, Signal};
use super::run::TrainError;
use super::step::Stepping;
use crate::data::Batch;
use crate::objectives::{Metric, Objective, State, StepTotals};
use burn::tensor::Device;

/// A model on its way and all that moves with it; batches come from outside.
#[derive(Debug)]
pub struct Stepper<O, P> {
    /// The loss.
    pub objective: O,
    /// The settings: rates, clipping, seed.
    pub settings: Train,
    /// The device, with gradients.
    pub device: Device,
    /// The model.
    pub model: P,
    /// The reference, and a model that is only logged.
    pub others: Others<P>,
    /// The moments.
    pub optimizer: AdamW,
    /// What the objective carries from step to step.
    pub state: State,
    /// Steps made.
    pub done: usize,
}

/// What a step found.
#[derive(Clone, Debug, PartialEq)]
pub struct Stepped {
    /// The loss of all micro-batches together.
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub norm: f64,
    /// What is logged besides.
    pub metrics: Vec<Metric>,
}

impl<O: Objective<Signal: Signal>, P: Policy> Stepper<O, P> {
    /// Before the first step.
    pub fn new(objective: O, settings: Train, model: P, others: Others<P>, device: Device) -> Self {
        #[cfg(feature = "cpu")]
        if crate::nn::is_flex(&device) {
            crate::device::keep_freed_memory();
        }
        let optim = Optim::of(&settings);
        let optimizer = AdamW { optim, rate_groups: model.rate_groups(), ..AdamW::default() };
        Self { objective, settings, device, model, others, optimizer, state: State::default(), done: 0 }
    }

    /// One step over micro-batches, which `totals` counts, at `factor` times the learning rate.
    ///
    /// # Errors
    /// [`TrainError::Loss`] or [`TrainError::Gradient`] where something is not finite; [`TrainError::Stored`]. The model is
    /// lost with them.
    pub fn step(mut self, batches: &[Batch], totals: &StepTotals, factor: f64) -> Result<(Self, Stepped), TrainError> {
        let step = self.done + 1;
        let stepping = Stepping {
            objective: &self.objective,
            others: &self.others,
            device: &self.device,
            seed: self.settings.seed,
            step,
            recompute: self.settings.recompute(),
        };
        let moving = Moving { settings: &self.settings, optimizer: &mut self.optimizer, factor };
        let (model, found) = moving.update(&stepping, self.model, batches, totals, &mut self.state)?;
        let anchor = std::mem::replace(&mut self.others.anchor, Anchor::None);
        self.others.anchor = anchor.follow(&model, step);
        Ok((Self { model, done: step, ..self }, found))
    }
}

/// What moves weights by gradients.
pub(super) struct Moving<'a> {
    pub settings: &'a Train,
    pub optimizer: &'a mut AdamW,
    /// The schedule's.
    pub factor: f64,
}

impl Moving<'_> {
    /// The model after one step.
    ///
    /// # Errors
    /// As [`Stepper::step`].
    pub fn update<O: Objective<Signal: Signal>, P: Policy>(
        self,
        stepping: &Stepping<'_, O, P>,
        model: P,
        batches: &[Batch],
        totals: &StepTotals,
        state: &mut State,
    ) -> Result<(P, Stepped), TrainError> {
        let Self { settings, optimizer, factor } = self;
        if let (true, [batch]) = (settings.optimizer_in_backward, batches) {
            let apply = |model, gradients| optimizer.step(model, gradients, settings, factor, 1.0);
            return stepping.in_backward(model, batch, totals, state, apply);
        }
        let found = stepping.gradients(&model, batches, totals, state)?;
        let clip = match settings.max_grad_norm {
            0.0 => 1.0,
            max => (max / (found.norm + 1e-6)).min(1.0),
        };
        let model = optimizer.step(model, found.gradients, settings, factor, clip);
        Ok((model, Stepped { loss: found.loss, norm: found.norm, metrics: found.metrics }))
    }
}
