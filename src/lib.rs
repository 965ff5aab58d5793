//! Firebrick: fine-tuning and aligning language models and vision-language models as typed recipes.
//!
//! ```no_run
//! use firebrick::prelude::*;
//!
//! fn main() -> anyhow::Result<()> {
//!     experiment! {
//!         model: Llama,
//!         adapter: Lora<r: 8>,
//!         vision: Clip,
//!         projector: Mlp2xGelu,
//!         objective: Sft,
//!     }
//!     .main()
//! }
//! ```
//!
//! # The code
//! Modules stand in layers, and a module imports only from layers to its left; a test holds the code to it:
//!
//! `settings, device, nn, text, image, checkpoint` → `example, openai` → `data, models, vision, projector, adapters, objectives` →
//! `vlm` → `generation` → `engine, metrics` → `serve, pipelines` → `trainer` → `recipe`
//!
//! # Invariants
//! - `objectives` know no model: they receive log-probabilities, scores or logits and return a loss with its metrics.
//! - What an example consists of is a type ([`example`]): data kinds provide it, objectives learn from it.
//! - `checkpoint` names no architecture; a model's key map lives in that model's folder.
//! - `data` holds no parameters; `trainer` has no branch on model, modality or objective.
//! - No string selects behaviour inside the library: strings are parsed once, at the edge.
//! - A new model, encoder, projector, adapter or objective touches one folder and one `pub mod` line.
//! - A user's setting is obeyed or refused, never ignored.
//! - On the CPU a run that was killed and resumed has the same bits as one that was not.

// The macros' expansions name the library by its path, inside the library too.
extern crate self as firebrick;

/// Prints a line; a reader that has gone away (`… | head`) is no reason to stop.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($words)*);
    }};
}

pub mod adapters;
pub mod checkpoint;
pub mod data;
pub mod device;
pub mod docs;
pub mod engine;
pub mod example;
pub mod generation;
pub mod image;
pub mod metrics;
pub mod models;
pub mod nn;
pub mod objectives;
pub mod openai;
pub mod pipelines;
pub mod projector;
pub mod recipe;
#[cfg(feature = "serve")]
pub mod serve;
pub mod settings;
pub mod text;
pub mod trainer;
pub mod vision;
pub mod vlm;

pub use firebrick_macros::experiment;

/// The macro and every component.
pub mod prelude {
    pub use crate::adapters::{Adapter, Ia3, Lora, NoAdapter, PTuning, PrefixTuning, PromptTuning, Removable};
    pub use crate::data::{
        AlignPreferenceData, AlignPromptsData, AlignSupervisedData, AlpacaData, ChatData, ClassificationData, DataKind,
        HelpfulnessData, LlavaData, MessagesData, MessagesImagesData, PairsData, PairsMarginData, PlainDpoData,
        PreferenceData, PreferenceMarginData, PreferenceScoresData, PromptsData, RlhfvData, SafetyData, ShareGptData,
        StepsData, UnpairedData, UnpairedPreferenceData, VlFeedbackData,
    };
    pub use crate::experiment;
    pub use crate::models::{LanguageModel, Llama};
    pub use crate::objectives::{
        Aot, AotUnpaired, ApoDown, ApoZero, ApoZeroUnpaired, Asft, Bco, BcoPair, CalDpo, ChosenSft, Classification,
        CostModel, Cpo, DenseDpo, Discopop, Dpo, DpoMargin, Dpop, ExoPair, Gkd, Hinge, Ipo, Kto, KtoPair, NcaPair,
        Objective, Orpo, PairObjective, ProcessReward, RDpo, RewardDistillation, RewardModel, RewardModelMargin,
        RobustDpo, Sft, SigmoidNorm, Simpo, SlicHf, SppoHard,
    };
    pub use crate::projector::{Accepts, Identity, Linear, Mlp, Mlp2xGelu, NoProjector, Projector};
    pub use crate::recipe::{Arguments, Experiment, fits};
    pub use crate::settings::Component;
    pub use crate::trainer::{AdapterOff, AnyReference, FrozenCopy, NoReference, Stored, Synced, Train};
    pub use crate::vision::{Clip, FeatureKind, NoVision, Patches, VisionEncoder};
}

/// The README's code, which is compiled with the documentation's.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadMe;
