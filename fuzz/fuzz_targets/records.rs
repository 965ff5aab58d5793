//! A data file: one byte that is even for `.json` and odd for `.jsonl`, then the file.
#![no_main]

#[allow(dead_code)]
#[path = "../../tests/hostile/bodies.rs"]
mod bodies;

use std::sync::LazyLock;

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::records(DIR.path(), bytes));
