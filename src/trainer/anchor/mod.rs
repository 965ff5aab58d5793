//! Reference policies: what a preference objective compares with.

mod stored;

pub use stored::{Fingerprint, StoredError, StoredLogProbs, StoredWriter};

use super::policy::{Policy, Signal};
use crate::adapters::Removable;
use crate::data::Batch;
use crate::nn::params::{self, NamedMapper, NamedVisitor};
use crate::objectives::{Alone, BySetting, Compared, Taught, Wants};
use crate::settings::{Component, Kind};
use burn::module::Param;
use burn::tensor::{Device, Tensor};
use std::collections::HashMap;
use std::path::PathBuf;

/// What stands in a recipe's `reference` slot: the policy that preference objectives compare with.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a reference policy",
    label = "the slot `reference` takes a reference policy",
    note = "write `reference: AdapterOff`, `FrozenCopy`, `Stored<path: \"…\">` or `Synced<every: 512>`, or leave the slot out \
            where the objective compares with nothing"
)]
pub trait Reference: Component {
    /// Where the reference comes from. `compares` is what the objective's settings ask for, `adapter` whether the model
    /// carries one.
    fn plan(&self, compares: bool, adapter: bool) -> AnchorPlan;
}

/// Where a reference policy comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum AnchorPlan {
    /// There is none.
    None,
    /// A copy of the model as it is before the first step, or the model in a folder of its own.
    Copy {
        /// The folder; `None` for the model that is trained.
        from: Option<PathBuf>,
    },
    /// The model without its adapter.
    AdapterOff,
    /// Log-probabilities in a folder.
    Stored {
        /// The folder.
        path: PathBuf,
    },
    /// A copy that follows the policy.
    Synced(Sync),
}

/// How a reference follows the policy: every `every` steps, `reference ← alpha·policy + (1 − alpha)·reference`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sync {
    /// Optimizer steps between two moves.
    pub every: usize,
    /// The policy's share.
    pub alpha: f64,
}

/// A reference policy that can serve an objective which uses references as `U` says.
#[diagnostic::on_unimplemented(
    message = "the objective and the reference policy `{Self}` do not go together",
    label = "an objective that is `{U}`: one that is `Compared` needs a reference policy, one that is `Alone` would ignore it",
    note = "an objective that compares needs `reference: AdapterOff` (with an adapter), `FrozenCopy`, `Stored<path: \"…\">` or \
            `Synced<…>`; one that does not needs the slot `reference` left out"
)]
pub trait Serves<U> {}

/// A reference policy that can be had from a model with adapter `A`.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be had from a model with the adapter `{A}`",
    label = "there is no adapter to switch off",
    note = "write `reference: FrozenCopy`, or add an adapter: `adapter: Lora<r: 8>`"
)]
pub trait Beside<A> {}

crate::component! {
    /// No reference: the objective compares with no other policy.
    pub struct NoReference, NoReferenceBuilder {}
}

crate::component! {
    /// A frozen copy of the model as it is before the first step. What is not trained is not copied.
    pub struct FrozenCopy, FrozenCopyBuilder {
        /// Folder or hub id of another model to compare with, of the same family and with the same tokenizer; left open,
        /// the model that is trained.
        pub from: Option<String> = None => Kind::text().or_none(),
    }
}

crate::component! {
    /// The model itself with its adapter off: no second set of weights.
    pub struct AdapterOff, AdapterOffBuilder {}
}

crate::component! {
    /// Log-probabilities that were computed once by the recipe `preprocess_reference`; no second model is held.
    pub struct Stored, StoredBuilder {
        /// The folder they are in.
        pub path: String = String::new() => Kind::text(),
    }
}

crate::component! {
    /// A copy of the model that follows it.
    ///
    /// # Source
    /// Gorbatovski et al. 2024 (TR-DPO); TRL's `sync_ref_model`, whose defaults it has.
    pub struct Synced, SyncedBuilder {
        /// Optimizer steps between two moves.
        pub every: usize = 512 => Kind::count(),
        /// The policy's share in a move; 1 replaces the reference.
        pub alpha: f64 = 0.6 => Kind::number().above(0.0).at_most(1.0),
    }
}

