//! An experiment: which parts it is made of, and what the recipe says about each of them.

use std::fmt;

use crate::adapters::NoAdapter;
use crate::projector::NoProjector;
use crate::settings::Given;
use crate::trainer::Train;
use crate::vision::NoVision;

use super::run::Runner;
use super::slots::{DefaultImageData, DefaultObjective, DefaultTextData, Fits, Unwritten};
use crate::trainer::NoReference;

/// A whole experiment, ready to run. Its structure is its type; its values are what the recipe says
/// about each part, to be joined with files and the command line when it runs.
///
/// `M` language model, `A` adapter, `V` vision encoder, `P` projector, `O` objective, `D` data kind,
/// `R` reference policy. Made by [`experiment!`](crate::experiment) or by
/// [`Experiment::builder`].
pub struct Experiment<
    M,
    A = NoAdapter,
    V = NoVision,
    P = NoProjector,
    O = DefaultObjective,
    D = DefaultImageData,
    R = NoReference,
> {
    parts: Parts<M, A, V, P, O, D, R>,
    run: Runner<Self>,
}

/// What the recipe says about each part.
#[derive(Clone)]
#[non_exhaustive]
pub struct Parts<M, A, V, P, O, D, R> {
    /// The recipe's name; runs are kept in `runs/<name>-<n>`.
    pub name: String,
    /// The language model.
    pub model: Given<M>,
    /// The adapter.
    pub adapter: Given<A>,
    /// The vision encoder.
    pub vision: Given<V>,
    /// The projector.
    pub projector: Given<P>,
    /// The objective.
    pub objective: Given<O>,
    /// The data kind.
    pub data: Given<D>,
    /// The reference policy.
    pub reference: Given<R>,
    /// The training loop.
    pub train: Given<Train>,
}

impl Experiment<Unwritten, NoAdapter, NoVision, NoProjector, DefaultObjective, DefaultTextData> {
    /// Starts with no model, supervised fine-tuning on text, and everything else left out.
    ///
    /// ```no_run
    /// use firebrick::prelude::*;
    ///
    /// # fn main() -> anyhow::Result<()> {
    /// Experiment::builder()
    ///     .name("llava_sft")
    ///     .model(Llama::given())
    ///     .adapter(Lora::builder().r(8))
    ///     .vision(Clip::given())
    ///     .projector(Mlp2xGelu::given())
    ///     .data(LlavaData::given())
    ///     .with(fits())
    ///     .main()
    /// # }
    /// ```
    pub fn builder()
    -> ExperimentBuilder<Unwritten, NoAdapter, NoVision, NoProjector, DefaultObjective, DefaultTextData, NoReference>
    {
        ExperimentBuilder {
            parts: Parts {
                name: "experiment".to_owned(),
                model: Given::new(),
                adapter: Given::new(),
                vision: Given::new(),
                projector: Given::new(),
                objective: Given::new(),
                data: Given::new(),
                reference: Given::new(),
                train: Given::new(),
            },
        }
    }
}

impl<M, A, V, P, O, D, R> Experiment<M, A, V, P, O, D, R> {
    /// What the recipe says about each part.
    pub fn parts(&self) -> &Parts<M, A, V, P, O, D, R> {
        &self.parts
    }

    /// The function that runs it, with the types that [`fits`](super::fits) has checked.
    pub(super) fn runner(&self) -> Runner<Self> {
        self.run
    }
}

impl<M, A, V, P, O, D, R> fmt::Debug for Experiment<M, A, V, P, O, D, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Experiment").field("name", &self.parts.name).finish_non_exhaustive()
    }
}

/// Chooses the parts of an [`Experiment`], each with the parameters that the recipe gives.
///
/// A part is `Lora::given()`, `Lora::given().set("r", 8)`, `Lora::builder().r(8)` or a whole
/// `Lora { .. }`.
#[must_use = "call `.with(fits())` to make the experiment"]
pub struct ExperimentBuilder<M, A, V, P, O, D, R> {
    parts: Parts<M, A, V, P, O, D, R>,
}

/// Writes the method that fills one slot: it changes one of the types, which `..self.parts` cannot.
macro_rules! slot {
    ($(#[$doc:meta])* $part:ident: <$($type:ident),*>; keeps $($kept:ident),*) => {
        $(#[$doc])*
        pub fn $part<T>(self, $part: impl Into<Given<T>>) -> ExperimentBuilder<$($type),*> {
            let Parts { $($kept,)* .. } = self.parts;
            ExperimentBuilder { parts: Parts { $part: $part.into(), $($kept),* } }
        }
    };
}

impl<M, A, V, P, O, D, R> ExperimentBuilder<M, A, V, P, O, D, R> {
    /// Names the recipe; of a module path, the last part.
    pub fn name(mut self, name: &str) -> Self {
        self.parts.name = name.rsplit("::").next().unwrap_or(name).to_owned();
        self
    }

    slot! {
        /// Chooses the language model.
        model: <T, A, V, P, O, D, R>; keeps name, adapter, vision, projector, objective, data, reference, train
    }

    slot! {
        /// Chooses what is trained instead of the language model's own weights.
        adapter: <M, T, V, P, O, D, R>; keeps name, model, vision, projector, objective, data, reference, train
    }

    slot! {
        /// Chooses the encoder of images.
        vision: <M, A, T, P, O, D, R>; keeps name, model, adapter, projector, objective, data, reference, train
    }

    slot! {
        /// Chooses what maps the encoder's features to the language model's width.
        projector: <M, A, V, T, O, D, R>; keeps name, model, adapter, vision, objective, data, reference, train
    }

    slot! {
        /// Chooses the loss.
        objective: <M, A, V, P, T, D, R>; keeps name, model, adapter, vision, projector, data, reference, train
    }

    slot! {
        /// Chooses how rows are read.
        data: <M, A, V, P, O, T, R>; keeps name, model, adapter, vision, projector, objective, reference, train
    }

    slot! {
        /// Chooses the policy that the objective compares with.
        reference: <M, A, V, P, O, D, T>; keeps name, model, adapter, vision, projector, objective, data, train
    }

    /// Sets the training loop.
    pub fn train(mut self, train: impl Into<Given<Train>>) -> Self {
        self.parts.train = train.into();
        self
    }

    /// Makes the experiment; [`fits()`](super::fits) checks that the parts go together.
    pub fn with(self, fits: Fits<M, A, V, P, O, D, R>) -> Experiment<M, A, V, P, O, D, R> {
        Experiment { parts: self.parts, run: fits.run }
    }
}
