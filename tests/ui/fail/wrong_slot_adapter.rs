//! A component that does not belong in the slot `adapter`.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Llama,
        vision: Clip,
        projector: Mlp2xGelu,
        objective: Sft,
    }
    .main()
}
