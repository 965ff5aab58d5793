//! The slot that every recipe must have.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        adapter: Lora<r: 8>,
        vision: Clip,
        projector: Mlp2xGelu,
        objective: Sft,
    }
    .main()
}
