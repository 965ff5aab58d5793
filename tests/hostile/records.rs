//! Data files.

use super::files::{nested, record};
use super::program::Work;
use super::{Case, Program, check, check_with};
use serde_json::json;
use std::fs;

const READERS: &[Program] = &[Program::DryRun, Program::Train, Program::Score];

/// Writes the data file.
fn data(work: &Work, content: impl AsRef<[u8]>) {
    fs::write(work.data(), content).unwrap();
}

/// Writes a good record on line 2 and another on line 3.
fn second(work: &Work, bad: &str) {
    data(work, format!("[\n{},\n{bad}\n]\n", record(None)));
}

fn with_image(work: &Work, image: &str) {
    second(work, &record(Some(image)).to_string());
}

#[test]
fn files_that_hold_no_records() {
    check(
        READERS,
        &[
            Case { name: "none", damage: |w| fs::remove_file(w.data()).unwrap(), says: &["data.json"] },
            Case { name: "empty", damage: |w| data(w, ""), says: &["data.json"] },
            Case { name: "white space", damage: |w| data(w, " \n \n"), says: &["data.json"] },
            Case { name: "no record in the list", damage: |w| data(w, "[]"), says: &["data.json"] },
            Case { name: "an object", damage: |w| data(w, "{}"), says: &["data.json:1", "`[` and `]`"] },
            Case {
                name: "binary",
                damage: |w| data(w, [0u8, 1, 2, 255, 254, 128].repeat(1000)),
                says: &["data.json:1"],
            },
            Case { name: "NUL bytes", damage: |w| data(w, [0u8; 4096]), says: &["data.json:1"] },
            Case {
                name: "UTF-16",
                damage: |w| data(w, [0xFF, 0xFE, b'[', 0, b']', 0]),
                says: &["data.json", "UTF-16LE"],
            },
            Case { name: "a list of numbers", damage: |w| data(w, "[\n1,\n2]"), says: &["data.json:2", "a number"] },
            Case {
                name: "cut",
                damage: |w| data(w, format!("[\n{},\n{{\"id\": ", record(None))),
                says: &["data.json:3"],
            },
            Case {
                name: "brackets without end",
                damage: |w| data(w, "[".repeat(5_000_000)),
                says: &["data.json:1", "a list"],
            },
            Case {
                name: "a folder",
                damage: |w| {
                    fs::remove_file(w.data()).unwrap();
                    fs::create_dir(w.data()).unwrap();
                },
                says: &["data.json", "directory"],
            },
        ],
    );
}

