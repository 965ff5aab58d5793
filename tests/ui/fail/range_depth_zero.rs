//! A projector without layers.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        vision: Clip,
        projector: Mlp<depth: 0>,
        objective: Sft,
    }
    .main()
}
