//! Answers of prediction files, chosen by statistical rejection sampling (Liu et al. 2023), and pairs of them.
//!
//! `cargo run --release --bin sample_rso -- --predictions FILE… --num-samples 8 --beta 0.5 --output OUT.jsonl [--pairs PAIRS.jsonl --pairing tournament]`
//!
//! Reads `rewards` by the answers' ids, as `infer_reward` writes them. What `--pairs` writes, `dpo --data` reads.

use clap::Parser;
use firebrick::recipe::{Finished, exit, tools::SampleRso};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    exit(SampleRso::parse().main().map(|()| Finished::Checked))
}
