//! Preference training of a vision-language model on pairs of answers about pictures.
//!
//! - `cargo run --release --bin vlm_dpo` makes a small data set of pictures with a right and a wrong answer each and a small random
//!   LLaVA, and trains it: the preference accuracy on held-out pairs rises from about 50%.
//! - `… --bin vlm_dpo -- --model DIR --data FILE --images DIR --output DIR` trains a LLaVA checkpoint on
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
        objective: PairObjective,
        data: PlainDpoData,
        reference: AnyReference,
        train: Train<learning_rate: 1e-4, eval_generate: 0, metric_for_best_model: "eval_rewards/accuracies">,
    }
    .main()
}
