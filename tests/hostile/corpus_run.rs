//! Tables, compressed files and lists of sources that are damaged, the whole way through a program.

use super::files::{fixture, record};
use super::program::Work;
use super::{Case, Program, check_with};
use std::fs;

fn put(work: &Work, name: &str, content: impl AsRef<[u8]>) {
    fs::write(work.path("records").join(name), content).unwrap();
}

fn table(work: &Work, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(fixture("data/parquet/images.parquet")).unwrap();
    change(&mut bytes);
    put(work, "data.parquet", bytes);
}

#[test]
fn tables_that_are_none() {
    check_with(
        Program::DryRun,
        &["--data", "records/data.parquet"],
        &[
            Case { name: "empty", damage: |w| put(w, "data.parquet", ""), says: &["data.parquet", "0 bytes"] },
            Case {
                name: "cut in half",
                damage: |w| table(w, |bytes| bytes.truncate(bytes.len() / 2)),
                says: &["data.parquet", "cut off"],
            },
            Case {
                name: "another magic",
                damage: |w| table(w, |bytes| *bytes.last_mut().unwrap() = b'2'),
                says: &["data.parquet", "no Parquet file"],
            },
            Case {
                name: "pages of zeros",
                damage: |w| {
                    table(w, |bytes| {
                        let end = bytes.len() - 8;
                        let footer = u32::from_le_bytes(bytes[end..end + 4].try_into().unwrap()) as usize;
                        bytes[4..end - footer].fill(0);
                    })
                },
                says: &["data.parquet:row 1"],
            },
            Case {
                name: "no rows",
                damage: |w| put(w, "data.parquet", fs::read(fixture("data/parquet/no_rows.parquet")).unwrap()),
                says: &["data.parquet", "no row"],
            },
            Case {
                name: "other columns",
                damage: |w| put(w, "data.parquet", fs::read(fixture("data/parquet/pairs.parquet")).unwrap()),
                says: &["data.parquet:row 1", "conversations"],
            },
        ],
    );
}

#[test]
fn lists_that_cannot_be_satisfied() {
    check_with(
        Program::DryRun,
        &["--data", "records/list.json"],
        &[
            Case {
                name: "itself",
                damage: |w| put(w, "list.json", r#"{"sources": [{"records_path": "list.json"}]}"#),
                says: &["list.json:1", "this very list"],
            },
            Case {
                name: "too many",
                damage: |w| put(w, "list.json", r#"{"sources": [{"records_path": "data.json", "num_samples": 100}]}"#),
                says: &["list.json:1", "`num_samples` is 100"],
            },
            Case {
                name: "a mistake in a record of its own",
                damage: |w| {
                    put(w, "list.json", format!("{{\"sources\": [{{\"records\": [\n{},\n{{}}]}}]}}", record(None)))
                },
                says: &["list.json:3", "conversations"],
            },
        ],
    );
    let cut = Case { name: "no gzip", damage: |w| put(w, "data.jsonl.gz", "{}"), says: &["data.jsonl.gz", "unpacked"] };
    check_with(Program::DryRun, &["--data", "records/data.jsonl.gz"], &[cut]);
}
