//! A text that is not one of those allowed.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        vision: Clip,
        projector: Mlp2xGelu,
        objective: Sft,
        train: Train<lr_scheduler_type: "cosin">,
    }
    .main()
}
