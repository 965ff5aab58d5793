//! Weight files and their index.

use super::files::{Safetensors, cut, edit_tensors, nested, set, write_raw};
use super::program::Work;
use super::{Case, Program, check};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

/// The programs that read weights, each in its own way.
const READERS: &[Program] = &[Program::Train, Program::Score, Program::Convert];

fn weights(work: &Work) -> PathBuf {
    work.model().join("model.safetensors")
}

/// Changes the header's entry of the first tensor.
fn first(work: &Work, change: impl FnOnce(&mut Value)) {
    edit_tensors(&weights(work), |file| {
        let name = file.first();
        change(&mut file.header[&name]);
    });
}

/// Puts the weights into one shard with an index that says what `map` makes of the true one.
fn index(work: &Work, change: impl FnOnce(&mut Value)) {
    let shard = work.model().join("model-00001-of-00001.safetensors");
    fs::rename(weights(work), &shard).unwrap();
    let file = Safetensors::read(&shard);
    let names = file.header.as_object().unwrap().keys().filter(|name| *name != "__metadata__");
    let map: serde_json::Map<String, Value> =
        names.map(|name| (name.clone(), "model-00001-of-00001.safetensors".into())).collect();
    let mut index = json!({"metadata": {"total_size": file.data.len()}, "weight_map": map});
    change(&mut index);
    fs::write(work.model().join("model.safetensors.index.json"), index.to_string()).unwrap();
}

/// Overwrites the first element of a tensor.
fn poison(work: &Work, name: &str, value: f32) {
    edit_tensors(&weights(work), |file| file.bytes_of(name)[..4].copy_from_slice(&value.to_le_bytes()));
}

const SAYS_FILE: &str = "model.safetensors";

#[test]
fn headers_that_lie_about_their_length() {
    check(
        READERS,
        &[
            Case { name: "empty", damage: |w| cut(&weights(w), 0), says: &[SAYS_FILE, "0 bytes"] },
            Case { name: "seven bytes", damage: |w| cut(&weights(w), 7), says: &[SAYS_FILE, "7 bytes"] },
            Case { name: "length 0", damage: |w| write_raw(&weights(w), b"", b""), says: &[SAYS_FILE, "not the JSON"] },
            Case {
                name: "length 2^63",
                damage: |w| {
                    let mut bytes = fs::read(weights(w)).unwrap();
                    bytes[..8].copy_from_slice(&(1u64 << 63).to_le_bytes());
                    fs::write(weights(w), bytes).unwrap();
                },
                says: &[SAYS_FILE, "9223372036854775808", "truncated"],
            },
            Case {
                name: "length 2^64 - 1",
                damage: |w| fs::write(weights(w), [0xFF; 64]).unwrap(),
                says: &[SAYS_FILE, "18446744073709551615"],
            },
            Case {
                name: "one byte longer than the file",
                damage: |w| fs::write(weights(w), [[3u8, 0, 0, 0, 0, 0, 0, 0].as_slice(), b"{}"].concat()).unwrap(),
                says: &[SAYS_FILE, "claims 3 bytes", "2 left"],
            },
            Case {
                name: "beyond the limit, and as long as it says",
                damage: |w| {
                    // A hole in the file: nothing is written but the length.
                    let file = fs::File::create(weights(w)).unwrap();
                    file.set_len(100_000_100).unwrap();
                    std::io::Write::write_all(&mut &file, &100_000_001u64.to_le_bytes()).unwrap();
                },
                says: &[SAYS_FILE, "100000001 bytes", "more than"],
            },
            Case {
                name: "cut in the middle of the data",
                damage: |w| cut(&weights(w), 300_000),
                says: &[SAYS_FILE, "truncated, copy or download it again"],
            },
            Case {
                name: "bytes behind the last tensor",
                damage: |w| edit_tensors(&weights(w), |file| file.data.extend([0; 13])),
                says: &[SAYS_FILE, "13 bytes follow"],
            },
        ],
    );
}

