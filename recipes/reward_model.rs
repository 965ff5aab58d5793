//! A reward model: a language model with a head that scores answers, trained on pairs.
//!
//! - `cargo run --release --bin reward_model` makes a small data set of pairs and a small random model, and trains it: the share
//!   of held-out pairs whose chosen answer scores higher rises from about 50%.
//! - `… --bin reward_model -- --model DIR --data FILE --output DIR` starts from a checkpoint; `final/` is what transformers loads
//!   as `…ForSequenceClassification`, or PEFT's adapter of one.

use firebrick::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        objective: RewardModel,
        data: PairsData,
        train: Train<learning_rate: 1e-4, metric_for_best_model: "eval_accuracy">,
    }
    .main()
}
