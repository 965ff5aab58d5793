//! A component that does not belong in the slot `vision`.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        vision: Llama,
        projector: Mlp2xGelu,
        objective: Sft,
    }
    .main()
}
