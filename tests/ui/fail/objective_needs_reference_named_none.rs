//! An objective that compares with a reference, and none by name.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        objective: Kto,
        data: UnpairedData,
        reference: NoReference,
    }
    .main()
}
