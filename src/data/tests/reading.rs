//! Files, rows and the rules for turns; bad input.

use serde_json::{Value, json};

use super::{Folder, record};
use crate::data::{DataError, DataKind, Dataset, LlavaData, MessagesData, Place, Sample};
use crate::text::{Part, Role};

fn parse<K: DataKind>(kind: K, row: Value) -> Result<Sample<K::Shape>, DataError> {
    kind.parse(row.as_object().expect("an object"), &Place::new(std::path::Path::new("t.json"), 7))
}

/// Opens `content` and reads all of it; the first error's text.
fn refusal(name: &str, content: impl AsRef<[u8]>) -> String {
    let folder = Folder::new();
    let file = folder.write(name, content);
    let read = Dataset::open(LlavaData::default(), &[file], &[])
        .and_then(|data| (0..data.len()).try_for_each(|i| data.sample(i).map(drop)));
    let message = read.expect_err("bad input was accepted").to_string();
    message.replace(&format!("{}/", folder.0.path().display()), "")
}

fn check_refusal(name: &str, content: impl AsRef<[u8]>, expected: &[&str]) {
    let message = refusal(name, content);
    for part in expected {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

const GOOD: &str = r#"{"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}"#;

#[test]
fn broken_files_are_refused_with_the_line() {
    check_refusal("e.json", "", &["e.json: holds no record"]);
    check_refusal("e.json", " \n ", &["e.json: holds no record"]);
    check_refusal("e.json", "[]", &["e.json: holds no record"]);
    check_refusal("e.jsonl", "\n\n", &["e.jsonl: holds no record"]);
    check_refusal("e.txt", GOOD, &["e.txt", ".json", ".jsonl"]);
    check_refusal("e.json", "\n{}", &["e.json:2", "begins with an object", "name the file .jsonl"]);
    check_refusal("e.jsonl", format!("[{GOOD}]"), &["e.jsonl:1", "named .json"]);
    check_refusal("e.json", format!("[{GOOD},\n{GOOD},\n{{\"id\": 3,"), &["e.json:3", "cut off", "line 3"]);
    check_refusal("e.json", format!("[{GOOD},\n{GOOD}\n"), &["e.json:3", "closing `]` is missing"]);
    check_refusal("e.json", format!("[{GOOD},\n{GOOD},\n]"), &["e.json:3", "comma"]);
    check_refusal("e.json", format!("[{GOOD}\n{GOOD}]"), &["e.json:2", "expected `,` or `]`"]);
    check_refusal("e.json", format!("[{GOOD}]\nx"), &["e.json:2", "`x` after"]);
    check_refusal("e.json", format!("[{GOOD},\n 7]"), &["e.json:2", "a number"]);
    check_refusal("e.json", "[{\"a\":\n[1}, {}]", &["e.json:2", "expected `]` and found `}`"]);
    check_refusal("e.json", "[{\"id\": \"x,\n \"y\": 1}]", &["e.json:1", "does not end on its line"]);
    check_refusal("e.json", b"\xff\xfe[\0", &["e.json", "UTF-16LE"]);
}

#[test]
fn mistakes_inside_records_are_refused_with_their_own_line() {
    check_refusal("e.json", format!("[{GOOD},\n{{\"id\": 1,\n \"image\" 2}}]"), &["e.json:3", "malformed JSON"]);
    check_refusal("e.jsonl", format!("{GOOD}\n\n{{\"id\": 1"), &["e.jsonl:3", "EOF"]);
    check_refusal("e.jsonl", format!("{GOOD}\nnull"), &["e.jsonl:2", "`null`"]);
    let invalid = [b"[\n{\"id\": \"".as_slice(), b"\xc3\x28", b"\"}]"].concat();
    check_refusal("e.json", invalid, &["e.json:2", "malformed JSON", "unicode"]);
}

#[test]
fn missing_files_and_folders_are_named() {
    let folder = Folder::new();
    let missing = Dataset::open(LlavaData::default(), &[folder.path("no.json")], &[]);
    assert!(matches!(missing, Err(DataError::Open { .. })));
    assert!(matches!(Dataset::open(LlavaData::default(), &[], &[]), Err(DataError::NoFiles)));
    let file = folder.write("d.json", format!("[{GOOD}]"));
    let no_folder = Dataset::open(LlavaData::default(), &[file], &[folder.path("nowhere")]);
    assert!(matches!(no_folder, Err(DataError::ImageFolder { .. })));
}

#[test]
fn records_are_found_in_arrays_and_lines() {
    let folder = Folder::new();
    // A byte order mark, escaped quotes and brackets inside strings, and Windows line ends.
    let array = format!("\u{feff}[\r\n{GOOD},\r\n{{\"id\": \"\\\"}}]\\\\\", \"conversations\": []}}]\r\n");
    let files = [folder.write("one.json", &array), folder.write("two.jsonl", format!("\n{GOOD}\r\n  {GOOD}"))];
    let data = Dataset::open(LlavaData::default(), &files, &[]).expect("a data set");
    let lines: Vec<usize> = (0..data.len()).map(|i| data.place(i).line).collect();
    assert_eq!(lines, [2, 3, 2, 3]);
    assert_eq!(data.raw(3), GOOD.as_bytes());
    assert_eq!(data.row(1).expect("a row")["id"], json!("\"}]\\"));
    assert_eq!(data.sample(2).expect("a sample").id, "2", "a missing id is the record's number");
    assert!(data.place(1).to_string().ends_with("one.json:3"));
}

#[test]
fn the_fingerprint_is_that_of_the_contents() {
    let folder = Folder::new();
    let print = |name: &str, content: &str| {
        let file = folder.write(name, content);
        Dataset::open(LlavaData::default(), &[file], &[]).expect("a data set").fingerprint()
    };
    let first = print("a.jsonl", GOOD);
    assert_eq!(first.len(), 64);
    assert_eq!(first, print("b.jsonl", GOOD));
    assert_ne!(first, print("b.jsonl", &format!("{GOOD} ")));
}

#[test]
fn images_are_sought_in_the_folders_and_beside_the_file() {
    let folder = Folder::new();
    let inner = folder.path("inner");
    std::fs::create_dir(&inner).expect("a folder");
    std::fs::copy(folder.path("a.png"), inner.join("a.png")).expect("a copy");
    let absolute = folder.path("b.png");
    let records = [record(0, &["a.png", "b.png"], "q", "a"), record(1, &[absolute.to_str().expect("UTF-8")], "q", "a")];
    let file = folder.write("d.json", Value::from(records.to_vec()).to_string());
    let data = Dataset::open(LlavaData::default(), std::slice::from_ref(&file), std::slice::from_ref(&inner))
        .expect("a data set");
    let sample = data.sample(0).expect("a sample");
    assert_eq!(sample.images, [inner.join("a.png"), folder.path("b.png")]);
    assert_eq!(data.sample(1).expect("a sample").images, [absolute]);

    let file = folder.write("m.json", Value::from(vec![record(0, &["a.png", "no.png"], "q", "a")]).to_string());
    let data = Dataset::open(LlavaData::default(), &[file], std::slice::from_ref(&inner)).expect("a data set");
    let message = data.sample(0).expect_err("a missing image").to_string();
    let sought = format!(
        "image 2: \"no.png\" does not exist; sought as {}, {}",
        inner.join("no.png").display(),
        folder.path("no.png").display()
    );
    assert!(message.contains(&sought), "{message}");
}

#[test]
fn llava_turns_become_messages() {
    let sample = parse(
        LlavaData::default(),
        json!({"id": 12, "image": "a.png", "model": "", "conversations": [
            {"from": "system", "value": "Be brief."},
            {"from": "gpt", "value": "Hello."},
            {"from": "human", "value": "See <image> here."},
            {"from": "gpt", "value": "Yes."},
        ]}),
    )
    .expect("a sample");
    assert_eq!((sample.id.as_str(), sample.dropped_leading), ("12", 1));
    let roles: Vec<Role> = sample.conversation.messages.iter().map(|m| m.role).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant]);
    let parts = [Part::Text("See ".into()), Part::Image, Part::Text(" here.".into())];
    assert_eq!(sample.conversation.messages[1].content, parts);
    // "Be brief." + "See" "<image>" "here." + "Yes."
    assert_eq!(sample.signed_length(), 6);
}

