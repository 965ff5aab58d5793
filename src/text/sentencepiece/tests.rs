//! Against transformers (fixtures by `tests/parity/gen/sentencepiece_models.py`), on damaged files, and on random text.

use super::*;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::OnceLock;
use tempfile::TempDir;

#[derive(Deserialize)]
struct Golden {
    texts: Vec<String>,
    /// By the folder's name and the text's index: what SentencePiece gives, of the texts that transformers treats alike.
    sentencepiece: HashMap<String, HashMap<usize, Vec<u32>>>,
    cases: Vec<Case>,
}

/// A folder, and what transformers makes of the texts with it.
#[derive(Deserialize)]
struct Case {
    name: String,
    model: String,
    files: Map<String, Value>,
    vocab_size: usize,
    named: HashMap<String, String>,
    around: Vec<u32>,
    around_pair: Vec<u32>,
    ids: Vec<Vec<u32>>,
    /// By the text's index, where it is not the text itself.
    decoded: HashMap<usize, String>,
    skipped: String,
}

fn fixture(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/text/sentencepiece");
    std::fs::read(folder.join(name)).unwrap()
}

fn golden() -> &'static Golden {
    static GOLDEN: OnceLock<Golden> = OnceLock::new();
    GOLDEN.get_or_init(|| serde_json::from_slice(&fixture("golden.json")).unwrap())
}

fn folder(model: &[u8], files: &Map<String, Value>) -> TempDir {
    let dir = TempDir::new().unwrap();
    std::fs::write(dir.path().join("tokenizer.model"), model).unwrap();
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content.to_string()).unwrap();
    }
    dir
}

fn convert(model: &[u8], files: &Map<String, Value>) -> Result<Converted, TextError> {
    from_dir(folder(model, files).path(), MergeOrder::ById)
}

/// A folder with these settings in tokenizer_config.json.
fn configured(model: &str, settings: Value) -> Result<Converted, TextError> {
    let files = Map::from_iter([("tokenizer_config.json".to_owned(), settings)]);
    convert(&fixture(&format!("{model}.model")), &files)
}

fn refused(model: &str, settings: Value) -> String {
    configured(model, settings).unwrap_err().to_string()
}

/// Every folder's tokenizer, made once.
fn converted() -> &'static [Converted] {
    static MADE: OnceLock<Vec<Converted>> = OnceLock::new();
    let make = |case: &Case| convert(&fixture(&format!("{}.model", case.model)), &case.files).unwrap();
    MADE.get_or_init(|| golden().cases.iter().map(make).collect())
}

fn each() -> impl Iterator<Item = (&'static Case, &'static tokenizers::Tokenizer)> {
    golden().cases.iter().zip(converted().iter().map(|made| &made.tokenizer))
}

fn ids(tokenizer: &tokenizers::Tokenizer, text: &str) -> Vec<u32> {
    tokenizer.encode(text, false).unwrap().get_ids().to_vec()
}

#[test]
fn ids_and_decoded_texts_are_transformers() {
    for (case, tokenizer) in each() {
        for (index, (text, expected)) in golden().texts.iter().zip(&case.ids).enumerate() {
            assert_eq!(&ids(tokenizer, text), expected, "{}, {text:?}", case.name);
            let decoded = case.decoded.get(&index).unwrap_or(text);
            assert_eq!(&tokenizer.decode(expected, false).unwrap(), decoded, "{}, {text:?}", case.name);
        }
    }
}

#[test]
fn ids_in_order_of_score_are_sentencepieces() {
    for (name, expected) in &golden().sentencepiece {
        let (case, by_id) = each().find(|(case, _)| case.name == *name).unwrap();
        let dir = folder(&fixture(&format!("{}.model", case.model)), &case.files);
        let by_score = from_dir(dir.path(), MergeOrder::ByScore).unwrap().tokenizer;
        let mut different = 0;
        for (&index, expected) in expected {
            let text = &golden().texts[index];
            assert_eq!(&ids(&by_score, text), expected, "{name}, {text:?}");
            different += usize::from(&ids(by_id, text) != expected);
        }
        assert!(expected.len() > 60 && different > 5, "{name}: {different} of {}", expected.len());
    }
}

#[test]
fn what_is_put_around_a_text_is_transformers() {
    for (case, tokenizer) in each() {
        assert_eq!(tokenizer.encode("a", true).unwrap().get_ids(), case.around, "{}", case.name);
        assert_eq!(tokenizer.encode(("a", "b"), true).unwrap().get_ids(), case.around_pair, "{}", case.name);
        let ids = tokenizer.encode("a</s>b <mask>", true).unwrap();
        assert_eq!(tokenizer.decode(ids.get_ids(), true).unwrap(), case.skipped, "{}", case.name);
    }
}

#[test]
fn vocabulary_and_named_tokens_are_transformers() {
    for (case, made) in golden().cases.iter().zip(converted()) {
        assert_eq!(made.tokenizer.get_vocab_size(true), case.vocab_size, "{}", case.name);
        assert_eq!(HashMap::from_iter(made.named_tokens.clone()), case.named, "{}", case.name);
    }
}

