//! Bad input, the whole way: each case damages one thing among sound files and runs the real programs on them.
//!
//! A refusal is one message on standard error that names the file and what is wrong with it, the documented exit code,
//! nothing new on the disk, bounded memory and bounded time. Nothing that a file holds is ever run.

mod adapters;
mod bodies;
mod configs;
mod corpus;
mod corpus_run;
mod files;
mod images;
mod mutated;
mod pickles;
mod program;
mod records;
mod safetensors;
mod tokenizers;
mod usage;

use program::{Case, Program, check, check_with};
