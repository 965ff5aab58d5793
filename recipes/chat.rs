//! A conversation about text and images, answered word by word as the model writes.
//!
//! `cargo run --release --bin chat -- --model DIR [--adapter DIR]` talks at the terminal (`/help` lists what can be typed), or
//! answers standard input line by line; with `--prompt TEXT [--image FILE…]` it answers once.

use clap::Parser;
use firebrick::recipe::{Finished, exit, tools::Chat};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    exit(Chat::parse().main().map(|()| Finished::Checked))
}
