//! A reward model that sees: a vision-language model with a head that scores answers about pictures, trained on pairs.
//!
//! - `cargo run --release --bin vlm_reward_model` makes pictures with a right and a wrong answer each and a small random LLaVA, and
//!   trains it.
//! - `… --bin vlm_reward_model -- --model DIR --data FILE --images DIR --output DIR` starts from a LLaVA checkpoint, on
//!   `{"image": "a.png", "prompt": "…", "chosen": "…", "rejected": "…"}`.

use firebrick::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        vision: Clip,
        projector: Mlp2xGelu,
        objective: RewardModel,
        data: PlainDpoData,
        train: Train<learning_rate: 1e-4, metric_for_best_model: "eval_accuracy">,
    }
    .main()
}
