//! A text that is cut has the tokens that it has as a whole.

use super::super::pieces::{Pieces, whole};
use super::*;
use tokenizers::Tokenizer as Backend;

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The tokenizer of a fixture, changed. What wraps its texts is set aside, as in [`Tokenizer::from_dir`].
fn changed(name: &str, change: impl FnOnce(&mut Value)) -> Backend {
    let bytes = std::fs::read(fixture(name).join("tokenizer.json")).unwrap();
    let mut json: Value = serde_json::from_slice(&bytes).unwrap();
    json["post_processor"] = Value::Null;
    change(&mut json);
    Backend::from_bytes(json.to_string()).unwrap()
}

fn bytes(change: impl FnOnce(&mut Value)) -> Backend {
    changed("bytelevel", change)
}

/// As `LlamaTokenizer` has it.
fn metaspace(scheme: &str, split: bool, change: impl FnOnce(&mut Value)) -> Backend {
    changed("metaspace", |json| {
        json["normalizer"] = Value::Null;
        json["pre_tokenizer"] =
            json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split});
        // Llama's vocabulary joins spaces with each other.
        json["model"]["vocab"]["▁▁"] = json!(456);
        json["model"]["merges"].as_array_mut().unwrap().push(json!(["▁", "▁"]));
        change(json);
    })
}

fn with_pattern(pattern: &str) -> Backend {
    bytes(|json| {
        let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let level = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
        json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": [split, level]});
    })
}

fn may_be_cut() -> Vec<Backend> {
    let mut all = vec![
        bytes(|_| {}),
        bytes(|json| json["normalizer"] = json!({"type": "NFC"})),
        with_pattern(LLAMA_3),
        // Tokens that overlap: the first that is found hides the other.
        bytes(|json| json["added_tokens"][1]["content"] = json!("cat</")),
        bytes(|json| json["added_tokens"][1]["content"] = json!("<|im")),
        with_pattern(&LLAMA_3.replace("{1,3}", "")),
    ];
    for scheme in ["first", "always", "never"] {
        all.extend([true, false].map(|split| metaspace(scheme, split, |_| {})));
    }
    all
}

fn texts() -> impl Strategy<Value = String> {
    const SPACES: [&str; 9] = [" ", "  ", "\n", "\r\n", "\t", "\u{a0}", "\u{2003}", "▁", "▁ "];
    const WORDS: [&str; 20] = [
        "a",
        "the",
        "is",
        "cat",
        "'s",
        "12345",
        "...",
        "é",
        "e\u{301}",
        "\u{301}",
        "🙂",
        "Привет",
        "猫",
        "</s>",
        "<|im_end|>",
        "<image>",
        "<|im",
        "<s>",
        "<",
        "\0",
    ];
    let pieces = [SPACES.as_slice(), &WORDS].concat();
    prop::collection::vec(prop::sample::select(pieces), 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(96) })]

    #[test]
    fn a_text_has_the_same_tokens_cut_or_whole(texts in prop::collection::vec(texts(), 1..6)) {
        for backend in may_be_cut() {
            let pieces = Pieces::of(&backend).expect("it may be cut");
            // The second time all words are known.
            for text in texts.iter().chain(&texts) {
                prop_assert_eq!(pieces.encode(&backend, text).unwrap(), whole(&backend, text).unwrap(), "{:?}", text);
            }
        }
    }
}

#[test]
fn tokenizers_whose_tokens_reach_over_a_cut_are_left_alone() {
    let added = |key: &'static str, value: Value| move |json: &mut Value| json["added_tokens"][1][key] = value;
    let model = |key: &'static str, value: Value| move |json: &mut Value| json["model"][key] = value;
    for (what, backend) in [
        ("takes in the space behind it", bytes(added("rstrip", json!(true)))),
        ("takes in the space before it", bytes(added("lstrip", json!(true)))),
        ("asks what stands beside it", bytes(added("single_word", json!(true)))),
        ("has a space in it", bytes(added("content", json!("<s s>")))),
        ("is drawn by lot", bytes(model("dropout", json!(0.5)))),
        ("adds spaces", bytes(|json| json["pre_tokenizer"]["add_prefix_space"] = json!(true))),
        (
            "trims offsets",
            bytes(|json| {
                json["post_processor"] =
                    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true})
            }),
        ),
        ("has no pattern", bytes(|json| json["pre_tokenizer"]["use_regex"] = json!(false))),
        ("has another pattern", with_pattern(r"\S+ \S+|\s+|\S+")),
        (
            "takes spaces away",
            bytes(|json| json["normalizer"] = json!({"type": "Strip", "strip_left": true, "strip_right": true})),
        ),
        ("has no pre-tokenizer", changed("metaspace", |_| {})),
        ("may fuse what is unknown", metaspace("first", false, model("byte_fallback", json!(false)))),
        ("looks whole texts up", metaspace("first", false, model("ignore_merges", json!(true)))),
        ("has words with spaces", metaspace("first", false, |json| json["model"]["vocab"]["a▁b"] = json!(457))),
    ] {
        assert!(Pieces::of(&backend).is_none(), "a tokenizer that {what}");
    }
}

#[test]
fn what_is_remembered_is_bounded() {
    let backend = bytes(|_| {});
    let pieces = Pieces::of(&backend).unwrap();
    let words = |from: usize| (from..from + 20_000).map(|n| format!("a{n}")).collect::<Vec<_>>().join(" ");
    for from in [0, 20_000, 40_000, 60_000, 80_000, 100_000] {
        let text = words(from);
        assert_eq!(pieces.encode(&backend, &text).unwrap(), whole(&backend, &text).unwrap());
    }
    assert!((10_000..=Pieces::MOST).contains(&pieces.len()), "{}", pieces.len());
    let long = "x".repeat(10_000);
    let before = pieces.len();
    assert_eq!(pieces.encode(&backend, &long).unwrap(), whole(&backend, &long).unwrap());
    assert_eq!(pieces.len(), before);
}
