//! The model with its adapter off, and no adapter.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        objective: Dpo<beta: 0.1>,
        data: PairsData,
        reference: AdapterOff,
    }
    .main()
}
