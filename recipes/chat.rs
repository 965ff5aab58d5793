//! One question about images, answered word by word as the model writes it.
//!
//! `cargo run --release --bin chat -- --model DIR [--adapter DIR] --image FILE… --prompt TEXT`

use clap::Parser;
use firebrick::recipe::{describe, tools::Chat};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    if let Err(error) = Chat::parse().main() {
        eprintln!("error: {}", describe(&error));
        std::process::exit(1);
    }
}
