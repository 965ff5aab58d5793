//! A projector with nothing to project.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        projector: Mlp2xGelu,
        objective: Sft,
    }
    .main()
}
