//! Values with a hand-written gradient, on every device.
//!
//! The value is computed on plain tensors; [`graft`] then puts it on the tape as a function of two matrices. Memory is
//! what it is for: burn's own steps would keep every intermediate of the value until the backward pass.

use burn::backend::{
    Autodiff, Backend, DispatchKindConversion, DispatchTensor, backend_extension, tensor::FloatTensor,
};
use burn::tensor::Tensor;
use burn_autodiff::{
    checkpoint::{base::Checkpointer, strategy::CheckpointStrategy},
    grads::Gradients,
    ops::{Backward, Ops, OpsKind},
};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};

/// The backward step of a vector that depends on two matrices.
pub(super) trait Pullback: Debug + Send {
    /// The gradients of both for `upstream`, which has the value's length. One that is not tracked needs none.
    fn pull(self: Box<Self>, upstream: Tensor<1>) -> [Option<Tensor<2>>; 2];
}

/// Which of two matrices need gradients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tracked {
    /// The first.
    pub first: bool,
    /// The second.
    pub second: bool,
}

impl Tracked {
    /// What autodiff tracks of them.
    pub fn of(first: &Tensor<2>, second: &Tensor<2>) -> Self {
        Self { first: first.is_tracked(), second: second.is_tracked() }
    }

    /// Whether there is anything to do.
    pub fn any(self) -> bool {
        self.first || self.second
    }
}

/// `value`, whose gradients are `pullback`'s; a constant where there is none.
///
/// The result has autodiff where one of the matrices has. `value` and what the step keeps are without.
pub(super) fn graft(
    value: Tensor<1>,
    first: Tensor<2>,
    second: Tensor<2>,
    pullback: Option<Box<dyn Pullback>>,
) -> Tensor<1> {
    if let Some(pullback) = pullback {
        let slot = Slot(Arc::new(Mutex::new(Some(pullback))));
        let (value, first, second) = (value.into_dispatch(), first.into_dispatch(), second.into_dispatch());
        return Tensor::from_dispatch(burn::backend::Dispatch::graft(value, first, second, slot));
    }
    match first.device().is_autodiff() || second.device().is_autodiff() {
        true => value.autodiff(),
        false => value,
    }
}

/// Holds a step until the backward pass takes it: a state on the tape has to be cloneable, a step is used once.
#[derive(Clone, Debug)]
struct Slot(Arc<Mutex<Option<Box<dyn Pullback>>>>);

impl Slot {
    fn take(self) -> Box<dyn Pullback> {
        let mut slot = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        slot.take().expect("a tape is walked back once")
    }
}

#[backend_extension(Flex: cfg(feature = "cpu"), Cube: cfg(any(feature = "wgpu", feature = "cuda")), Autodiff)]
trait Graft: Backend {
    /// `value` as a function of the matrices. Without autodiff it is just the value.
    fn graft(
        value: FloatTensor<Self>,
        _first: FloatTensor<Self>,
        _second: FloatTensor<Self>,
        _pullback: Slot,
    ) -> FloatTensor<Self> {
        value
    }
}

#[cfg(feature = "cpu")]
impl Graft for burn::backend::Flex {}

#[cfg(any(feature = "wgpu", feature = "cuda"))]
impl Graft for burn::backend::Cube {}

impl<B, C> Graft for Autodiff<B, C>
where
    B: Backend + Graft,
    C: CheckpointStrategy,
    DispatchTensor: DispatchKindConversion<B>,
{
    fn graft(
        value: FloatTensor<Self>,
        first: FloatTensor<Self>,
        second: FloatTensor<Self>,
        pullback: Slot,
    ) -> FloatTensor<Self> {
        let ((_, on_first), (_, on_second)) = (first.into_parts(), second.into_parts());
        let value = value.into_primitive();
        let step = <GraftStep as Backward<B, 2>>::prepare::<C>(GraftStep, [on_first, on_second]);
        match step.compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(pullback, value),
            OpsKind::UnTracked(prepared) => prepared.finish(value),
        }
    }
}

/// Takes the upstream gradient off the tape and hands the step's gradients on.
#[derive(Debug)]
struct GraftStep;

impl<B: Backend> Backward<B, 2> for GraftStep
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type State = Slot;

    fn backward(self, ops: Ops<Slot, 2>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let upstream = gradients.consume::<B>(&ops.node);
        let parts = ops.state.take().pull(Tensor::from_primitive::<B>(upstream));
        for (parent, gradient) in ops.parents.into_iter().zip(parts) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                let gradient = gradient.try_into_primitive::<B>().expect("gradients on the device of the value");
                gradients.register::<B>(parent.id, gradient);
            }
        }
    }
}
