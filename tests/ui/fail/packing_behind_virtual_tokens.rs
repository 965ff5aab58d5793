//! Virtual tokens stand in front of a row, not of each text in it.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: PrefixTuning<num_virtual_tokens: 20>,
        train: Train<packing: true>,
    }
    .main()
}
