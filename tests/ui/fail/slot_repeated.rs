//! A slot that is given twice.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        adapter: Lora<r: 16>,
        vision: Clip,
        projector: Mlp2xGelu,
        objective: Sft,
    }
    .main()
}
