//! The optimizer's step inside the backward walk: each block's weights move as soon as their gradient is known.

use super::optimizer::GradientSum;
use super::policy::{Policy, Signal};
use super::run::TrainError;
use super::step::{Forward, Stepping};
use super::stepper::Stepped;
use crate::data::Batch;
use crate::objectives::{Objective, State, StepTotals};
use std::collections::BTreeMap;

impl<O: Objective<Signal: Signal>, P: Policy> Stepping<'_, O, P> {
    /// Loss, metrics and norm of one batch; `apply` has moved the model by its gradients, part by part.
    ///
    /// The weights are those of the ordinary step to the bit: a parameter's step reads nothing but its own gradient and
    /// moments, and no block that is still to be run again reads a weight that has moved.
    ///
    /// # Errors
    /// [`TrainError::Loss`] before anything has moved; [`TrainError::Gradient`] after it; [`TrainError::Stored`].
    pub fn in_backward(
        &self,
        mut model: P,
        batch: &Batch,
        totals: &StepTotals,
        state: &mut State,
        mut apply: impl FnMut(P, GradientSum) -> P,
    ) -> Result<(P, Stepped), TrainError> {
        let Forward { loss, metrics, recorded } = self.forward(&model, batch, 0, totals, state)?;
        let value: f64 = loss.clone().inner().into_scalar::<f32>().into();
        if !value.is_finite() {
            return Err(self.blame(&model, std::slice::from_ref(batch), value, 0.0));
        }
        let mut squares = BTreeMap::new();
        if loss.is_tracked() {
            // What more may come of waits until the end: tied tables, and all that stands outside of the blocks.
            let mut waiting = GradientSum::default();
            for mut stride in recorded.backward(loss) {
                waiting.add(&model, &mut stride.gradients);
                drop(stride.gradients);
                let complete = waiting.take(&model, &stride.complete);
                if !complete.is_empty() {
                    squares.extend(complete.squares());
                    model = apply(model, complete);
                }
            }
            for (name, square) in waiting.squares() {
                assert!(squares.insert(name.clone(), square).is_none(), "{name} got another gradient after its step");
            }
            model = apply(model, waiting);
        }
        // In the order of the names, as the ordinary step adds them up.
        let norm = squares.values().sum::<f64>().sqrt();
        if !norm.is_finite() {
            return Err(TrainError::Gradient { place: batch.places[0].clone(), value: norm, step: self.step });
        }
        Ok((model, Stepped { loss: value, norm, metrics }))
    }
}
