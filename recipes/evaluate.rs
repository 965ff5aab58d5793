//! Metrics over prediction files, or over what a model says of a data set, with bootstrap intervals; and systems compared.
//!
//! `cargo run --release --bin evaluate -- --predictions FILE… --metrics bleu rouge_l [--references DATA] [--against OTHER.jsonl]`
//! `cargo run --release --bin evaluate -- --model DIR --data FILE --format llava --metrics exact_match [--reference-model DIR]`
//!
//! Prints a table; `--output OUT.json` holds every record's values. `--list` names the metrics. What is read of a record is
//! written down in `firebrick::pipelines::judging`.

use clap::Parser;
use firebrick::recipe::{Finished, exit, tools::Evaluate};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    exit(Evaluate::parse().main().map(|()| Finished::Checked))
}
