//! A classifier: a language model with a head that sorts conversations into classes.
//!
//! - `cargo run --release --bin classification` makes a small data set of six classes and a small random model, and trains it.
//! - `… --bin classification -- --model DIR --data FILE --output DIR --set objective.num_labels=2` starts from a checkpoint, on
//!   `{"messages": [{"role": "user", "content": "…"}], "label": 0}`.

use firebrick::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        objective: Classification<num_labels: 6>,
        data: ClassificationData,
        train: Train<learning_rate: 1e-4>,
    }
    .main()
}
