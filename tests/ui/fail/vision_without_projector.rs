//! An encoder whose features nothing maps.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        vision: Clip,
        objective: Sft,
    }
    .main()
}