#[test]
fn headers_that_are_no_header() {
    check(
        READERS,
        &[
            Case {
                name: "no JSON",
                damage: |w| write_raw(&weights(w), b"{\"a\": nope}", b""),
                says: &[SAYS_FILE, "not the JSON"],
            },
            Case {
                name: "a list",
                damage: |w| write_raw(&weights(w), b"[1, 2]", b""),
                says: &[SAYS_FILE, "an object of tensors"],
            },
            Case {
                name: "no UTF-8",
                damage: |w| write_raw(&weights(w), b"{\"\xff\xfe\": 1}", b""),
                says: &[SAYS_FILE, "not the JSON"],
            },
            Case {
                name: "nested without end",
                damage: |w| write_raw(&weights(w), format!("{{\"a\": {}}}", nested(1_000_000)).as_bytes(), b""),
                says: &[SAYS_FILE, "not the JSON"],
            },
            Case {
                name: "a name twice",
                damage: |w| {
                    let entry = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
                    write_raw(&weights(w), format!("{{{entry},{entry}}}").as_bytes(), &[0; 8]);
                },
                says: &[SAYS_FILE, "`a` occurs twice"],
            },
            Case {
                name: "an HTML page",
                damage: |w| fs::write(weights(w), "<!DOCTYPE html><html><body>401 Unauthorized</body></html>").unwrap(),
                says: &[SAYS_FILE, "no safetensors file"],
            },
            Case {
                name: "a Git LFS pointer",
                damage: |w| {
                    fs::write(weights(w), "version https://git-lfs.github.com/spec/v1\noid sha256:0\n").unwrap()
                },
                says: &[SAYS_FILE, "no safetensors file"],
            },
            Case { name: "no tensor at all", damage: |w| write_raw(&weights(w), b"{}", b""), says: &["error: "] },
        ],
    );
}

#[test]
fn tensors_that_lie_about_themselves() {
    check(
        READERS,
        &[
            Case {
                name: "offsets beyond the end",
                damage: |w| first(w, |t| t["data_offsets"] = json!([1u64 << 60, (1u64 << 60) + 8])),
                says: &[SAYS_FILE, "tensor `", "offsets give 8"],
            },
            Case {
                name: "offsets at the end of what a number holds",
                damage: |w| {
                    first(w, |t| *t = json!({"dtype": "U8", "shape": [1], "data_offsets": [u64::MAX - 1, u64::MAX]}));
                },
                says: &[SAYS_FILE, "tensor `", "beyond"],
            },
            Case {
                name: "backwards",
                damage: |w| first(w, |t| t["data_offsets"] = json!([64, 0])),
                says: &[SAYS_FILE, "tensor `", "begins at byte 64 and ends at byte 0"],
            },
            Case {
                name: "overlapping",
                damage: |w| {
                    edit_tensors(&weights(w), |file| {
                        file.header["extra"] = json!({"dtype": "F32", "shape": [2], "data_offsets": [4, 12]});
                    });
                },
                says: &[SAYS_FILE, "overlaps"],
            },
            Case {
                name: "a hole",
                damage: |w| {
                    edit_tensors(&weights(w), |file| {
                        let end = file.data.len();
                        file.data.extend([0; 16]);
                        file.header["extra"] =
                            json!({"dtype": "F32", "shape": [2], "data_offsets": [end + 8, end + 16]});
                    });
                },
                says: &[SAYS_FILE, "`extra`", "hole"],
            },
            Case {
                name: "a shape of more elements than bytes",
                damage: |w| first(w, |t| t["shape"] = json!([1_000_000, 1_000_000])),
                says: &[SAYS_FILE, "tensor `", "needs 4000000000000 bytes"],
            },
            Case {
                name: "a shape that overflows",
                damage: |w| first(w, |t| t["shape"] = json!([u64::MAX, 9])),
                says: &[SAYS_FILE, "tensor `", "impossible shape"],
            },
            Case {
                name: "a shape that overflows to the right number of bytes",
                damage: |w| {
                    first(w, |t| {
                        *t = json!({"dtype": "F32", "shape": [1u64 << 32, 1u64 << 32], "data_offsets": [0, 0]})
                    });
                },
                says: &[SAYS_FILE, "tensor `", "impossible shape"],
            },
            Case {
                name: "a negative side",
                damage: |w| first(w, |t| t["shape"] = json!([-1, 4])),
                says: &[SAYS_FILE, "not the JSON", "-1"],
            },
            Case {
                name: "half an element",
                damage: |w| first(w, |t| t["shape"] = json!([1.5])),
                says: &[SAYS_FILE, "not the JSON", "1.5"],
            },
            Case {
                name: "an unknown type",
                damage: |w| first(w, |t| t["dtype"] = json!("Q4_K")),
                says: &[SAYS_FILE, "Q4_K"],
            },
            Case {
                name: "no type",
                damage: |w| first(w, |t| drop(t.as_object_mut().unwrap().remove("dtype"))),
                says: &[SAYS_FILE, "dtype"],
            },
            Case {
                name: "integers for weights",
                damage: |w| first(w, |t| t["dtype"] = json!("I32")),
                says: &[SAYS_FILE, "tensor `", "of type I32", "expected F32"],
            },
            Case {
                name: "another shape than the configuration's",
                damage: |w| {
                    first(w, |t| {
                        let elements: u64 = t["shape"].as_array().unwrap().iter().filter_map(Value::as_u64).product();
                        t["shape"] = json!([1, elements, 1]);
                    });
                },
                says: &["misshapen", "expected"],
            },
            Case {
                name: "another name",
                damage: |w| {
                    edit_tensors(&weights(w), |file| {
                        let name = file.first();
                        let entry = file.header.as_object_mut().unwrap().shift_remove(&name).unwrap();
                        file.header["nobody.knows.this"] = entry;
                    });
                },
                says: &["missing", "unexpected", "nobody.knows.this"],
            },
        ],
    );
}

