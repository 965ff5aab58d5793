//! A component that does not belong in the slot `model`.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Lora,
        adapter: Lora<r: 8>,
        vision: Clip,
        projector: Mlp2xGelu,
        objective: Sft,
    }
    .main()
}
