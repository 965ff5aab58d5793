//! The gradients of one optimizer step.

use super::anchor::{Others, Split};
use super::optimizer::GradientSum;
use super::policy::{Policy, Signal};
use super::run::TrainError;
use crate::data::Batch;
use crate::example::Shape;
use crate::nn::recompute::{Recorded, Selection, record};
use crate::nn::seed_dropout;
use crate::objectives::{Inputs, Metric, Objective, State, StepTotals};
use burn::tensor::{Device, Tensor};

/// What a step is made with.
pub(super) struct Stepping<'a, O, P> {
    pub objective: &'a O,
    pub others: &'a Others<P>,
    /// With gradients.
    pub device: &'a Device,
    pub seed: u64,
    pub step: usize,
    /// Which blocks are run again.
    pub recompute: Option<Selection>,
}

/// The forward pass of one micro-batch.
pub(super) struct Forward {
    pub loss: Tensor<1>,
    pub metrics: Vec<Metric>,
    pub recorded: Recorded,
}

/// What a step found.
pub(super) struct Found {
    pub loss: f64,
    /// Global gradient norm before clipping.
    pub norm: f64,
    pub gradients: GradientSum,
    pub metrics: Vec<Metric>,
}

impl<O: Objective<Signal: Signal>, P: Policy> Stepping<'_, O, P> {
    /// Loss, metrics and gradients of all micro-batches together.
    ///
    /// # Errors
    /// [`TrainError::Loss`] or [`TrainError::Gradient`] where something is not finite; [`TrainError::Stored`].
    pub fn gradients(
        &self,
        model: &P,
        batches: &[Batch],
        totals: &StepTotals,
        state: &mut State,
    ) -> Result<Found, TrainError> {
        let mut gradients = GradientSum::default();
        let mut metrics = Vec::new();
        let mut loss: Option<Tensor<1>> = None;
        for (number, batch) in batches.iter().enumerate() {
            let forward = self.forward(model, batch, number, totals, state)?;
            metrics.extend(forward.metrics);
            let plain = forward.loss.clone().inner();
            loss = Some(match loss {
                None => plain,
                Some(sum) => sum + plain,
            });
            if forward.loss.is_tracked() {
                // Summed up by itself first, so that the bits are those of one backward pass.
                let mut own = GradientSum::default();
                for mut stride in forward.recorded.backward(forward.loss) {
                    own.add(model, &mut stride.gradients);
                    gradients.merge(own.take(model, &stride.complete));
                }
                gradients.merge(own);
            }
        }
        let loss: f64 = loss.map_or(f64::NAN, |l| l.into_scalar::<f32>().into());
        let norm = gradients.global_norm();
        if !loss.is_finite() || !norm.is_finite() {
            return Err(self.blame(model, batches, loss, norm));
        }
        Ok(Found { loss, norm, gradients, metrics })
    }

    /// Loss and metrics of the micro-batch `number`.
    pub fn forward(
        &self,
        model: &P,
        batch: &Batch,
        number: usize,
        totals: &StepTotals,
        state: &mut State,
    ) -> Result<Forward, TrainError> {
        // The reference first: what it needs in between is gone before the policy keeps its own for the gradients.
        let reference = self.reference(batch)?;
        let mismatched = self.mismatched(model, batch);
        // Dropout depends on the step alone, so that a resumed run draws what an unbroken one draws.
        let seed = mix(self.seed, self.step as u64, number as u64);
        self.device.seed(seed);
        seed_dropout(seed);
        let (policy, recorded) =
            record(self.recompute, || O::Signal::of(model, batch, self.device, &self.objective.wants()));
        let plain = self.device.clone().inner();
        let mut metrics = self.others.observe(&policy, batch, <O::Example as Shape>::PLACES, &plain);
        let inputs = Inputs { policy, reference, mismatched, facts: &batch.facts };
        let found = self.objective.loss(inputs, totals, state);
        metrics.extend(found.metrics);
        Ok(Forward { loss: found.value, metrics, recorded })
    }

    fn reference(&self, batch: &Batch) -> Result<Option<O::Signal>, TrainError> {
        if !self.objective.compares() {
            return Ok(None);
        }
        let plain = self.device.clone().inner();
        Ok(self.others.anchor.ask::<O::Signal>(batch, Split::Train, &plain)?.map(Signal::constant))
    }

    fn mismatched(&self, model: &P, batch: &Batch) -> Option<(O::Signal, O::Signal)> {
        let batch = batch.mismatched.as_deref().filter(|_| self.objective.compares_mismatched())?;
        let (plain, wants) = (self.device.clone().inner(), Default::default());
        let reference = self.others.anchor.ask_model::<O::Signal>(batch, &plain)?;
        let policy = O::Signal::of(&model.valid(), batch, &plain, &wants);
        Some((policy.constant(), reference.constant()))
    }

    /// Finds the record of which something is not finite; where there is none, the loss itself or the gradient is to blame.
    pub fn blame(&self, model: &P, batches: &[Batch], loss: f64, norm: f64) -> TrainError {
        let (model, device, step) = (model.valid(), self.device.clone().inner(), self.step);
        for batch in batches {
            let signal = O::Signal::of(&model, batch, &device, &Default::default());
            for (row, values) in signal.row_values().iter().enumerate() {
                if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                    return TrainError::Loss { place: batch.places[row].clone(), value: *value, step };
                }
            }
        }
        let place = batches[0].places[0].clone();
        match loss.is_finite() {
            true => TrainError::Gradient { place, value: norm, step },
            false => TrainError::Loss { place, value: loss, step },
        }
    }
}

/// One seed from three numbers (SplitMix64's finaliser over their combination).
fn mix(seed: u64, step: u64, number: u64) -> u64 {
    let mut z = seed ^ step.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number.wrapping_mul(0xD1B5_4A32_D192_ED03);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
