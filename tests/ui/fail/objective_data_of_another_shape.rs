//! An objective over pairs, and data of single conversations.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        objective: Dpo<beta: 0.1>,
        data: ChatData,
        reference: AdapterOff,
    }
    .main()
}
