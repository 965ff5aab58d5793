//! Against TRL's own ids and answers (`tests/parity/gen/data_trl.py`; TRL 1.16, the steps TRL 1.10).

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{sample, text_encoder};
use crate::data::{Encoder, Outcome, Overlong, Sample, TextOptions, TextRow};
use crate::example::{Pair, Pairs, Plain, Step, Steps};
use crate::text::{ChatTemplate, Conversation, Message, Role, Tokenizer};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn golden() -> Value {
    serde_json::from_slice(&std::fs::read(fixture("data/trl.json")).unwrap()).unwrap()
}

fn encoder(plain: bool) -> Encoder {
    let dir = fixture("parity/llama_text/model");
    let tokenizer = Tokenizer::from_dir(&dir).unwrap();
    let own = || ChatTemplate::from_dir(&dir, &tokenizer).unwrap().unwrap();
    let template = if plain { ChatTemplate::plain_text(&tokenizer) } else { own() };
    Encoder { tokenizer, ..text_encoder(template) }
}

fn numbers(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|n| n.as_u64().unwrap() as usize).collect()
}

fn ids(row: &TextRow) -> Vec<usize> {
    row.text.input_ids.iter().map(|&id| id as usize).collect()
}

fn learned(row: &TextRow) -> Vec<usize> {
    (0..row.text.input_ids.len()).filter(|&i| row.text.supervised[i]).collect()
}

fn messages(value: &Value, role: Role) -> Vec<Message> {
    match value {
        Value::String(text) => vec![Message::text(role, text.as_str())],
        _ => value.as_array().unwrap().iter().map(message).collect(),
    }
}

fn message(value: &Value) -> Message {
    let role = match value["role"].as_str().unwrap() {
        "system" => Role::System,
        "user" => Role::User,
        _ => Role::Assistant,
    };
    Message::text(role, value["content"].as_str().unwrap())
}

/// A record of TRL's, a prompt that it does not name split off as TRL does: what both answers begin with.
fn pair(record: &Value) -> Sample<Pairs> {
    let [mut chosen, mut rejected] = ["chosen", "rejected"].map(|side| messages(&record[side], Role::Assistant));
    let context = match (&record["prompt"], chosen[0].role) {
        (Value::Null, Role::Assistant) => {
            let [one, other] = [chosen[0].words(), rejected[0].words()];
            let common = one.bytes().zip(other.bytes()).take_while(|(one, other)| one == other).count();
            chosen = vec![Message::text(Role::Assistant, &one[common..])];
            rejected = vec![Message::text(Role::Assistant, &other[common..])];
            vec![Message::text(Role::User, &one[..common])]
        }
        (Value::Null, _) => {
            let common = chosen.iter().zip(&rejected).take_while(|(one, other)| one == other).count();
            rejected.drain(..common);
            chosen.drain(..common).collect()
        }
        (prompt, _) => messages(prompt, Role::User),
    };
    sample(Conversation::new(context), Pair { chosen, rejected, extra: Plain }, &[])
}

#[track_caller]
fn check(rows: &[TextRow], expected: &Value, what: &str) {
    for (row, side) in rows.iter().zip(["chosen", "rejected"]) {
        assert_eq!(ids(row), numbers(&expected[side]["ids"]), "{what} {side}");
        let start = expected[side]["start"].as_u64().unwrap() as usize;
        assert_eq!(learned(row), (start..row.text.input_ids.len()).collect::<Vec<_>>(), "{what} {side}");
    }
}

fn whole<T>(outcome: Outcome<T>) -> T {
    match outcome {
        Outcome::Whole(rows) => rows,
        _ => panic!("not whole"),
    }
}

#[test]
fn every_form_of_a_pair_has_trls_ids_and_answers() {
    let golden = golden();
    for (name, form) in golden["forms"].as_object().unwrap() {
        let mut encoder = encoder(name.starts_with("plain"));
        // TRL learns whatever stands behind the prompt, the user's turn and the headers included.
        encoder.options.only_answer_loss = name != "turns_in_the_answer";
        check(&whole(encoder.encode_text(&pair(&form["record"])).unwrap()), form, name);
    }
    for (i, case) in golden["pairs"].as_array().unwrap().iter().enumerate() {
        for only_answer_loss in [true, false] {
            let options = TextOptions { only_answer_loss, ..TextOptions::default() };
            let encoder = Encoder { options, ..encoder(false) };
            check(&whole(encoder.encode_text(&pair(&case["record"])).unwrap()), case, &format!("pair {i}"));
        }
    }
}

#[test]
fn long_pairs_are_cut_and_dropped_as_trl_does() {
    let golden = golden();
    for case in golden["truncated"].as_array().unwrap() {
        let max_length = case["max_length"].as_u64().unwrap() as usize;
        let encoder = Encoder { max_length, overlong: Overlong::Truncate, ..encoder(false) };
        let mut sizes = [const { Vec::new() }; 4];
        for record in golden["pairs"].as_array().unwrap() {
            let rows = match encoder.encode_text(&pair(&record["record"])).unwrap() {
                Outcome::Whole(rows) | Outcome::Truncated { kept: rows, .. } => rows,
                Outcome::Skipped { .. } => continue,
            };
            for (i, row) in rows.iter().enumerate() {
                sizes[2 * i].push(row.text.input_ids.len());
                sizes[2 * i + 1].push(row.text.num_supervised());
            }
        }
        assert_eq!(sizes[0].len() as u64, case["kept"]);
        let sides = ["chosen", "rejected"];
        let expected = sides.map(|side| ["lengths", "answer_tokens"].map(|key| numbers(&case[side][key])));
        assert_eq!(sizes, [&expected[0][0], &expected[0][1], &expected[1][0], &expected[1][1]].map(Clone::clone));
    }
}

#[test]
fn steps_end_where_trl_labels_them() {
    let golden = golden();
    let mut compared = 0;
    for case in golden["steps"].as_array().unwrap() {
        let separator = case["separator"].as_str().unwrap();
        for (record, row) in golden["scored"].as_array().unwrap().iter().zip(case["rows"].as_array().unwrap()) {
            let steps = record["completions"].as_array().unwrap().iter();
            let step = |text: &Value| Step { text: format!("{}{separator}", text.as_str().unwrap()), right: true };
            let question = Conversation::new(messages(&record["prompt"], Role::User));
            let sample: Sample<Steps> = sample(question, steps.map(step).collect(), &[]);
            let encoder = encoder(true);
            let mut rows = whole(encoder.encode_text(&sample).unwrap());
            // TRL writes no end of sequence behind the last step; nothing before it knows.
            assert_eq!(rows[0].text.input_ids.pop(), encoder.tokenizer.eos());
            assert_eq!((ids(&rows[0]), learned(&rows[0])), (numbers(&row["ids"]), numbers(&row["at"])));
            compared += 1;
        }
    }
    assert_eq!(compared, 16);
}
