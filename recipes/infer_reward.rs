//! What a reward model gives the answers of every record of some files.
//!
//! - `cargo run --release --bin infer_reward -- --model DIR --data predictions.jsonl --output DIR` judges the answers of a file of
//!   predictions (or the last one of a chat) and writes them with `rewards`, by the answers' ids.
//! - `… --format preference` judges both answers of a pair.
//! - `--resume` goes on with a run that was stopped; `--shard 1/4` does the first of four parts.

use clap::Parser;
use firebrick::recipe::{Finished, exit, tools::InferReward};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    exit(InferReward::parse().main().map(|()| Finished::Checked))
}
