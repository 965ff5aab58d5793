//! Supervised fine-tuning, and data of pairs.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        objective: Sft,
        data: PairsData,
    }
    .main()
}
