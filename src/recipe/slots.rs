//! The slots of an experiment, what fills them by default, and the check that the parts go together.

use crate::adapters::Adapter;
use crate::data::{DataKind, Images, LlavaData, Media, MessagesData, TextOnly};
use crate::example::{Provides, Shape};
use crate::models::LanguageModel;
use crate::objectives::{Objective, Sft};
use crate::projector::Accepts;
use crate::settings::{Component, Given};
use crate::trainer::anchor::{Beside, Serves};
use crate::trainer::{Reference, Signal, Train, TrainSettings};
use crate::vision::{NoVision, VisionEncoder};

use super::experiment::Experiment;
use super::run::{self, Runner};

/// The objective of an experiment that names none.
pub type DefaultObjective = Sft;

/// The data kind of an experiment that names none and has a vision encoder.
pub type DefaultImageData = LlavaData;

/// The data kind of an experiment that names none and has no vision encoder.
pub type DefaultTextData = MessagesData;

/// Stands in the `model` slot until a model is chosen; it is not a language model.
#[derive(Clone, Copy, Debug)]
pub enum Unwritten {}

/// The proof that these parts go together; made by [`fits`], taken by
/// [`ExperimentBuilder::with`](super::ExperimentBuilder::with).
///
/// The bounds of a recipe are demanded once, where this is made, and not again by every method of
/// [`Experiment`]: one wrong part is then one error, on the user's own token, instead of a second
/// one on `.main()`.
pub struct Fits<M, A, V, P, O, D, R> {
    pub(super) run: Runner<Experiment<M, A, V, P, O, D, R>>,
}

/// Checks that these parts go together: each is of its slot's kind, the projector accepts the
/// encoder's features, the data feed the encoder and are of the objective's shape, and the reference is what the
/// objective compares with.
///
/// Written with explicit types, so that the compiler points at the part that does not fit and shows
/// what its trait says to write instead.
pub fn fits<M, A, V, P, O, D, R>() -> Fits<M, A, V, P, O, D, R>
where
    M: LanguageModel,
    A: Adapter,
    V: VisionEncoder,
    P: Accepts<V::Features>,
    O: Trains,
    D: Feeds<V> + Teaches<O>,
    R: Reference + Anchors<O> + Beside<A>,
{
    Fits { run: run::run_experiment }
}

/// Stands for [`fits`] where the macro has already refused the recipe: what is wrong is then said
/// once, and the editor still knows the type of the expression.
#[doc(hidden)]
pub fn refused<M, A, V, P, O, D, R>() -> Fits<M, A, V, P, O, D, R> {
    Fits { run: |_, _, _| Err(anyhow::anyhow!("this recipe does not compile")) }
}

/// Media that a recipe with encoder `V` can be fed: records with images suit every recipe, records of
/// text alone suit one without an encoder.
#[diagnostic::on_unimplemented(
    message = "the recipe has the vision encoder `{V}`, but its data kind has no images (`{Self}`)",
    label = "a data kind of text alone",
    note = "write `data: LlavaData` (or another data kind with images), or leave out `vision` and `projector`"
)]
pub trait Suits<V>: Media {}

/// A data kind whose records can be fed to encoder `V`; every data kind is one where its media suit.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a kind of data",
    label = "the slot `data` takes a kind of data, for example `LlavaData`",
    note = "write `data: LlavaData` or `data: MessagesData`, or implement `firebrick::data::DataKind` for `{Self}`"
)]
pub trait Feeds<V>: DataKind + Component {}

impl<D: DataKind<Media: Suits<V>> + Component, V> Feeds<V> for D {}

impl<V> Suits<V> for Images {}

impl Suits<NoVision> for TextOnly {}

/// An objective that the training loop can ask a policy for; every objective over a signal of this library is one.
///
/// [`fits`] names no associated type of the objective itself: where a part is no objective, these would be errors of
/// their own, on the wrong token.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an objective",
    label = "the slot `objective` takes a training objective, for example `Sft`",
    note = "write `objective: Sft`, or implement `firebrick::objectives::Objective` for `{Self}`"
)]
pub trait Trains: Objective<Signal: Signal> {}

impl<O: Objective<Signal: Signal>> Trains for O {}

/// A reference policy that serves objective `O`.
pub trait Anchors<O> {}

impl<O: Objective, R: Serves<O::Reference>> Anchors<O> for R {}

/// A data kind whose records objective `O` learns from; every data kind is one where its shape provides the objective's.
pub trait Teaches<O> {}

impl<D: DataKind<Shape: Provides<O::Example>>, O: Objective> Teaches<O> for D {}

/// Fails to compile where `O` reads scores, so that a setting of generated answers would do nothing.
///
/// # Panics
/// At compile time.
#[track_caller]
pub const fn check_generates<O: Objective<Signal: Signal>>() {
    if !<O::Signal as Signal>::GENERATES {
        panic!(
            "this setting is about generated answers, but the recipe's objective trains a head that yields scores: leave it out"
        )
    }
}

/// Why a recipe of these parts cannot put several records into one row (`train.packing`); `None` where it can.
pub const fn packing_refusal<A: Adapter, V: VisionEncoder, O: Objective>() -> Option<&'static str> {
    if V::SEES {
        return Some(
            "packing puts texts into one row, but the recipe has a vision encoder; group records of like length instead: sampler \
             \"bucketed\"",
        );
    }
    if <O::Example as Shape>::ROWS != 1 {
        return Some(
            "packing puts records into one row, but the objective compares several rows of each record; group records of like \
             length instead: sampler \"bucketed\"",
        );
    }
    if A::IN_FRONT {
        return Some(
            "packing puts texts into one row, but the adapter's virtual tokens stand in front of the row, where the first \
             text alone would see them; group records of like length instead: sampler \"bucketed\"",
        );
    }
    None
}

/// Fails to compile where rows of a recipe of these parts cannot be packed.
///
/// # Panics
/// At compile time.
#[track_caller]
pub const fn check_packs<A: Adapter, V: VisionEncoder, O: Objective>() {
    if let Some(reason) = packing_refusal::<A, V, O>() {
        panic!("{}", reason)
    }
}

/// Checks that `T` can stand in the `train` slot, and turns what is given for it into what the
/// training loop takes. A type of one's own has the parameters of [`Train`].
pub fn fits_train<T: TrainSettings>() -> fn(Given<T>) -> Given<Train> {
    Given::cast
}