#[test]
fn saved_as_tokenizer_json_it_stays_the_same() {
    for (case, tokenizer) in each() {
        let again: tokenizers::Tokenizer = tokenizer.to_string(false).unwrap().parse().unwrap();
        for (text, expected) in golden().texts.iter().zip(&case.ids) {
            assert_eq!(&ids(&again, text), expected, "{}, {text:?}", case.name);
        }
    }
}

#[test]
fn class_comes_from_the_files_or_the_model() {
    let class = |model: &str, files: Value| {
        let files = files.as_object().unwrap().clone();
        convert(&fixture(&format!("{model}.model")), &files).map(|made| made.class)
    };
    assert_eq!(class("llama", json!({})).unwrap(), "LlamaTokenizer");
    assert_eq!(class("llama", json!({"config.json": {"model_type": "mistral"}})).unwrap(), "LlamaTokenizer");
    assert_eq!(class("t5", json!({"config.json": {"model_type": "mt5"}})).unwrap(), "T5Tokenizer");
    assert_eq!(
        class("gemma", json!({"config.json": {"tokenizer_class": "GemmaTokenizer"}})).unwrap(),
        "GemmaTokenizer"
    );
    let unknown = class("llama", json!({"config.json": {"model_type": "rwkv"}})).unwrap_err().to_string();
    assert!(unknown.contains("`rwkv`") && unknown.contains("AutoTokenizer"), "{unknown}");
    let unknown = class("t5", json!({})).unwrap_err().to_string();
    assert!(unknown.contains("set it to one of LlamaTokenizer"), "{unknown}");
}

#[test]
fn what_cannot_be_made_is_refused_by_name() {
    let error = refused("llama", json!({"tokenizer_class": "CamembertTokenizerFast"}));
    assert!(error.contains("tokenizer_config.json: the tokenizer class `CamembertTokenizerFast`"), "{error}");
    assert!(error.contains("XLMRobertaTokenizer") && error.contains("AutoTokenizer"), "{error}");
    let error = refused("t5", json!({"tokenizer_class": "LlamaTokenizer"}));
    assert!(
        error.contains("`LlamaTokenizer` needs a Bpe vocabulary but tokenizer.model holds a Unigram one"),
        "{error}"
    );
    let error = refused("xlm_roberta", json!({"tokenizer_class": "XLMRobertaTokenizer", "eos_token": null}));
    assert!(error.contains("`eos_token` is null"), "{error}");
    let error = refused("t5", json!({"tokenizer_class": "T5Tokenizer", "extra_ids": u64::MAX}));
    assert!(error.contains("`extra_ids` is 18446744073709551615"), "{error}");
}

