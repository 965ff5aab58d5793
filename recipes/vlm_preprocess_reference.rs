//! Computes once what a vision-language model says of every answer of a data set of pairs, as a reference for later runs of `vlm_dpo`.
//!
//! See `preprocess_reference`, which does the same for a language model alone.

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
    .preprocess_reference()
}
