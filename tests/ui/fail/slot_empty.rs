//! A recipe that is still being typed.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: ,
        adapter: Lora<r: 8>,
        vision: Clip,
        projector: Mlp2xGelu,
        objective: Sft,
    }
    .main()
}
