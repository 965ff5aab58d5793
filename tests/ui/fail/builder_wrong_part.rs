//! Without the macro, the same bounds are demanded by `fits()`.

use firebrick::prelude::*;

fn main() -> anyhow::Result<()> {
    Experiment::builder()
        .model(Llama::given())
        .adapter(Sft::given())
        .with(fits())
        .main()
}
