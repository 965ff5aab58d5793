//! An unknown slot that resembles none.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        vision: Clip,
        projector: Mlp2xGelu,
        objective: Sft,
        banana: Llama,
    }
    .main()
}
