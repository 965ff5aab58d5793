//! A classifier of an unknown number of classes.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        objective: Classification,
        data: ClassificationData,
    }
    .main()
}
