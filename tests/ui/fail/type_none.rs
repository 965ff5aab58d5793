//! `None` where a value is needed.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: None>,
        vision: Clip,
        projector: Mlp2xGelu,
        objective: Sft,
    }
    .main()
}
