//! A crate outside Firebrick: an encoder, a projector, an adapter and a data kind of its own, and a recipe of them.
//!
//! - [`PatchTower`] is a vision encoder with features of its own kind, [`Grid`].
//! - [`MergePatches`] is a projector that accepts them, and leaves fewer tokens than it takes.
//! - [`Ia3`] is an adapter that PEFT can load.
//! - [`PictureQuestions`] reads rows of picture, question and answer, [`RankedAnswers`] pairs out of ranked answers.

mod adapter;
mod data;
mod encoder;
mod pairs;
mod projector;

pub use adapter::{Ia3, Ia3Builder, OutputScale};
pub use data::{PictureQuestions, PictureQuestionsBuilder};
pub use encoder::{Grid, PatchTower, PatchTowerBuilder, PatchTowerModel};
pub use pairs::{RankedAnswers, RankedAnswersBuilder};
pub use projector::{MergePatches, MergePatchesBuilder, MergePatchesModel};

use firebrick::prelude::*;

/// The type of the recipe, whichever way it is written.
pub type Pictures = Experiment<Llama, Ia3, PatchTower, MergePatches, Sft, PictureQuestions>;

/// The recipe, written with the macro.
pub fn recipe() -> Pictures {
    experiment! {
        model: Llama,
        adapter: Ia3<target_modules: ["k_proj", "v_proj", "down_proj"]>,
        vision: PatchTower,
        projector: MergePatches<side: 2>,
        objective: Sft,
        data: PictureQuestions<max_tokens_count: 256>,
        train: Train<learning_rate: 3e-2, per_device_train_batch_size: 4>,
    }
}

/// The same recipe, written with the builders.
pub fn recipe_by_hand() -> Pictures {
    let targets = ["k_proj", "v_proj", "down_proj"].map(str::to_owned);
    Experiment::builder()
        .name(module_path!())
        .model(Llama::given())
        .adapter(Ia3::builder().target_modules(targets.to_vec()))
        .vision(PatchTower::given())
        .projector(MergePatches::builder().side(2))
        .objective(Sft::given())
        .data(PictureQuestions { max_tokens_count: 256 })
        .train(Train::given().set("learning_rate", 3e-2).set("per_device_train_batch_size", 4))
        .with(fits())
}
