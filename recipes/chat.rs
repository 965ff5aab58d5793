//! One question about images, answered word by word as the model writes it.
//!
//! `cargo run --release --bin chat -- --model DIR [--adapter DIR] --image FILE… --prompt TEXT`

use clap::Parser;
use firebrick::recipe::{Finished, exit, tools::Chat};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    exit(Chat::parse().main().map(|()| Finished::Checked))
}
