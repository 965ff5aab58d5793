//! An adapter merged into its base: a plain checkpoint.
//!
//! `cargo run --release --bin merge -- --model DIR --adapter DIR --output DIR`

use clap::Parser;
use firebrick::recipe::{Finished, exit, tools::Merge};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    exit(Merge::parse().main().map(|()| Finished::Checked))
}
