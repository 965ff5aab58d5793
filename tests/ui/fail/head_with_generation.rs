//! Generated answers from a model that yields scores.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        objective: RewardModel,
        data: PairsData,
        train: Train<learning_rate: 1e-4, max_new_tokens: 32>,
    }
    .main()
}
