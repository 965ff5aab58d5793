//! A pair's answers are two rows, which are compared.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        objective: Dpo,
        data: PairsData,
        reference: AdapterOff,
        train: Train<packing: true>,
    }
    .main()
}
