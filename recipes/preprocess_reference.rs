//! Computes once what a language model says of every answer of a data set of pairs, as a reference for later runs.
//!
//! - `cargo run --release --bin preprocess_reference -- --output REFERENCE`, then
//!   `cargo run --release --bin dpo -- --set reference.kind=stored --set reference.path=REFERENCE`: both make the same model and data.
//! - With `--model`, `--data` and `--eval-data` of yours give both programs the same ones; what does not match is refused.
//!
//! For pictures see `vlm_preprocess_reference`.

use firebrick::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        objective: PairObjective,
        data: PairsData,
        reference: AnyReference,
        train: Train<learning_rate: 1e-4, eval_generate: 0, metric_for_best_model: "eval_rewards/accuracies">,
    }
    .preprocess_reference()
}