#[test]
fn bad_records_are_refused_with_both_values() {
    let human = json!({"from": "human", "value": "q"});
    let gpt = json!({"from": "gpt", "value": "a"});
    let check = |row: Value, reason: &str, parts: &[&str]| {
        let error = parse(LlavaData::default(), row.clone()).expect_err("a bad record was accepted");
        assert_eq!(error.reason(), reason, "{row}");
        let message = error.to_string();
        assert!(message.starts_with("t.json:7"), "{message}");
        parts.iter().for_each(|part| assert!(message.contains(part), "{part:?} is not in {message:?}"));
    };
    check(json!({"id": 1}), "missing field", &["`conversations`"]);
    check(json!({"id": [], "conversations": [human, gpt]}), "wrong type", &["`id`", "a list of 0"]);
    check(json!({"conversations": "x"}), "wrong type", &["a list of objects", "\"x\""]);
    check(json!({"conversations": [human, 3]}), "wrong type", &["conversations[1]", "the number 3"]);
    check(json!({"conversations": [human, {"from": "gpt", "value": 3}]}), "wrong type", &["conversations[1].value"]);
    check(json!({"conversations": [human, {"from": "gpt"}]}), "missing field", &["conversations[1].value"]);
    check(json!({"image": 5, "conversations": [human, gpt]}), "wrong type", &["`image`", "5"]);
    check(json!({"image": [5], "conversations": [human, gpt]}), "wrong type", &["`image[0]`"]);
    check(
        json!({"conversations": [human, {"from": "bot", "value": ""}]}),
        "unknown role",
        &["turn 2", "\"bot\"", "gpt"],
    );
    check(json!({"conversations": []}), "empty conversation", &["`conversations`"]);
    check(json!({"conversations": [human]}), "no answer", &["1 turns"]);
    check(json!({"conversations": [gpt]}), "no answer", &[]);
    check(json!({"conversations": [human, human, gpt]}), "turns do not alternate", &["turn 2", "assistant", "user"]);
    check(json!({"conversations": [human, gpt, gpt]}), "turns do not alternate", &["turn 3"]);
    let system = json!({"from": "system", "value": "s"});
    check(json!({"conversations": [system, system, human, gpt]}), "turns do not alternate", &["turn 2", "system"]);
    check(json!({"conversations": [human, system, gpt]}), "turns do not alternate", &["turn 2"]);
    check(
        json!({"image": "a.png", "conversations": [human, gpt]}),
        "mismatched <image> count",
        &["0 `<image>`", "1 image", "<image>\\n"],
    );
    let marked = json!({"from": "human", "value": "<image> <image>"});
    check(
        json!({"image": "a.png", "conversations": [marked, gpt]}),
        "mismatched <image> count",
        &["2 `<image>`", "1 image"],
    );
    check(json!({"conversations": [marked, gpt]}), "mismatched <image> count", &["0 image"]);
}

#[test]
fn chat_rows_are_text_only() {
    let sample = parse(
        MessagesData::default(),
        json!({"messages": [
            {"role": "user", "content": "what does <image> mean?"},
            {"role": "assistant", "content": "no", "disable_loss": true},
            {"role": "user", "content": "and now?"},
            {"role": "assistant", "content": "a marker", "disable_loss": false},
        ]}),
    )
    .expect("a sample");
    let train: Vec<bool> = sample.conversation.messages.iter().map(|m| m.train).collect();
    assert_eq!(train, [true, false, true, true]);
    assert_eq!(sample.conversation.image_count(), 0);
    assert_eq!(sample.signed_length(), -9);
    let wrong = json!({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "disable_loss": 1}]});
    assert_eq!(parse(MessagesData::default(), wrong).expect_err("a number").reason(), "wrong type");
    let unknown = json!({"messages": [{"role": "human", "content": "q"}]});
    assert_eq!(parse(MessagesData::default(), unknown).expect_err("an unknown role").reason(), "unknown role");
}
