//! LLaVA supervised fine-tuning of the whole language model and the projector, without an adapter.
//!
//! `cargo run --release --bin llava_sft_full` makes a small data set and a small random model, as `llava_sft` does, and
//! trains on them for about a minute on two cores; the result to expect is the same.

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
