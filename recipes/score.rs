//! Log-probabilities of the answers in a data set, one JSON line per record.
//!
//! `cargo run --release --bin score -- --model DIR [--adapter DIR] --data FILE --images DIR --output OUT.jsonl [--per-token]`
//!
//! Writes `index, id, num_tokens, num_supervised_tokens, sum_logprob`; with `--per-token` also `input_ids`, `labels`
//! (unshifted) and `token_logprobs`, one per supervised token in order.

use clap::Parser;
use firebrick::recipe::{Finished, exit, tools::Score};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    exit(Score::parse().main().map(|()| Finished::Checked))
}
