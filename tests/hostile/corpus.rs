//! A corpus of malformed data through the library's readers: each case is an error, or records that are refused one by
//! one, with the file, the line or row, and the reason; and never a panic.

use super::files;
use firebrick::data::{
    ClassificationData, DataError, DataKind, Dataset, LlavaData, MessagesData, PreferenceData, PreferenceMarginData,
    UnpairedPreferenceData,
};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Each of these files is read in a small part of this.
const HANG: Duration = Duration::from_secs(20);

/// What becomes of a file.
#[derive(Debug)]
enum Outcome {
    /// It is refused as a whole, with these words.
    File(&'static [&'static str]),
    /// It is read: so many records are good, and so many refused for each of these reasons.
    Records(usize, &'static [(&'static str, usize)]),
}

use Outcome::{File, Records};

/// A file of a temporary folder, and what becomes of it.
struct Case {
    name: &'static str,
    content: Vec<u8>,
    outcome: Outcome,
}

fn case(name: &'static str, content: impl Into<Vec<u8>>, outcome: Outcome) -> Case {
    Case { name, content: content.into(), outcome }
}

/// Reads a file wholly; every message must name it.
fn read<K: DataKind>(kind: K, path: &Path) -> Result<(usize, BTreeMap<&'static str, usize>), DataError> {
    let data = Dataset::open(kind, &[path.to_owned()], &[])?;
    let mut good = 0;
    let mut refused = BTreeMap::new();
    for index in 0..data.len() {
        match data.sample(index) {
            Ok(_) => good += 1,
            Err(error) => {
                let (message, place) = (error.to_string(), data.place(index).to_string());
                assert!(message.starts_with(&place), "{message:?} does not begin with {place:?}");
                assert!(message.len() < 2000, "a message of {} bytes", message.len());
                *refused.entry(error.reason()).or_insert(0) += 1;
            }
        }
    }
    Ok((good, refused))
}

fn check<K: DataKind>(kind: &K, folder: &Path, case: Case) {
    let Case { name, content, outcome } = case;
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    let start = Instant::now();
    let found = read(kind.clone(), &path);
    assert!(start.elapsed() < HANG, "{name}: {:?}", start.elapsed());
    match (&outcome, found) {
        (File(words), Err(error)) => {
            let message = error.to_string();
            assert!(message.contains(name), "{name}: {message}");
            words.iter().for_each(|word| assert!(message.contains(word), "{name}: {word:?} is not in {message:?}"));
        }
        (Records(good, reasons), Ok(found)) => {
            assert_eq!(found, (*good, reasons.iter().copied().collect()), "{name}");
        }
        (expected, found) => panic!("{name}: expected {expected:?}, found {found:?}"),
    }
}

const GOOD: &str = r#"{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#;

fn lines(lines: &[&str]) -> Vec<u8> {
    lines.join("\n").into_bytes()
}

#[test]
fn text_files() {
    let folder = tempfile::tempdir().unwrap();
    let bom = "\u{feff}";
    let wide = format!("{GOOD}\n{}\n{GOOD}", GOOD.replace("\"q\"", &format!("\"{}\"", "q ".repeat(5 << 20))));
    let invalid = GOOD.replace('q', "@").into_bytes();
    let invalid: Vec<u8> = invalid.into_iter().map(|byte| if byte == b'@' { 0xC3 } else { byte }).collect();
    let invalid = [GOOD.as_bytes(), b"\n", &invalid, b"\n"].concat();
    for case in [
        case("empty.jsonl", "", File(&["no record"])),
        case("empty.json", "", File(&["no record"])),
        case("blank.jsonl", "\n \r\n\n", File(&["no record"])),
        case("bom_alone.jsonl", bom, File(&["no record"])),
        case("bom.jsonl", format!("{bom}{GOOD}\n{GOOD}"), Records(2, &[])),
        case("bom.json", format!("{bom}[{GOOD}]"), Records(1, &[])),
        case("utf16.jsonl", [0xFF, 0xFE, b'{', 0], File(&["UTF-16LE"])),
        case("windows.jsonl", format!("{GOOD}\r\n\r\n{GOOD}\r\n"), Records(2, &[])),
        case("no_newline.jsonl", format!("{GOOD}\n\n\n{GOOD}"), Records(2, &[])),
        case("old_mac.jsonl", format!("{GOOD}\r{GOOD}\r"), Records(0, &[("malformed JSON", 1)])),
        case("cut.jsonl", lines(&[GOOD, &GOOD[..40]]), Records(1, &[("malformed JSON", 1)])),
        case("cut.json", format!("[{GOOD},\n{}", &GOOD[..40]), File(&["cut.json:2", "cut off"])),
        case("invalid_utf8.jsonl", invalid, Records(1, &[("malformed JSON", 1)])),
        case("ten_megabytes.jsonl", wide, Records(3, &[])),
        case("deep.jsonl", lines(&[GOOD, &"[".repeat(1 << 20), GOOD]), Records(2, &[("record is not an object", 1)])),
        case("deep_field.jsonl", format!("{{\"x\": {}}}", "[".repeat(1 << 20)), Records(0, &[("malformed JSON", 1)])),
        case("nan.jsonl", GOOD.replace("\"q\"", "NaN"), Records(0, &[("malformed JSON", 1)])),
        case("huge_number.jsonl", "{\"messages\": 1e999}", Records(0, &[("malformed JSON", 1)])),
        case("array.jsonl", format!("[{GOOD}]"), File(&["array.jsonl:1", "named .json"])),
        case("binary.jsonl", [0, 159, 146, 150].repeat(5000), Records(0, &[("record is not an object", 1)])),
        case("picture.json", b"\x89PNG\r\n\x1a\n".to_vec(), File(&["picture.json:1"])),
    ] {
        check(&MessagesData::default(), folder.path(), case);
    }
}

