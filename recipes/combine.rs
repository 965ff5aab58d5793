//! LoRA adapters of one base combined into one by a weighted sum.
//!
//! `cargo run --release --bin combine -- --adapter DIR --adapter DIR --weights 0.5,0.5 --combination-type cat --output DIR`

use clap::Parser;
use firebrick::recipe::{Finished, exit, tools::Combine};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    exit(Combine::parse().main().map(|()| Finished::Checked))
}
