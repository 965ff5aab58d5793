//! A reference beside supervised fine-tuning.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        objective: Sft,
        data: ChatData,
        reference: AdapterOff,
    }
    .main()
}
