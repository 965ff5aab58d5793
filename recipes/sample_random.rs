//! Answers of prediction files, chosen by chance.
//!
//! `cargo run --release --bin sample_random -- --predictions FILE… --num-samples 4 --output OUT.jsonl [--pairs PAIRS.jsonl] [--seed N]`
//!
//! Writes the records with the chosen answers; `--pairs` needs `rewards` in the records, as `infer_reward` writes them.

use clap::Parser;
use firebrick::recipe::{Finished, exit, tools::SampleRandom};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    exit(SampleRandom::parse().main().map(|()| Finished::Checked))
}