crate::component! {
    /// The reference that a recipe's user chooses on the command line.
    pub struct AnyReference, AnyReferenceBuilder {
        /// Which one; `auto` takes none where the objective compares with nothing, else the model with its adapter off, else
        /// a frozen copy.
        pub kind: String = "auto".to_owned() => Kind::choice(&["auto", "none", "frozen_copy", "adapter_off", "stored", "synced"]),
        /// For `frozen_copy`: folder or hub id of another model.
        pub from: Option<String> = None => Kind::text().or_none(),
        /// For `stored`: the folder.
        pub path: Option<String> = None => Kind::text().or_none(),
        /// For `synced`: optimizer steps between two moves.
        pub every: Option<usize> = None => Kind::count().or_none(),
        /// For `synced`: the policy's share in a move.
        pub alpha: Option<f64> = None => Kind::number().above(0.0).at_most(1.0).or_none(),
    }
    check = AnyReference::check_fields;
}

impl AnyReference {
    fn check_fields(&self) -> Result<(), crate::settings::SettingError> {
        let idle = [
            ("from", self.from.is_some(), "frozen_copy"),
            ("path", self.path.is_some(), "stored"),
            ("every", self.every.is_some(), "synced"),
            ("alpha", self.alpha.is_some(), "synced"),
        ];
        for (field, given, kind) in idle {
            if given && self.kind != kind {
                return Err(crate::settings::SettingError::rule(format!(
                    "`{field}` is read where `kind` is {kind}, but it is {}; set kind={kind}, or leave `{field}` out",
                    self.kind
                )));
            }
        }
        if self.kind == "stored" && self.path.is_none() {
            return Err(crate::settings::SettingError::rule(
                "`kind` is stored, but `path` does not say in which folder; run the recipe preprocess_reference and give its \
                 --output"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

impl Reference for NoReference {
    fn plan(&self, _compares: bool, _adapter: bool) -> AnchorPlan {
        AnchorPlan::None
    }
}

impl Reference for FrozenCopy {
    fn plan(&self, _compares: bool, _adapter: bool) -> AnchorPlan {
        AnchorPlan::Copy { from: self.from.as_ref().map(PathBuf::from) }
    }
}

impl Reference for AdapterOff {
    fn plan(&self, _compares: bool, _adapter: bool) -> AnchorPlan {
        AnchorPlan::AdapterOff
    }
}

impl Reference for Stored {
    fn plan(&self, _compares: bool, _adapter: bool) -> AnchorPlan {
        AnchorPlan::Stored { path: PathBuf::from(&self.path) }
    }
}

impl Reference for Synced {
    fn plan(&self, _compares: bool, _adapter: bool) -> AnchorPlan {
        AnchorPlan::Synced(Sync { every: self.every, alpha: self.alpha })
    }
}

impl Reference for AnyReference {
    fn plan(&self, compares: bool, adapter: bool) -> AnchorPlan {
        match self.kind.as_str() {
            "none" => AnchorPlan::None,
            "adapter_off" => AnchorPlan::AdapterOff,
            "stored" => AnchorPlan::Stored { path: self.path.as_ref().map(PathBuf::from).unwrap_or_default() },
            "synced" => {
                let default = Synced::default();
                let (every, alpha) = (self.every.unwrap_or(default.every), self.alpha.unwrap_or(default.alpha));
                AnchorPlan::Synced(Sync { every, alpha })
            }
            "auto" if !compares => AnchorPlan::None,
            "auto" if adapter => AnchorPlan::AdapterOff,
            _ => AnchorPlan::Copy { from: self.from.as_ref().map(PathBuf::from) },
        }
    }
}

impl Serves<Alone> for NoReference {}
impl Serves<BySetting> for NoReference {}
impl<U> Serves<U> for AnyReference {}
impl Serves<Taught> for FrozenCopy {}

macro_rules! compares {
    ($($anchor:ty),*) => {$(
        impl Serves<Compared> for $anchor {}
        impl Serves<BySetting> for $anchor {}
    )*};
}
compares!(FrozenCopy, AdapterOff, Stored, Synced);

impl<A> Beside<A> for NoReference {}
impl<A> Beside<A> for FrozenCopy {}
impl<A> Beside<A> for Stored {}
impl<A> Beside<A> for Synced {}
impl<A> Beside<A> for AnyReference {}
impl<A: Removable> Beside<A> for AdapterOff {}

/// A reference policy, ready to be asked.
#[derive(Debug)]
pub enum Anchor<P> {
    /// There is none.
    None,
    /// A model, and how it follows the policy.
    Model(P, Option<Sync>),
    /// Log-probabilities of every record, of training and of held-out data.
    Stored {
        /// Of the training data.
        train: StoredLogProbs,
        /// Of the held-out data.
        eval: Option<StoredLogProbs>,
    },
}

/// Which data a batch is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// What is learned from.
    Train,
    /// What is held out.
    Eval,
}

impl<P: Policy> Anchor<P> {
    /// What the reference says of a batch, without gradients; `None` where there is no reference.
    ///
    /// # Errors
    /// [`StoredError`] where the stored values do not cover the batch.
    pub fn ask<S: Signal>(&self, batch: &Batch, split: Split, device: &Device) -> Result<Option<S>, StoredError> {
        match self {
            Self::None => Ok(None),
            Self::Model(model, _) => Ok(Some(S::of(model, batch, device, &Wants::default()))),
            Self::Stored { train, eval } => {
                let stored = match split {
                    Split::Train => train,
                    Split::Eval => eval.as_ref().ok_or(StoredError::NoEvaluation)?,
                };
                let (values, per_row) = stored.of(batch)?;
                S::stored(values, per_row, batch, device).map(Some).ok_or(StoredError::Kind)
            }
        }
    }

    /// What the reference says of rows that belong to no record, such as mismatched ones.
    pub fn ask_model<S: Signal>(&self, batch: &Batch, device: &Device) -> Option<S> {
        match self {
            Self::Model(model, _) => Some(S::of(model, batch, device, &Wants::default())),
            _ => None,
        }
    }

    /// Moves the reference towards the policy where that is due after optimizer step `step`.
    pub fn follow(self, policy: &P, step: usize) -> Self {
        match self {
            Self::Model(model, Some(sync)) if step.is_multiple_of(sync.every) => {
                Self::Model(moved(model, policy, sync.alpha), Some(sync))
            }
            other => other,
        }
    }

    /// The model of a reference that changes during training, and so must be in every checkpoint.
    pub fn changing(&self) -> Option<&P> {
        match self {
            Self::Model(model, Some(_)) => Some(model),
            _ => None,
        }
    }
}

/// `alpha·policy + (1 − alpha)·reference` for every parameter that the policy trains.
fn moved<P: Policy>(reference: P, policy: &P, alpha: f64) -> P {
    struct Trained(HashMap<String, Tensor<1>>);
    impl NamedVisitor for Trained {
        fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
            if param.is_require_grad() {
                let value = param.val().inner();
                let length = value.shape().num_elements();
                self.0.insert(name.to_owned(), value.reshape([length]));
            }
        }
    }
    struct Move {
        policy: HashMap<String, Tensor<1>>,
        alpha: f64,
    }
    impl NamedMapper for Move {
        fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let Some(policy) = self.policy.remove(name) else { return param };
            let (id, tensor, mapper) = param.consume();
            let shape = tensor.dims();
            let policy = policy.reshape(shape).cast(tensor.dtype());
            let tensor = policy * self.alpha + tensor * (1.0 - self.alpha);
            Param::from_mapped_value(id, tensor, mapper)
        }
    }
    let mut trained = Trained(HashMap::new());
    params::visit(policy, &mut trained);
    params::map(reference, &mut Move { policy: trained.0, alpha })
}
