//! A component that does not belong in the slot `projector`.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        vision: Clip,
        projector: Llama,
        objective: Sft,
    }
    .main()
}
