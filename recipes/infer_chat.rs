//! A language model's answers to every record of some files.
//!
//! - `cargo run --release --bin infer_chat -- --model DIR --data FILE --output DIR` asks the records' questions (`--format` says
//!   of which kind they are) and writes one file of predictions for each model and each setting, and `info.json`.
//! - `--generation beams.json sampling.json` takes several settings in the form of a `generation_config.json`, `--set
//!   temperature=0.7` a single one; `--adapters NAME=DIR` takes several models.
//! - `--url http://127.0.0.1:8000/v1` asks a server with OpenAI's interface instead of a checkpoint.
//! - `--best-of 8 --reward-model DIR --set do_sample=true` keeps the answer that a reward model likes best.
//! - `--resume` goes on with a run that was stopped; `--shard 1/4` does the first of four parts.

use clap::Parser;
use firebrick::recipe::{Finished, exit, tools::InferChat};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    exit(InferChat::parse().main().map(|()| Finished::Checked))
}
