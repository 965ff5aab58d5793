//! LLaVA supervised fine-tuning without an adapter.
//!
//! Command: `cargo run --release --bin llava_sft_full`

use firebrick::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        vision: Clip,
        projector: Mlp2xGelu,
        objective: Sft,
    }
    .main()
}
