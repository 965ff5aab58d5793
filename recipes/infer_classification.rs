//! The class that a classifier takes every record of some files for.
//!
//! `cargo run --release --bin infer_classification -- --model DIR --data FILE --output DIR` writes every record with its
//! `predicted_label` and the `probabilities` of all classes. `--resume` goes on with a run that was stopped; `--shard 1/4` does the
//! first of four parts.

use clap::Parser;
use firebrick::recipe::{Finished, exit, tools::InferClassification};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    exit(InferClassification::parse().main().map(|()| Finished::Checked))
}
