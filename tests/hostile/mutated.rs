//! Sound files and hostile ones, changed at random: what the fuzz targets do at length, in a few seconds.
//!
//! The changes follow from a seed, so that a failure repeats.

use super::files::{fixture, record};
use super::{bodies, files};
use serde_json::json;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Changed files per reader.
const ROUNDS: u64 = 4000;
/// Changes of one file, at most.
const CHANGES: u64 = 4;

/// Values at the edges of what a field can hold.
const EDGES: [u64; 10] =
    [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF_FFFF, 0xFFFF_FFFF, 1 << 32, 0x7FFF_FFFF_FFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF];

/// Pieces that mean something to one of the readers.
const WORDS: [&[u8]; 14] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b"\n",
    b"null",
    b"-1",
    b"1e999",
    b"../",
    b"cos\nsystem\n",
    b"PK\x03\x04",
    b"\x80\x02",
];

/// A stream of numbers: splitmix64.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// Changes `bytes` once; `other` is where a foreign piece comes from.
fn change(bytes: &mut Vec<u8>, other: &[u8], numbers: &mut Numbers) {
    let at = numbers.below(bytes.len() + 1);
    let piece = |of: &[u8], numbers: &mut Numbers| {
        let start = numbers.below(of.len() + 1);
        of[start..(start + numbers.below(64)).min(of.len())].to_vec()
    };
    match numbers.below(8) {
        0 => bytes.truncate(at),
        1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << numbers.below(8)),
        2 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte = numbers.next() as u8),
        3 => {
            let edge = EDGES[numbers.below(EDGES.len())].to_le_bytes();
            let width = 1 << numbers.below(4);
            bytes.iter_mut().skip(at).zip(&edge[..width]).for_each(|(byte, &new)| *byte = new);
        }
        4 => drop(bytes.splice(at..at, WORDS[numbers.below(WORDS.len())].iter().copied())),
        5 => {
            let end = (at + numbers.below(32)).min(bytes.len());
            bytes.drain(at..end);
        }
        6 => {
            let own = piece(bytes, numbers);
            bytes.splice(at..at, own);
        }
        _ => {
            let foreign = piece(other, numbers);
            bytes.splice(at..at, foreign);
        }
    }
}

/// Hands `ROUNDS` changed seeds to `body`.
fn rounds(name: &str, seeds: &[Vec<u8>], body: impl Fn(&[u8])) {
    seeds.iter().for_each(|seed| body(seed));
    for round in 0..ROUNDS {
        let mut numbers = Numbers(round);
        let mut bytes = seeds[numbers.below(seeds.len())].clone();
        for _ in 0..=numbers.next() % CHANGES {
            let other = &seeds[numbers.below(seeds.len())];
            change(&mut bytes, other, &mut numbers);
        }
        if catch_unwind(AssertUnwindSafe(|| body(&bytes))).is_err() {
            let kept = std::env::temp_dir().join(format!("firebrick-{name}-{round}"));
            fs::write(&kept, &bytes).unwrap();
            panic!("{name}, round {round}: the panic is above, the bytes are in {}", kept.display());
        }
    }
}

#[test]
fn safetensors_and_their_index() {
    let dir = tempfile::tempdir().unwrap();
    let adapter = fs::read(fixture("parity/peft_lora/adapter/adapter_model.safetensors")).unwrap();
    let small = {
        let path = dir.path().join("a.safetensors");
        let header = json!({
            "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
            "b": {"dtype": "BF16", "shape": [3], "data_offsets": [8, 14]},
            "c": {"dtype": "I64", "shape": [], "data_offsets": [14, 22]},
        });
        files::write_raw(&path, header.to_string().as_bytes(), &[63; 22]);
        fs::read(path).unwrap()
    };
    let seed = |tensors: &[&str], shard: &[u8]| {
        let map: serde_json::Map<_, _> =
            tensors.iter().map(|name| (name.to_string(), json!("a.safetensors"))).collect();
        let index = json!({"metadata": {"total_size": 22}, "weight_map": map}).to_string();
        [(index.len() as u16).to_le_bytes().as_slice(), index.as_bytes(), shard].concat()
    };
    // Small files first: in a large one most changes fall into values.
    let seeds =
        [seed(&["a", "b", "c"], &small), seed(&["a"], &small), seed(&["b"], &adapter[..adapter.len().min(6000)])];
    rounds("safetensors", &seeds, |bytes| bodies::safetensors_index(dir.path(), bytes));
}

#[test]
fn records() {
    let dir = tempfile::tempdir().unwrap();
    let array = fs::read(fixture("parity/records/data.json")).unwrap();
    let text = fs::read(fixture("parity/records/text.json")).unwrap();
    let lines = format!("{}\n{}\n", record(None), record(Some("a.png")));
    let named = |first: u8, content: &[u8]| [&[first], content].concat();
    let kinds = fs::read(fixture("data/kinds.jsonl")).unwrap();
    let seeds = [named(0, &array), named(0, &text), named(1, lines.as_bytes()), named(1, &kinds)];
    rounds("records", &seeds, |bytes| bodies::records(dir.path(), bytes));
}

#[test]
fn torch_files() {
    let mut seeds = Vec::new();
    for folder in ["pickle/sound", "pickle/hostile"] {
        let mut paths: Vec<_> = fs::read_dir(fixture(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension != "safetensors"));
        paths.sort();
        seeds.extend(paths.iter().map(|path| fs::read(path).unwrap()));
    }
    rounds("torch", &seeds, bodies::torch);
}
