//! TRL's record forms, against the ids that its trainers make of them.

use std::path::Path;

use serde_json::Value;

use super::read;
use crate::data::{Encoder, Outcome, Overlong, PreferenceData};
use crate::text::{ChatTemplate, Tokenizer};

fn fixture() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/data/trl_forms.json");
    serde_json::from_str(&std::fs::read_to_string(path).expect("the fixture")).expect("JSON")
}

fn model() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/llama_text/model")
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().expect("ids").iter().map(|id| id.as_u64().expect("an id") as u32).collect()
}

#[test]
fn conversations_have_trls_ids() {
    let tokenizer = Tokenizer::from_dir(&model()).expect("a tokenizer");
    let template = ChatTemplate::from_dir(&model(), &tokenizer).expect("a template").expect("the checkpoint's");
    let encoder = Encoder {
        tokenizer,
        template,
        image: None,
        max_length: 512,
        overlong: Overlong::Error,
        options: Default::default(),
    };
    for form in ["implicit_prompt", "turns_in_the_answer"] {
        let fixture = &fixture()["forms"][form];
        let sample = read(&PreferenceData::default(), &fixture["record"]);
        let Outcome::Whole(rows) = encoder.encode_text(&sample).expect("two rows") else { panic!("{form} was cut") };
        let prompt = ids(&fixture["dpo"]["prompt"]);
        for (row, side) in rows.iter().zip(["chosen", "rejected"]) {
            let answer = ids(&fixture["dpo"][side]);
            assert_eq!(row.text.input_ids, [prompt.clone(), answer.clone()].concat(), "{form}, {side}");
            // Nothing of the prompt is learned. Of the answer TRL learns all, the user's turns in it, too.
            let learned = row.text.supervised.iter().filter(|learned| **learned).count();
            assert!(row.text.supervised[..prompt.len()].iter().all(|learned| !learned), "{form}, {side}");
            let whole = form == "implicit_prompt" || side == "rejected";
            assert_eq!(learned == answer.len(), whole, "{form}, {side}: {learned} of {}", answer.len());
        }
    }
}

#[test]
fn plain_text_is_split_where_trl_splits_it_unless_that_is_inside_a_word() {
    let tokenizer = Tokenizer::from_dir(&model()).expect("a tokenizer");
    let fixture = fixture();
    let forms = fixture["forms"].as_object().expect("forms");
    let plain: Vec<_> = forms.iter().filter(|(name, _)| name.starts_with("plain")).collect();
    assert_eq!(plain.len(), 4);
    for (name, form) in plain {
        let sample = read(&PreferenceData::default(), &form["record"]);
        let prompt = sample.conversation.messages[0].words();
        let found: Vec<u32> = tokenizer.encode(&prompt).expect("ids").iter().map(|token| token.id).collect();
        let [bos, trl @ ..] = &ids(&form["dpo"]["prompt"])[..] else { panic!("{name} has no prompt") };
        assert_eq!(Some(*bos), tokenizer.bos());
        if name.as_str() == "plain_implicit_prompt" {
            // TRL's prompt goes on with a space and the first digit of 11 and 12.
            assert_eq!(found, trl[..trl.len() - 2], "{name}");
            assert_eq!(sample.target.chosen[0].words(), " 11.");
        } else {
            assert_eq!(found, trl, "{name}");
            assert_eq!(form["record"]["chosen"], sample.target.chosen[0].words());
        }
    }
}