#[test]
fn wrong_types_and_unknown_roles() {
    let folder = tempfile::tempdir().unwrap();
    let content = lines(&[
        GOOD,
        "null",
        "7",
        "\"text\"",
        "[1]",
        "{}",
        r#"{"messages": null}"#,
        r#"{"messages": {"role": "user"}}"#,
        r#"{"messages": [7]}"#,
        r#"{"messages": []}"#,
        r#"{"messages": [{"role": "user"}]}"#,
        r#"{"messages": [{"role": 5, "content": "q"}]}"#,
        r#"{"messages": [{"role": "tool_of_mine", "content": "q"}]}"#,
        r#"{"messages": [{"role": "User", "content": "q"}]}"#,
        r#"{"messages": [{"role": "user", "content": 5}, {"role": "assistant", "content": "a"}]}"#,
        r#"{"messages": [{"role": "user", "content": "q"}]}"#,
        r#"{"messages": [{"role": "user", "content": "q"}, {"role": "user", "content": "q"}]}"#,
        r#"{"id": {}, "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}"#,
    ]);
    let path = folder.path().join("types.jsonl");
    fs::write(&path, content).unwrap();
    let (good, refused) = read(MessagesData::default(), &path).unwrap();
    assert_eq!(good, 1, "{refused:?}");
    assert_eq!(refused.values().sum::<usize>(), 17, "every other line is refused and counted: {refused:?}");
    assert_eq!(refused["record is not an object"], 4);
    assert_eq!(refused["unknown role"], 2);
}

#[test]
fn tables() {
    let folder = tempfile::tempdir().unwrap();
    let table = |name: &str| fs::read(files::fixture("data").join("parquet").join(name)).unwrap();
    let whole = table("snappy.parquet");
    let half = whole[..whole.len() / 2].to_vec();
    let magic = [&whole[..whole.len() - 4], b"PARX"].concat();
    let huge = [&whole[..whole.len() - 8], &[255, 255, 255, 255], b"PAR1"].concat();
    for case in [
        case("whole.parquet", whole.clone(), Records(15, &[])),
        case("empty.parquet", "", File(&["0 bytes"])),
        case("half.parquet", half, File(&["cut off"])),
        case("magic.parquet", magic, File(&["no Parquet file"])),
        case("text.parquet", lines(&[GOOD, GOOD]), File(&["no Parquet file"])),
        case("footer.parquet", huge, File(&["4294967295 bytes"])),
        case("no_rows.parquet", table("no_rows.parquet"), File(&["no row"])),
        case("other.parquet", table("types.parquet"), Records(0, &[("missing field", 3)])),
        case("nulls.parquet", table("nulls.parquet"), Records(0, &[("missing field", 3)])),
        case("no_gzip.jsonl.gz", GOOD, File(&["unpacked"])),
        case("no_table.parquet.gz", GOOD, File(&["data files end in"])),
    ] {
        check(&MessagesData::default(), folder.path(), case);
    }
}

