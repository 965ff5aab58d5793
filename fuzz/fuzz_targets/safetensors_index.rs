//! An index and a safetensors file: two bytes of the index's length, the index, the file.
#![no_main]

#[allow(dead_code)]
#[path = "../../tests/hostile/bodies.rs"]
mod bodies;

use std::sync::LazyLock;

static DIR: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().unwrap());

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::safetensors_index(DIR.path(), bytes));
