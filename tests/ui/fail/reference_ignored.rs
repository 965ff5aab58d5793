//! A reference beside an objective that compares with none.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        objective: Simpo<beta: 2.5>,
        data: PairsData,
        reference: FrozenCopy,
    }
    .main()
}
