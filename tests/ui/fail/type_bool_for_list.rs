//! A bool where a list is expected.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<target_modules: true>,
        vision: Clip,
        projector: Mlp2xGelu,
        objective: Sft,
    }
    .main()
}