#[test]
fn lists_of_sources() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("good.jsonl"), lines(&[GOOD, GOOD])).unwrap();
    for case in [
        case("itself.json", r#"{"sources": [{"records_path": "itself.json"}]}"#, File(&["very list"])),
        case("a.json", r#"{"sources": [{"records_path": "itself.json"}]}"#, File(&["is a list of sources"])),
        case("more.json", r#"{"sources": [{"records_path": "good.jsonl", "num_samples": 3}]}"#, File(&["3", "2 rows"])),
        case("slip.json", r#"{"sources": [{"record_path": "good.jsonl"}]}"#, File(&["did you mean `records_path`?"])),
        case("gone.json", r#"{"sources": [{"records_path": "gone.jsonl"}]}"#, File(&["gone.jsonl: cannot be read"])),
        case("cut_list.json", r#"{"sources": [{"records_path": "good.jsonl""#, File(&["malformed JSON"])),
        case("deep_list.json", format!("{{\"sources\": {}", "[".repeat(1 << 20)), File(&["malformed JSON"])),
        case(
            "deeper.json",
            format!("{{\"sources\": [{}{}]}}", "[".repeat(1 << 20), "]".repeat(1 << 20)),
            File(&["object"]),
        ),
        case("good.json", r#"{"sources": [{"records_path": "good.jsonl"}]}"#, Records(2, &[])),
    ] {
        check(&MessagesData::default(), folder.path(), case);
    }
}

#[test]
fn images_that_are_text() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("text.png"), "no picture").unwrap();
    let record = files::record(Some("text.png"));
    let path = folder.path().join("images.jsonl");
    fs::write(&path, record.to_string()).unwrap();
    // The data set finds files; whether they are pictures is the preflight's question.
    let data = Dataset::open(LlavaData::default(), &[path], &[]).unwrap();
    let sample = data.sample(0).unwrap();
    let message = firebrick::image::probe(&sample.images[0]).unwrap_err().to_string();
    assert!(message.contains("text.png"), "{message}");
    // In a table they are unpacked to a file first.
    let table = files::fixture("data").join("parquet/bytes.parquet");
    let data = Dataset::open(LlavaData::default(), &[table], &[]).unwrap();
    let name = data.row(0).unwrap()["text"].as_str().unwrap().to_owned();
    assert!(name.ends_with(".png") && name.len() == 64 + 4, "{name}");
}

#[test]
fn pairs_without_their_parts() {
    let folder = tempfile::tempdir().unwrap();
    let good = r#"{"prompt": "q", "chosen": "a", "rejected": "b"}"#;
    let conversational = r#"{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]}"#;
    let rows = [
        good,
        conversational,
        r#"{"prompt": "q", "rejected": "b"}"#,
        r#"{"prompt": "q", "chosen": "a"}"#,
        r#"{"prompt": "q", "chosen": "a", "rejected": "a"}"#,
        r#"{"prompt": "q", "chosen": 5, "rejected": "a"}"#,
        r#"{"prompt": "q", "chosen": "a", "rejected": ""}"#,
        r#"{"prompt": "q", "chosen": [{"role": "judge", "content": "a"}], "rejected": "b"}"#,
    ];
    let outcome = Records(2, &[("missing field", 2), ("equal answers", 1), ("wrong type", 2), ("empty answer", 1)]);
    check(&PreferenceData::default(), folder.path(), case("pairs.jsonl", lines(&rows), outcome));
    let margins = [
        r#"{"prompt": "q", "chosen": "a", "rejected": "b", "margin": 0.5}"#,
        good,
        r#"{"prompt": "q", "chosen": "a", "rejected": "b", "margin": NaN}"#,
        r#"{"prompt": "q", "chosen": "a", "rejected": "b", "margin": "NaN"}"#,
    ];
    let outcome = Records(1, &[("missing field", 1), ("malformed JSON", 1), ("wrong type", 1)]);
    check(&PreferenceMarginData::default(), folder.path(), case("margins.jsonl", lines(&margins), outcome));
    let judged = [
        r#"{"prompt": "q", "completion": "a", "label": true}"#,
        r#"{"prompt": "q", "completion": "a", "label": "yes"}"#,
        r#"{"prompt": "q", "label": true}"#,
    ];
    let outcome = Records(1, &[("wrong type", 1), ("missing field", 1)]);
    check(&UnpairedPreferenceData::default(), folder.path(), case("judged.jsonl", lines(&judged), outcome));
    let labels = [
        r#"{"messages": [{"role": "user", "content": "q"}], "label": 1}"#,
        r#"{"messages": [{"role": "user", "content": "q"}], "label": -1}"#,
        r#"{"messages": [{"role": "user", "content": "q"}], "label": []}"#,
        r#"{"messages": [{"role": "user", "content": "q"}]}"#,
    ];
    let outcome = Records(1, &[("wrong type", 2), ("missing field", 1)]);
    check(&ClassificationData::default(), folder.path(), case("labels.jsonl", lines(&labels), outcome));
}
