//! A checkpoint in the layout of transformers or of LLaVA's original code.
//!
//! `cargo run --release --bin convert -- --model DIR --to transformers|original --output DIR`

use clap::Parser;
use firebrick::recipe::{Finished, exit, tools::Convert};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    exit(Convert::parse().main().map(|()| Finished::Checked))
}
