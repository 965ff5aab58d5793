//! Preference training of a language model on pairs of answers: every loss over pairs, chosen by `--set objective.loss=…`.
//!
//! - `cargo run --release --bin dpo` makes a small data set of pairs and a small random model, and trains it: the preference
//!   accuracy on held-out pairs rises from about 50%.
//! - `… --bin dpo -- --model DIR --data FILE --output DIR --set objective.loss=ipo` trains a checkpoint on pairs:
//!   `{"context": [{"role": "user", "content": "…"}], "answer_w": {…}, "answer_l": {…}}`.
//! - The reference is the model without its adapter; `--set reference.kind=…` takes another one (`frozen_copy`, `stored`, `synced`).
//!
//! A recipe that names one loss (`objective: Dpo<beta: 0.1>, reference: AdapterOff`) has it checked by the compiler instead.

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
    .main()
}
