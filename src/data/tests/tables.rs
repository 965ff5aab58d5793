//! Parquet and compressed files. The tables were written by pyarrow and Hugging Face `datasets`, which also say how
//! their rows read.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Folder, record};
use crate::data::{DataError, Dataset, LlavaData, MessagesData};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data/parquet").join(name)
}

fn open(path: &Path) -> Result<Dataset<MessagesData>, DataError> {
    Dataset::open(MessagesData::default(), &[path.to_owned()], &[])
}

fn check_rows(table: &str, expected: &str) {
    let data = open(&fixture(table)).expect("a table");
    let rows: Vec<Value> = (0..data.len()).map(|i| Value::Object(data.row(i).expect("a row"))).collect();
    let expected: Vec<Value> = serde_json::from_slice(&fs::read(fixture(expected)).expect("a file")).expect("an array");
    assert_eq!(rows.len(), expected.len(), "{table}");
    for (i, (row, expected)) in rows.iter().zip(&expected).enumerate() {
        for (name, value) in expected.as_object().expect("an object") {
            assert_eq!(&row[name], value, "{table}, row {}, {name}", i + 1);
        }
        assert_eq!(row, expected, "{table}, row {}", i + 1);
    }
}

#[test]
fn rows_are_those_that_pyarrow_reads() {
    for codec in ["none", "snappy", "gzip", "zstd", "lz4", "brotli", "v2"] {
        check_rows(&format!("{codec}.parquet"), "codecs.json");
    }
    check_rows("types.parquet", "types.json");
    check_rows("images.parquet", "images.json");
    check_rows("bytes.parquet", "bytes.json");
    check_rows("pairs.parquet", "pairs.json");
}

#[test]
fn old_timestamps_and_null_structures_are_read() {
    let old = open(&fixture("int96.parquet")).expect("a table");
    assert_eq!(old.row(0).expect("a row")["t"], "2024-02-29T12:30:15.250");
    assert_eq!(old.row(1).expect("a row")["t"], Value::Null);
    let nulls = open(&fixture("nulls.parquet")).expect("a table");
    assert_eq!(nulls.len(), 3);
    assert_eq!(nulls.row(2).expect("a row")["a"], Value::Null);
}

#[test]
fn errors_name_the_row() {
    let data = open(&fixture("pairs.parquet")).expect("a table");
    let message = data.sample(1).expect_err("pairs are no messages").to_string();
    assert!(message.contains("pairs.parquet:row 2: the record has no `messages`"), "{message}");
}

#[test]
fn pictures_in_a_table_are_files_as_long_as_the_data_set_lives() {
    let data = Dataset::open(LlavaData::default(), &[fixture("images.parquet")], &[]).expect("a table");
    let paths: Vec<PathBuf> = (0..data.len()).flat_map(|i| data.sample(i).expect("a sample").images).collect();
    assert_eq!(paths.len(), 2);
    let colours: Vec<[u8; 3]> =
        paths.iter().map(|path| ::image::open(path).expect("a picture").to_rgb8().get_pixel(2, 2).0).collect();
    assert_eq!(colours[0], [250, 20, 30]);
    assert!(colours[1][1] > 190 && colours[1][0] < 30, "JPEG, nearly green: {colours:?}");
    let folder = paths[0].parent().expect("a folder").to_owned();
    let print = data.fingerprint();
    drop(data);
    assert!(!folder.exists(), "what was unpacked is removed");
    let again = Dataset::open(LlavaData::default(), &[fixture("images.parquet")], &[]).expect("a table");
    assert_eq!(again.fingerprint(), print, "wherever it was unpacked to");
}

/// The message for a damaged copy of a table.
fn refusal(folder: &Folder, bytes: &[u8]) -> String {
    let path = folder.write("t.parquet", bytes);
    open(&path).expect_err("a damaged table was accepted").to_string()
}

