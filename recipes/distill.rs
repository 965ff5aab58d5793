//! Distillation: a small language model learns to expect what a larger one expects, token by token.
//!
//! - `cargo run --release --bin distill` makes a small data set, a small random student and a random teacher, and trains the
//!   student towards the teacher: the divergence on held-out records falls.
//! - `… --bin distill -- --model STUDENT --set reference.from=TEACHER --data FILE --output DIR` distils a checkpoint; both must have
//!   one tokenizer.

use firebrick::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        objective: Gkd,
        data: ChatData,
        reference: FrozenCopy,
        train: Train<learning_rate: 1e-4, eval_generate: 0>,
    }
    .main()
}
