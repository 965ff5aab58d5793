//! Components that are named by a path, by an alias, or as a type parameter.

use firebrick::experiment;
use firebrick::prelude::{Experiment, LanguageModel, MessagesData, NoAdapter, NoProjector, NoVision};

mod mine {
    pub use firebrick::prelude::Lora;

    pub type Tuner = Lora;
}

pub fn paths()
-> Experiment<firebrick::prelude::Llama, mine::Lora, NoVision, NoProjector, firebrick::prelude::Sft, MessagesData> {
    experiment! {
        model: ::firebrick::prelude::Llama,
        adapter: mine::Tuner<r: 2>,
        objective: firebrick::prelude::Sft,
    }
}

pub fn generic<M: LanguageModel>()
-> Experiment<M, NoAdapter, NoVision, NoProjector, firebrick::prelude::Sft, MessagesData> {
    experiment! { model: M }
}
