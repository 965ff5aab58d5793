//! Distillation from the model itself.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        objective: Gkd,
        data: ChatData,
        reference: AdapterOff,
    }
    .main()
}