#[test]
fn promised_ids_are_kept_or_refused() {
    let settings = |id: &str| {
        let token = json!({"content": "<pad>", "special": true});
        json!({"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": {id: token}})
    };
    assert_eq!(configured("llama", settings("500")).unwrap().tokenizer.token_to_id("<pad>"), Some(500));
    let error = refused("llama", settings("512"));
    assert!(error.contains(r#""<pad>" should have id 512 but gets 500"#), "{error}");
    let error = refused("llama", settings("-1"));
    assert!(error.contains("tokenizer_config.json: `added_tokens_decoder`"), "{error}");
}

#[test]
fn files_of_another_kind_are_named() {
    let error = |bytes: &[u8]| convert(bytes, &Map::new()).unwrap_err().to_string();
    assert!(error(b"").contains("tokenizer.model: the file is empty"));
    assert!(error(b"version https://git-lfs.github.com/spec/v1\noid sha256:0").contains("git lfs pull"));
    assert!(error(b"IQ== 0\nIg== 1\n").contains("tiktoken"));
    assert!(error(&vec![0; proto::MAX_FILE + 1]).contains("more than 33554432 bytes"));
    assert!(error(b"{\"version\": \"1.0\"}").contains("no SentencePiece model"));
    assert!(
        from_dir(TempDir::new().unwrap().path(), MergeOrder::ById)
            .unwrap_err()
            .to_string()
            .contains("no tokenizer.json here and no")
    );
}

/// A message's field that holds bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = [content.len() as u8 & 0x7F | 0x80, (content.len() >> 7) as u8];
    [&[number << 3 | 2], &length[..], content].concat()
}

#[test]
fn damaged_files_say_where() {
    let error = |bytes: &[u8]| convert(bytes, &Map::new()).unwrap_err().to_string();
    let piece = |text: &[u8], more: &[u8]| field(1, &[&field(1, text), more].concat());
    for (bytes, reason) in [
        (field(1, &[]), "piece 0 has 0 bytes"),
        ([piece(b"a", &[]), piece(b"a", &[])].concat(), r#"piece 1 "a" is there twice"#),
        (piece(b"\xFF", &[]), "piece 0 is not UTF-8"),
        (piece(b"a", &[0x15, 0, 0, 0xC0, 0x7F]), "the score NaN"),
        (piece(b"a", &[0x18, 9]), "piece 0: unknown type 9"),
        (piece(&[b'a'; 5000], &[]), "piece 0 has 5000 bytes"),
        (field(2, &[0x18, 2]), "it has no pieces"),
        ([piece(b"a", &[]), field(2, &[0x18, 4])].concat(), "model type is CHAR"),
        ([piece(b"a", &[]), field(2, &[0x18, 77])].concat(), "model type 77"),
        (vec![0x0B], "byte 0: wire type 3"),
        (vec![0x0A, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 1], "byte 6: 4294967295 bytes announced, 1 left"),
        (vec![0x08, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], "longer than ten bytes"),
        (vec![0x02, 0], "byte 0: field number 0"),
    ] {
        assert!(error(&bytes).contains(reason), "{reason}: {}", error(&bytes));
    }
}

/// `t5.model` with another normalizer table.
fn with_table(table: &[u8]) -> Result<Converted, TextError> {
    let files = Map::from_iter([("tokenizer_config.json".to_owned(), json!({"tokenizer_class": "T5Tokenizer"}))]);
    // The last of a message's fields counts.
    convert(&[fixture("t5.model"), field(3, &field(2, table))].concat(), &files)
}

#[test]
fn damaged_normalizer_tables_are_refused() {
    let unit = |bits: u32| bits.to_le_bytes();
    let trie = |units: &[u32], rest: &[u8]| {
        let units: Vec<u8> = units.iter().flat_map(|&bits| unit(bits)).collect();
        [&(units.len() as u32).to_le_bytes()[..], &units, rest].concat()
    };
    // A root whose child for `a` (97) has its leaf at unit 97 ^ 1.
    let mut units = vec![0; 256];
    units[97] = 97 | 1 << 8 | 1 << 10;
    units[96] = 1 << 31;
    assert_eq!(ids(&with_table(&trie(&units, b"b\0")).unwrap().tokenizer, "a"), ids(&converted()[10].tokenizer, "b"));
    let error = |table: &[u8]| with_table(table).unwrap_err().to_string();
    assert!(error(&[1, 0]).contains("it ends in its own length"));
    assert!(error(&trie(&units[..200], b"b\0")).contains("node 0 lies outside its 200 units"));
    assert!(error(&[0xFC, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]).contains("a trie of 4294967292 bytes in 4 bytes"));
    assert!(error(&trie(&units, b"\xFF\0")).contains("not UTF-8"));
    assert!(error(&trie(&units, &[b'b'; 1200])).contains("longer than 1024 bytes"));
    units[96] = 1 << 31 | 3;
    assert!(error(&trie(&units, b"b\0")).contains("no replacement begins at byte 3"));
    units[97] = 97 | 1 << 8 | 9000 << 10;
    assert!(error(&trie(&units, b"b\0")).contains("leaf"));
}

/// Text of the parts that tokenizers trip over.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        "\\PC{0,6}",
        any::<char>().prop_map(String::from),
        "[ \n\t▁]{1,4}",
        prop::sample::select(vec![
            "</s>",
            "<s>",
            "<mask>",
            "<sym>",
            "<image>",
            "<pad>",
            "<extra>",
            "[MASK]",
            "e\u{301}",
            "\u{1}",
            "\u{0}",
            "\u{200d}",
            "🦙",
            "<0x41>",
            "cat",
            "the assistant",
        ])
        .prop_map(String::from),
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn any_text_comes_back_from_byte_fallback(text in text()) {
        let spaces = text.replace('▁', " ");
        // A text that begins with a space gets none in front, and decoding takes one away.
        let stripped = spaces.strip_prefix(' ').unwrap_or(&spaces);
        for (name, expected) in [("vicuna", stripped), ("symbols", stripped), ("gemma", &*spaces), ("llama_no_prefix", &*spaces)] {
            let (_, tokenizer) = each().find(|(case, _)| case.name == name).unwrap();
            let decoded = tokenizer.decode(&ids(tokenizer, &text), false).unwrap();
            prop_assert_eq!(&decoded, expected, "{}, {:?}", name, text);
        }
    }

    #[test]
    fn any_text_encodes_and_decodes(text in text()) {
        for (case, tokenizer) in each() {
            let encoding = tokenizer.encode(text.as_str(), true).unwrap();
            for &(start, end) in encoding.get_offsets() {
                prop_assert!(text.get(start..end).is_some(), "{}, {:?}: {}..{}", case.name, text, start, end);
            }
            tokenizer.decode(encoding.get_ids(), true).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_models_never_panic(
        model in prop::sample::select(vec!["llama", "gemma", "t5", "albert"]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
        text in text(),
    ) {
        let mut bytes = fixture(&format!("{model}.model"));
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let case = golden().cases.iter().find(|case| case.model == model).unwrap();
        match convert(&bytes, &case.files) {
            Ok(made) => drop(made.tokenizer.encode(text, true)),
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }
}
