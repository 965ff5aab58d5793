//! Every form of a value.

use firebrick::prelude::*;

mod config {
    pub const RANK: usize = 4;
}

const ALPHA: f64 = 8.0;

pub fn values(dropout: f64) -> Experiment<Llama, Lora, NoVision, NoProjector, Sft, MessagesData> {
    experiment! {
        model: Llama,
        adapter: Lora<
            r: config::RANK,
            lora_alpha: ALPHA,
            lora_dropout: { dropout / 2.0 },
            use_rslora: false,
            target_modules: "all-linear",
            modules_to_save: [],
        >,
        train: Train<max_steps: None, seed: 0x2A, learning_rate: 1, per_device_train_batch_size: 1_6>,
    }
}
