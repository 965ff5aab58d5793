//! Texts are packed into one row; pictures are not.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        vision: Clip,
        projector: Mlp2xGelu,
        train: Train<packing: true>,
    }
    .main()
}
