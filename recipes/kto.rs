//! Preference training of a language model on single answers that are desirable or not: KTO.
//!
//! - `cargo run --release --bin kto` makes a small data set of judged answers and a small random model, and trains it.
//! - `… --bin kto -- --model DIR --data FILE --output DIR` trains a checkpoint on
//!   `{"context": [{"role": "user", "content": "…"}], "answer": {…}, "is_desirable": true}`.

use firebrick::prelude::*;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        objective: Kto,
        data: UnpairedData,
        reference: AdapterOff,
        train: Train<learning_rate: 1e-4, eval_generate: 0>,
    }
    .main()
}
