//! Supervised fine-tuning of a language model with LoRA.
//!
//! - `cargo run --release --bin sft` makes a small data set in words and a small random model, and trains it.
//! - `… --bin sft -- --model DIR --data FILE --eval-data FILE --output DIR` fine-tunes a checkpoint on chats:
//!   `{"messages": [{"role": "user", "content": "…"}, {"role": "bot", "content": "…"}]}`; `--help` has the rest.

use firebrick::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        objective: Sft,
        data: ChatData,
    }
    .main()
}
