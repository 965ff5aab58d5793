//! A loss with margins, and data without.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        objective: DpoMargin,
        data: PairsData,
        reference: AdapterOff,
    }
    .main()
}