#[test]
fn weights_that_are_no_numbers() {
    const NORM: &str = "language_model.model.norm.weight";
    check(
        READERS,
        &[
            Case { name: "not a number", damage: |w| poison(w, NORM, f32::NAN), says: &[SAYS_FILE, NORM, "NaN"] },
            Case { name: "infinite", damage: |w| poison(w, NORM, f32::INFINITY), says: &[SAYS_FILE, NORM, "inf"] },
            Case {
                name: "minus infinity",
                damage: |w| poison(w, NORM, f32::NEG_INFINITY),
                says: &[SAYS_FILE, NORM, "inf"],
            },
        ],
    );
}

const SAYS_INDEX: &str = "model.safetensors.index.json";

#[test]
fn an_index_that_leads_elsewhere() {
    check(
        READERS,
        &[
            Case {
                name: "out of the folder",
                damage: |w| {
                    index(w, |i| i["weight_map"]["language_model.model.norm.weight"] = json!("../secret.safetensors"))
                },
                says: &[SAYS_INDEX, "../secret.safetensors", "plain file name"],
            },
            Case {
                name: "an absolute path",
                damage: |w| index(w, |i| i["weight_map"]["language_model.model.norm.weight"] = json!("/etc/passwd")),
                says: &[SAYS_INDEX, "/etc/passwd", "plain file name"],
            },
            Case {
                name: "a missing shard",
                damage: |w| index(w, |i| i["weight_map"]["extra"] = json!("model-00002-of-00001.safetensors")),
                says: &[SAYS_INDEX, "model-00002-of-00001.safetensors", "copy or download it again"],
            },
            Case {
                name: "a tensor that is not in its shard",
                damage: |w| index(w, |i| i["weight_map"]["extra"] = json!("model-00001-of-00001.safetensors")),
                says: &[SAYS_INDEX, "`extra`", "different checkpoints"],
            },
            Case {
                name: "a tensor in two shards",
                damage: |w| {
                    index(w, |i| i["weight_map"]["extra"] = json!("b.safetensors"));
                    let two = json!({
                        "extra": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                        "language_model.model.norm.weight": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
                    });
                    write_raw(&w.model().join("b.safetensors"), two.to_string().as_bytes(), &[0; 8]);
                },
                says: &["language_model.model.norm.weight", "b.safetensors", "remove one"],
            },
            Case {
                name: "nothing in it",
                damage: |w| index(w, |i| i["weight_map"] = json!({})),
                says: &[SAYS_INDEX, "weight_map"],
            },
            Case {
                name: "a number for a map",
                damage: |w| index(w, |i| i["weight_map"] = json!(3)),
                says: &[SAYS_INDEX, "weight_map is 3"],
            },
            Case {
                name: "a number for a shard",
                damage: |w| index(w, |i| i["weight_map"]["extra"] = json!(3)),
                says: &[SAYS_INDEX, "weight_map.extra is 3"],
            },
            Case {
                name: "nested without end",
                damage: |w| {
                    index(w, |_| ());
                    fs::write(w.model().join(SAYS_INDEX), format!("{{\"weight_map\": {}", nested(1_000_000))).unwrap();
                },
                says: &[SAYS_INDEX, "recursion limit"],
            },
            Case {
                name: "a folder for a shard",
                damage: |w| {
                    index(w, |i| i["weight_map"]["extra"] = json!("folder.safetensors"));
                    fs::create_dir(w.model().join("folder.safetensors")).unwrap();
                },
                says: &["folder.safetensors"],
            },
            Case {
                name: "no weights",
                damage: |w| fs::remove_file(weights(w)).unwrap(),
                says: &["no weights", "model.safetensors"],
            },
        ],
    );
}

#[test]
fn a_configuration_of_another_model() {
    // The weights are sound: the message must say which of them the configuration contradicts.
    check(
        READERS,
        &[
            Case {
                name: "fewer layers",
                damage: |w| set(&w.model().join("config.json"), "/text_config/num_hidden_layers", json!(1)),
                says: &["config.json", "unexpected", "layers.1."],
            },
            Case {
                name: "more layers",
                damage: |w| set(&w.model().join("config.json"), "/text_config/num_hidden_layers", json!(3)),
                says: &["config.json", "missing", "layers.2."],
            },
        ],
    );
}
