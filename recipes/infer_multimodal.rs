//! A vision-language model's answers to every record of some files.
//!
//! `cargo run --release --bin infer_multimodal -- --model DIR --data FILE --images DIR --output DIR`; the records are LLaVA's
//! unless `--format` says otherwise, and everything else is as in `infer_chat`.

use clap::Parser;
use firebrick::recipe::{Finished, exit, tools::InferMultimodal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    exit(InferMultimodal::parse().main().map(|()| Finished::Checked))
}
