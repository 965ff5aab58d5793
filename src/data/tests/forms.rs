//! The kinds of data, each with good rows and every way to spoil one.

mod align;
mod chats;
mod judged;
mod kinds;
mod pairs;
mod trl;

use serde_json::{Value, json};

use crate::data::{DataError, DataKind, Place, Sample};
use crate::text::{Conversation, Message, Part, Role};

fn place() -> Place {
    Place::new(std::path::Path::new("t.jsonl"), 7)
}

fn parse<K: DataKind>(kind: &K, row: &Value) -> Result<Sample<K::Shape>, DataError> {
    kind.parse(row.as_object().expect("an object"), &place())
}

fn read<K: DataKind>(kind: &K, row: &Value) -> Sample<K::Shape> {
    let sample = parse(kind, row).unwrap_or_else(|error| panic!("{error}: {row}"));
    assert_eq!(sample.conversation.image_count(), sample.images.len(), "{row}");
    assert_eq!(sample.place.line, 7);
    sample
}

/// The row is refused, with file and line, for this reason, and the message has all `parts`.
fn refuses<K: DataKind>(kind: &K, row: Value, reason: &str, parts: &[&str]) {
    let error = match parse(kind, &row) {
        Ok(sample) => panic!("{row} was taken as {sample:?}"),
        Err(error) => error,
    };
    let message = error.to_string();
    assert_eq!(error.reason(), reason, "{message}");
    assert!(message.starts_with("t.jsonl:7"), "{message}");
    assert!(error.place().is_some());
    parts.iter().for_each(|part| assert!(message.contains(part), "{part:?} is not in {message:?}"));
}

/// `row` with `field` set to `value`; the field's path is a JSON pointer.
fn with(row: &Value, field: &str, value: Value) -> Value {
    let mut row = row.clone();
    match row.pointer_mut(field) {
        Some(old) => *old = value,
        None => row[field.trim_start_matches('/')] = value,
    }
    row
}

/// `row` without the field of this name.
fn without(row: &Value, field: &str) -> Value {
    let mut row = row.clone();
    row.as_object_mut().expect("an object").shift_remove(field).expect("the field to take away");
    row
}

/// Who says what, `▣` for an image.
fn lines(messages: &[Message]) -> Vec<String> {
    let part = |part: &Part| match part {
        Part::Text(words) => words.clone(),
        Part::Image => "▣".to_owned(),
    };
    messages.iter().map(|m| format!("{}: {}", m.role, m.content.iter().map(part).collect::<String>())).collect()
}

fn said(conversation: &Conversation) -> Vec<String> {
    lines(&conversation.messages)
}

/// Every kind with images takes them alike: a path, a list, a table's object; nothing else.
fn images_are_files<K: DataKind>(kind: &K, row: &Value, field: &str) {
    assert_eq!(read(kind, &with(row, field, json!("a.png"))).images, ["a.png"].map(std::path::PathBuf::from));
    let table = json!({"bytes": null, "path": "file:///x/a.png"});
    assert_eq!(read(kind, &with(row, field, table)).images, ["/x/a.png"].map(std::path::PathBuf::from));
    for address in ["https://example.org/a.png", "http://a/b.png", "data:image/png;base64,AAAA"] {
        refuses(kind, with(row, field, json!(address)), "image is not a file", &["read from files"]);
    }
    refuses(kind, with(row, field, json!({"bytes": "AAAA", "path": null})), "image is not a file", &["own bytes"]);
    refuses(kind, with(row, field, json!(5)), "wrong type", &["path of an image", "5"]);
}

/// The speaker of every message.
fn roles(conversation: &Conversation) -> Vec<Role> {
    conversation.messages.iter().map(|message| message.role).collect()
}
