//! PyTorch's files: programs that nobody runs.

use super::files::{cut, fixture, zip};
use super::program::{Work, complain, complaints};
use super::{Case, Program, check};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

const READERS: &[Program] = &[Program::Score, Program::Convert, Program::Train];

fn weights(work: &Work) -> PathBuf {
    work.model().join("pytorch_model.bin")
}

/// Puts `content` in place of the weights.
fn pickle(work: &Work, content: &[u8]) {
    fs::remove_file(work.model().join("model.safetensors")).unwrap();
    fs::write(weights(work), content).unwrap();
}

/// As `torch.save` wraps a pickle.
fn archive(work: &Work, content: &[u8]) {
    pickle(work, &zip(&[("archive/data.pkl", content), ("archive/version", b"3\n")]));
}

/// A pickle of protocol 0 that calls `module.name` with a command, which would leave a file in the folder that it runs in.
fn call(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n(S'touch the-pickle-ran'\ntR.").into_bytes()
}

#[test]
fn nothing_is_called() {
    check(
        READERS,
        &[
            Case {
                name: "os.system",
                damage: |w| archive(w, &call("os", "system")),
                says: &["pytorch_model.bin", "`os.system`"],
            },
            Case {
                name: "posix.system, bare",
                damage: |w| pickle(w, &call("posix", "system")),
                says: &["pytorch_model.bin", "`posix.system`"],
            },
            Case {
                name: "subprocess",
                damage: |w| archive(w, &call("subprocess", "getoutput")),
                says: &["`subprocess.getoutput`"],
            },
            Case { name: "eval", damage: |w| archive(w, &call("builtins", "eval")), says: &["builtins.eval`"] },
            Case {
                name: "an older Python's eval",
                damage: |w| archive(w, &call("__builtin__", "eval")),
                says: &["eval`"],
            },
            Case {
                name: "a name in a name",
                damage: |w| archive(w, &call("torch", "os.system")),
                says: &["torch.os.system`"],
            },
            Case {
                name: "loading from bytes",
                damage: |w| archive(w, &call("torch.storage", "_load_from_bytes")),
                says: &["_load_from_bytes`"],
            },
            Case {
                name: "another class of a known module",
                damage: |w| archive(w, &call("collections", "namedtuple")),
                says: &["collections.namedtuple`"],
            },
            Case {
                name: "an instance",
                damage: |w| archive(w, b"(ios\nsystem\n."),
                says: &["pytorch_model.bin", "INST"],
            },
            Case { name: "an extension", damage: |w| archive(w, b"\x80\x02\x82\x01)R."), says: &["pytorch_model.bin"] },
        ],
    );
}

#[test]
fn pickles_that_grow() {
    check(
        READERS,
        &[
            Case {
                name: "nested without end",
                damage: |w| archive(w, &[[b'('; 3_000_000].as_slice(), b"."].concat()),
                says: &["pytorch_model.bin"],
            },
            Case {
                name: "lists in lists",
                damage: |w| archive(w, &[b"]".repeat(2_000_000), b"a".repeat(1_999_999), b".".to_vec()].concat()),
                says: &["pytorch_model.bin"],
            },
            Case {
                name: "a string of 4 GB",
                damage: |w| archive(w, b"\x80\x02X\xff\xff\xff\xffabc."),
                says: &["pytorch_model.bin"],
            },
            Case {
                name: "a string of 2^63 bytes",
                damage: |w| archive(w, b"\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc."),
                says: &["pytorch_model.bin"],
            },
            Case {
                name: "a memo of 2^32 places",
                damage: |w| archive(w, b"\x80\x02}r\xff\xff\xff\xff."),
                says: &["pytorch_model.bin"],
            },
            Case {
                name: "an integer of 2^31 bytes",
                damage: |w| archive(w, b"\x80\x02\x8b\xff\xff\xff\x7f\x01."),
                says: &["pytorch_model.bin"],
            },
            Case { name: "no end", damage: |w| archive(w, b"\x80\x02}"), says: &["pytorch_model.bin"] },
            Case { name: "nothing", damage: |w| archive(w, b""), says: &["pytorch_model.bin"] },
            Case { name: "an archive of nothing", damage: |w| pickle(w, &zip(&[])), says: &["pytorch_model.bin"] },
            Case {
                name: "a cut archive",
                damage: |w| {
                    archive(w, b"\x80\x02}.");
                    cut(&weights(w), 60);
                },
                says: &["pytorch_model.bin"],
            },
        ],
    );
}

/// What `torch` itself made, read by the program: the words are those that the reader's own tests want.
#[test]
fn every_hostile_fixture_is_refused() {
    let folder = fixture("pickle");
    let words: BTreeMap<String, Value> =
        serde_json::from_slice(&fs::read(folder.join("hostile.json")).unwrap()).unwrap();
    let refused = |(file, words): (&String, &Value)| {
        let damage = |work: &Work| pickle(work, &fs::read(folder.join("hostile").join(file)).unwrap());
        let found = complaints(damage, Program::Score, &["pytorch_model.bin", words.as_str().unwrap()]);
        found.into_iter().map(|complaint| format!("{file}: {complaint}")).collect::<Vec<_>>()
    };
    complain(words.iter().flat_map(refused).collect());
}
