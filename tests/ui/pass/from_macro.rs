//! A recipe whose parts are handed in by another macro.

use firebrick::prelude::*;

macro_rules! tuned {
    ($model:ty, $adapter:ident, $rank:literal, $alpha:expr) => {
        experiment! { model: $model, adapter: $adapter<r: $rank, lora_alpha: $alpha> }
    };
}

pub fn from_macro() -> Experiment<Llama, Lora, NoVision, NoProjector, Sft, MessagesData> {
    tuned!(Llama, Lora, 4, 2.0 * 4.0)
}
