//! The recipe of the README.

use firebrick::prelude::*;

pub fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        vision: Clip,
        projector: Mlp2xGelu,
        objective: Sft,
    }
    .main()
}
