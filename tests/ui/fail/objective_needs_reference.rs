//! An objective that compares with a reference, and none.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        objective: Dpo<beta: 0.1>,
        data: PairsData,
    }
    .main()
}