#[test]
fn records_that_are_none() {
    check(
        READERS,
        &[
            Case { name: "a wrong bracket", damage: |w| second(w, r#"{"id": [1}}"#), says: &["data.json:3"] },
            Case { name: "a missing colon", damage: |w| second(w, r#"{"id" 1}"#), says: &["data.json:3"] },
            Case { name: "an open string", damage: |w| second(w, "{\"id\": \"a\n}"), says: &["data.json:3", "string"] },
            Case {
                name: "a control character",
                damage: |w| second(w, "{\"id\": \"a\u{1}\"}"),
                says: &["data.json:3", "control character"],
            },
            Case {
                name: "NUL in a value",
                damage: |w| second(w, &record(None).to_string().replace("What?", "\0")),
                says: &["data.json:3", "control character"],
            },
            Case {
                name: "no UTF-8",
                damage: |w| {
                    let bad = record(None).to_string().replace("What?", "@");
                    let bytes = format!("[\n{},\n{bad}\n]\n", record(None)).into_bytes();
                    data(w, bytes.into_iter().map(|byte| if byte == b'@' { 0xFF } else { byte }).collect::<Vec<u8>>());
                },
                says: &["data.json:3", "unicode"],
            },
            Case {
                name: "half a surrogate",
                damage: |w| second(w, &record(None).to_string().replace("What?", "\\ud800")),
                says: &["data.json:3"],
            },
            Case {
                name: "nested without end",
                damage: |w| second(w, &format!("{{\"id\": \"a\", \"conversations\": {}}}", nested(2_000_000))),
                says: &["data.json:3", "recursion limit"],
            },
            Case {
                name: "a field nobody reads, nested without end",
                damage: |w| {
                    second(
                        w,
                        &record(None).to_string().replace("\"id\"", &format!("\"x\": {}, \"id\"", nested(2_000_000))),
                    )
                },
                says: &["data.json:3", "recursion limit"],
            },
            Case { name: "nothing in it", damage: |w| second(w, "{}"), says: &["data.json:3", "conversations"] },
            Case {
                name: "a number of turns",
                damage: |w| second(w, r#"{"conversations": 7}"#),
                says: &["data.json:3", "conversations"],
            },
            Case {
                name: "no turns",
                damage: |w| second(w, r#"{"conversations": []}"#),
                says: &["data.json:3", "conversations"],
            },
            Case {
                name: "turns of null",
                damage: |w| second(w, r#"{"conversations": [null, null]}"#),
                says: &["data.json:3", "conversations[0]"],
            },
            Case {
                name: "a number for words",
                damage: |w| {
                    second(w, r#"{"conversations": [{"from": "human", "value": 3}, {"from": "gpt", "value": "a"}]}"#)
                },
                says: &["data.json:3", "conversations[0].value"],
            },
            Case {
                name: "an object for an image",
                damage: |w| {
                    let mut bad = record(Some("ridge.png"));
                    bad["image"] = json!({"path": "ridge.png"});
                    second(w, &bad.to_string());
                },
                says: &["data.json:3", "image"],
            },
            Case {
                name: "a million images named, one there",
                damage: |w| {
                    let mut bad = record(Some("ridge.png"));
                    bad["image"] = json!(vec!["ridge.png"; 1_000_000]);
                    second(w, &bad.to_string());
                },
                says: &["data.json:3", "1000000"],
            },
            Case {
                name: "a role of a megabyte",
                damage: |w| second(w, &record(None).to_string().replace("human", &"x".repeat(1 << 20))),
                says: &["data.json:3"],
            },
        ],
    );
}

#[test]
fn images_that_are_not_where_they_should_be() {
    // A record may name any file that its reader may read, absolute or above the folder, as in LLaVA's own code: the file
    // must then be a picture. What it holds otherwise is not shown.
    check(
        READERS,
        &[
            Case { name: "not there", damage: |w| with_image(w, "nowhere.png"), says: &["data.json:3", "nowhere.png"] },
            Case {
                name: "above the folder, no picture",
                damage: |w| with_image(w, "../../model/config.json"),
                says: &["data.json:3", "config.json"],
            },
            Case {
                name: "absolute, no picture",
                damage: |w| with_image(w, "/etc/passwd"),
                says: &["data.json:3", "/etc/passwd"],
            },
            Case {
                name: "absolute, not there",
                damage: |w| with_image(w, "/nowhere/x.png"),
                says: &["data.json:3", "/nowhere/x.png"],
            },
            Case { name: "a folder", damage: |w| with_image(w, "."), says: &["data.json:3"] },
            Case { name: "no name", damage: |w| with_image(w, ""), says: &["data.json:3"] },
            Case { name: "NUL in the name", damage: |w| with_image(w, "ridge.png\0.txt"), says: &["data.json:3"] },
            Case {
                name: "a name of a megabyte",
                damage: |w| with_image(w, &"x".repeat(1 << 20)),
                says: &["data.json:3"],
            },
            Case {
                name: "a device that never ends",
                damage: |w| with_image(w, "/dev/zero"),
                says: &["data.json:3", "/dev/zero"],
            },
        ],
    );
}

#[cfg(unix)]
#[test]
fn files_that_are_not_files() {
    use std::os::unix::fs::symlink;
    use std::path::Path;
    // A pipe that nobody writes to would be waited for without end.
    fn pipe(path: &Path) {
        let _ = fs::remove_file(path);
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    }
    check(
        &[Program::DryRun, Program::Score],
        &[
            Case {
                name: "an image that links to itself",
                damage: |w| {
                    symlink("loop.png", w.images().join("loop.png")).unwrap();
                    with_image(w, "loop.png");
                },
                says: &["data.json:3", "loop.png"],
            },
            Case {
                name: "an image that is a pipe",
                damage: |w| {
                    pipe(&w.images().join("pipe.png"));
                    with_image(w, "pipe.png");
                },
                says: &["data.json:3", "pipe.png"],
            },
            Case {
                name: "records that link to themselves",
                damage: |w| {
                    fs::remove_file(w.data()).unwrap();
                    symlink("data.json", w.data()).unwrap();
                },
                says: &["data.json"],
            },
            Case {
                name: "records from a pipe",
                damage: |w| pipe(&w.data()),
                says: &["data.json", "not a regular file"],
            },
            Case {
                name: "a configuration from a pipe",
                damage: |w| pipe(&w.model().join("config.json")),
                says: &["config.json", "not a regular file"],
            },
            Case {
                name: "weights from a pipe",
                damage: |w| {
                    pipe(&w.model().join("model.safetensors"));
                    fs::remove_file(w.model().join("tokenizer.json")).unwrap();
                },
                says: &["model"],
            },
        ],
    );
}

/// A second record of 50 MB, which is one line.
fn long(work: &Work) {
    second(work, &record(None).to_string().replace("An answer.", &"An answer. ".repeat(50_000_000 / 11)));
}

#[test]
fn one_line_of_fifty_megabytes() {
    // A tokenizer needs more than a hundred bytes for each byte of text: such a record must be refused before it gets it.
    let refused = Case { name: "too long", damage: long, says: &["data.json:3"] };
    check(&[Program::DryRun, Program::Score], &[refused]);
    let refused = Case { name: "too long", damage: long, says: &["data.json:3"] };
    check_with(Program::DryRun, &["--set", "data.overlong=error"], &[refused]);
}

#[test]
fn lines_of_their_own() {
    fn lines(work: &Work, content: &[u8]) {
        fs::write(work.path("records/data.jsonl"), content).unwrap();
    }
    check_with(
        Program::DryRun,
        &["--data", "records/data.jsonl"],
        &[
            Case { name: "a list", damage: |w| lines(w, b"[{}]"), says: &["data.jsonl:1"] },
            Case {
                name: "no JSON on line 3",
                damage: |w| lines(w, format!("{0}\n{0}\n{{nope\n", record(None)).as_bytes()),
                says: &["data.jsonl:3"],
            },
            Case {
                name: "half a line",
                damage: |w| lines(w, format!("{0}\n{{\"id\": \"", record(None)).as_bytes()),
                says: &["data.jsonl:2"],
            },
            Case { name: "no UTF-8", damage: |w| lines(w, b"{\"id\": \"\xc3\x28\"}\n"), says: &["data.jsonl:1"] },
            Case { name: "binary", damage: |w| lines(w, &[7, 0, 255].repeat(5000)), says: &["data.jsonl:1"] },
        ],
    );
    let other = Case { name: "another kind", damage: |_| (), says: &["model.safetensors", ".jsonl"] };
    check_with(Program::DryRun, &["--data", "model/model.safetensors"], &[other]);
}
