//! A checkpoint behind OpenAI's HTTP interface, with a chat page.
//!
//! `cargo run --release --bin serve -- --model DIR [--adapter DIR] [--adapters NAME=DIR…] [--port 8000]`

use clap::Parser;
use firebrick::recipe::{Finished, exit, tools::Serve};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    exit(Serve::parse().main().map(|()| Finished::Checked))
}
