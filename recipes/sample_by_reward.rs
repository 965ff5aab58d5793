//! Answers of prediction files, chosen by their rewards: the best, the worst, or some of both for preference training.
//!
//! `cargo run --release --bin sample_by_reward -- --predictions FILE… --choose best-worst --output OUT.jsonl [--pairs PAIRS.jsonl]`
//!
//! Reads `rewards` by the answers' ids, as `infer_reward` writes them. What `--pairs` writes, `dpo --data` reads.

use clap::Parser;
use firebrick::recipe::{Finished, exit, tools::SampleByReward};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    exit(SampleByReward::parse().main().map(|()| Finished::Checked))
}