#[test]
fn damaged_tables_are_refused() {
    let folder = Folder::new();
    let whole = fs::read(fixture("snappy.parquet")).expect("a table");
    let check = |bytes: &[u8], expected: &str| {
        let message = refusal(&folder, bytes);
        assert!(message.contains("t.parquet") && message.contains(expected), "{expected:?} is not in {message:?}");
    };
    check(b"", "0 bytes");
    check(b"PAR1", "4 bytes");
    check(&whole[..whole.len() / 2], "cut off");
    check(b"{\"id\": 1, \"name\": \"no table\"}", "no Parquet file");
    check(&[&whole[..whole.len() - 4], b"PAR2"].concat(), "no Parquet file");
    let tail = whole.len() - 8;
    check(&[&whole[..tail], &[255, 255, 255, 127], b"PAR1"].concat(), "claims 2147483647 bytes");
    // Pages of zeros: everything is there but the values.
    let mut blank = whole.clone();
    let footer = tail - u32::from_le_bytes([whole[tail], whole[tail + 1], whole[tail + 2], whole[tail + 3]]) as usize;
    blank[4..footer].fill(0);
    check(&blank, "t.parquet:row 1: cannot be read as Parquet");
    let message = open(&fixture("no_rows.parquet")).expect_err("no rows").to_string();
    assert!(message.contains("no_rows.parquet: the table has no row"), "{message}");
}

#[test]
fn a_flipped_byte_is_an_error_or_another_value_and_never_a_panic() {
    let folder = Folder::new();
    let path = folder.path("t.parquet");
    for table in ["none", "snappy", "v2", "types", "images"] {
        let whole = fs::read(fixture(&format!("{table}.parquet"))).expect("a table");
        let step = whole.len() / 97 + 1;
        for (at, flip) in (0..whole.len()).step_by(step).zip([0xFF, 0x01, 0x80, 0x7F].into_iter().cycle()) {
            let mut bytes = whole.clone();
            bytes[at] ^= flip;
            fs::write(&path, bytes).expect("a file");
            if let Ok(data) = open(&path) {
                (0..data.len()).for_each(|i| assert!(data.row(i).is_ok(), "what was unpacked is JSON"));
            }
        }
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory");
    encoder.finish().expect("memory")
}

#[test]
fn compressed_files_are_read_as_what_is_in_them() {
    let folder = Folder::new();
    let records: Vec<Value> = (0..5).map(|i| record(i, &["a.png"], "q", "a")).collect();
    let lines: Vec<String> = records.iter().map(Value::to_string).collect();
    let array = Value::from(records).to_string();
    // Two members, as when files are joined.
    let both =
        [gzip(lines[..2].join("\n").as_bytes()), gzip(format!("\n{}", lines[2..].join("\n")).as_bytes())].concat();
    let open = |path: PathBuf| Dataset::open(LlavaData::default(), &[path], &[]);
    for path in [folder.write("d.jsonl.gz", &both), folder.write("d.json.gz", gzip(array.as_bytes()))] {
        let data = open(path).expect("a data set");
        assert_eq!(data.len(), 5);
        assert_eq!(data.sample(4).expect("a sample").images, [folder.path("a.png")], "beside the file");
    }
    let plain = open(folder.write("d.jsonl", lines.join("\n"))).expect("a data set");
    let packed = open(folder.path("d.jsonl.gz")).expect("a data set");
    assert_eq!(packed.fingerprint(), plain.fingerprint());
    assert!(packed.place(3).to_string().ends_with("d.jsonl.gz:4"));

    let message = |path| open(path).expect_err("refused").to_string();
    let cut = message(folder.write("c.jsonl.gz", &both[..both.len() - 20]));
    assert!(cut.contains("c.jsonl.gz: cannot be unpacked"), "{cut}");
    assert!(message(folder.write("n.json.gz", array)).contains("n.json.gz: cannot be unpacked"));
    assert!(message(folder.write("e.jsonl.gz", gzip(b""))).contains("e.jsonl.gz: holds no record"));
    assert!(message(folder.write("e.csv.gz", gzip(b"a"))).contains("data files end in"));
}
