//! What is written and what is learned under each option, in words.

use serde_json::json;

use super::{Folder, encoder, record, sample, text_encoder, tokenizer};
use crate::data::{DataError, Encoder, Outcome, Overlong, Sample, TextOptions, TextRow};
use crate::example::{Judged, Label, Labelled, Pair, Pairs, Plain, Shape, Step, Steps, Supervised, Unpaired};
use crate::text::{ChatTemplate, Conversation, Message, Role};

fn rows<S: Shape>(encoder: &Encoder, sample: &Sample<S>) -> Vec<TextRow> {
    match encoder.encode_text(sample).unwrap() {
        Outcome::Whole(rows) => rows,
        other => panic!("not whole: {other:?}"),
    }
}

/// The text of the first row and what of it is learned.
fn words<S: Shape>(options: TextOptions, sample: &Sample<S>) -> (String, String) {
    let encoder = Encoder { options, ..text_encoder(prefix_suffix()) };
    let row = &rows(&encoder, sample)[0].text;
    let learned = row.input_ids.iter().zip(&row.supervised).filter(|(_, learned)| **learned);
    let learned: Vec<u32> = learned.map(|(&id, _)| id).collect();
    (encoder.tokenizer.decode_all(&row.input_ids), encoder.tokenizer.decode_all(&learned))
}

/// `USER: q </s>`, `ASSISTANT: a </s>`, `the: s </s>`.
fn prefix_suffix() -> ChatTemplate {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.json");
    let file = json!({"prefix_template": " {role} : ", "suffix_template": " </s>",
        "role_tag_mapping": {"user": "USER", "bot": "ASSISTANT", "system": "the"}});
    std::fs::write(&path, file.to_string()).unwrap();
    ChatTemplate::prefix_suffix(&path).unwrap()
}

fn turns(turns: &[(Role, &str)]) -> Vec<Message> {
    turns.iter().map(|(role, text)| Message::text(*role, *text)).collect()
}

const SYSTEM: (Role, &str) = (Role::System, "squares");
const USER: (Role, &str) = (Role::User, "What");
const BOT: (Role, &str) = (Role::Assistant, "cat");
const USER_2: (Role, &str) = (Role::User, "red");
const BOT_2: (Role, &str) = (Role::Assistant, "no");

fn two_exchanges() -> Sample {
    sample::<Supervised>(Conversation::new(turns(&[SYSTEM, USER, BOT, USER_2, BOT_2])), (), &[])
}

#[test]
fn each_option_changes_what_it_says() {
    let text = "<s> the : squares </s> USER : What </s> ASSISTANT : cat </s> USER : red </s> ASSISTANT : no </s>";
    let default = TextOptions::default();
    let sample = two_exchanges();
    let check = |options: TextOptions, sample: &Sample, learned: &str| {
        assert_eq!(words(options, sample), (text.to_owned(), learned.to_owned()));
    };
    check(default, &sample, "cat </s> no </s>");
    check(TextOptions { only_last_replica_loss: true, ..default }, &sample, "no </s>");
    let all = TextOptions { only_answer_loss: false, ..default };
    check(all, &sample, text.strip_prefix("<s> ").unwrap());

    // Nothing of a message that is not learned, its header included where it precedes an answer that is.
    let without_the_first = "the : squares </s> USER : What </s> USER : red </s> ASSISTANT : no </s>";
    check(TextOptions { only_last_replica_loss: true, ..all }, &sample, without_the_first);
    let mut disabled = two_exchanges();
    disabled.conversation.messages[2].train = false;
    check(all, &disabled, without_the_first);
    disabled.conversation.messages[3].train = false;
    check(all, &disabled, "the : squares </s> USER : What </s> no </s>");
    disabled.conversation.messages[4].train = false;
    check(all, &disabled, "the : squares </s> USER : What </s>");

    let (written, learned) = words(TextOptions { ignore_system_prompt: true, ..default }, &sample);
    assert_eq!((written, learned), (text.replace(" the : squares </s>", ""), "cat </s> no </s>".to_owned()));
    let (written, learned) = words(TextOptions { single_eos: false, ..default }, &sample);
    assert_eq!((written, learned), (format!("{text} </s>"), "cat </s> no </s>".to_owned()));
}

#[test]
fn options_that_would_do_nothing_are_named() {
    let all = TextOptions { only_answer_loss: false, only_last_replica_loss: true, ..TextOptions::default() };
    assert_eq!(all.without_effect(Labelled::LEARNS), ["only_answer_loss", "only_last_replica_loss"]);
    assert_eq!(all.without_effect(Steps::LEARNS).len(), 2);
    assert!(all.without_effect(Pairs::<Plain>::LEARNS).is_empty());
    assert!(TextOptions::default().without_effect(Labelled::LEARNS).is_empty());
}

#[test]
fn the_last_answer_alone_may_have_nothing_to_learn() {
    let mut sample = two_exchanges();
    sample.conversation.messages[4].train = false;
    let options = TextOptions { only_last_replica_loss: true, ..TextOptions::default() };
    let encoder = Encoder { options, ..text_encoder(prefix_suffix()) };
    assert!(matches!(encoder.encode_text(&sample), Err(DataError::NoSupervision { .. })));
}

#[test]
fn of_a_pair_just_the_answers_are_learned_whatever_the_option() {
    let answer = |text| turns(&[(Role::Assistant, text)]);
    let pair = Pair { chosen: answer("yes"), rejected: answer("no"), extra: Plain };
    let context = Conversation::new(turns(&[SYSTEM, USER, BOT, USER_2]));
    let pair: Sample<Pairs> = sample(context.clone(), pair, &[]);
    for only_answer_loss in [true, false] {
        for only_last_replica_loss in [true, false] {
            let options = TextOptions { only_answer_loss, only_last_replica_loss, ..TextOptions::default() };
            assert_eq!(words(options, &pair).1, "yes </s>");
        }
    }
    let judged: Sample<Unpaired> = sample(context, Judged { answer: answer("a dog"), desirable: false }, &[]);
    assert_eq!(words(TextOptions::default(), &judged).1, "a dog </s>");
}

#[test]
fn a_labelled_conversation_is_written_whole_and_nothing_of_it_is_learned() {
    let conversation = Conversation::new(turns(&[USER, BOT, USER_2]));
    let labelled: Sample<Labelled> = sample(conversation, Label::Class(1), &[]);
    for only_answer_loss in [true, false] {
        let options = TextOptions { only_answer_loss, ..TextOptions::default() };
        let text = "<s> USER : What </s> ASSISTANT : cat </s> USER : red </s>";
        assert_eq!(words(options, &labelled), (text.to_owned(), String::new()));
    }
    let example = text_encoder(prefix_suffix()).encode(&labelled, 3).unwrap();
    let Outcome::Whole(example) = example else { panic!("not whole") };
    assert_eq!(example.facts.label, Some(Label::Class(1)));
}

fn in_steps(steps: &[(&str, bool)]) -> Sample<Steps> {
    let steps = steps.iter().map(|(text, right)| Step { text: (*text).to_owned(), right: *right }).collect();
    sample(Conversation::new(turns(&[USER])), steps, &[])
}

#[test]
fn of_each_step_the_last_token_is_judged() {
    let sample = in_steps(&[("a cat .", true), (" two .", false), (" red squares", true)]);
    assert_eq!(words(TextOptions::default(), &sample).1, ". . squares");
    let encoder = text_encoder(prefix_suffix());
    let rendered = encoder.render(&sample).unwrap().remove(0);
    let steps: Vec<&str> = rendered.spans.iter().map(|span| &rendered.text[span.clone()]).collect();
    assert_eq!(steps, ["a cat .", " two .", " red squares"]);

    let total = rows(&encoder, &sample)[0].text.input_ids.len();
    // Without `</s>`, then without `squares` and `red`, and so on.
    for (cut, kept) in [(1, 3), (2, 2), (3, 2), (4, 1), (5, 1)] {
        let encoder = Encoder { max_length: total - cut, overlong: Overlong::Truncate, ..encoder.clone() };
        let Outcome::Truncated { kept: example, .. } = encoder.encode(&sample, 0).unwrap() else { panic!("{cut}") };
        assert_eq!(example.facts.steps, [true, false, true][..kept], "{cut}");
        assert_eq!(example.rows[0].supervised.iter().filter(|judged| **judged).count(), kept);
    }
    let encoder = Encoder { max_length: total - 6, overlong: Overlong::Truncate, ..encoder };
    assert!(matches!(encoder.encode(&sample, 0).unwrap(), Outcome::Skipped { .. }));

    for (steps, words) in [
        (&[("ca", true), ("t", true)][..], "steps 1 and 2 end in one token"),
        (&[("cat", true), (" ", true)], "step 2 has no token"),
        (&[(" ", true), ("cat", true)], "step 1 has no token"),
        (&[("cat", true), ("", true)], "step 2 is empty"),
    ] {
        let error = text_encoder(prefix_suffix()).encode_text(&in_steps(steps)).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_template_may_trim_the_last_separator() {
    let source = "{{ bos_token }}{% for m in messages %}{{ m.role }} : {{ m.content | trim }} </s>\n{% endfor %}";
    let template = ChatTemplate::jinja("t", source, &tokenizer()).unwrap();
    let encoder = text_encoder(template);
    let row = &rows(&encoder, &in_steps(&[(" a cat .\n", true), ("two\n\n", false)]))[0].text;
    let judged: Vec<u32> = (0..row.input_ids.len()).filter(|&i| row.supervised[i]).map(|i| row.input_ids[i]).collect();
    assert_eq!(encoder.tokenizer.decode(&judged), ". two");
}

#[test]
fn images_of_messages_that_are_left_out_are_not_decoded() {
    let folder = Folder::new();
    let both = folder.llava(&[record(0, &["a.png", "b.png"], "What is it ?", "a cat")]);
    let both = both.sample(0).unwrap();
    let mut record = record(1, &["a.png"], "What is it ?", "a cat");
    let turns = record["conversations"].as_array_mut().unwrap();
    turns.push(json!({"from": "human", "value": "<image>\nIs it red ?"}));
    turns.push(json!({"from": "gpt", "value": "no"}));
    record["image"] = json!(["a.png", "b.png"]);
    let sample = folder.llava(&[record]).sample(0).unwrap();
    let unlimited = encoder(500, Overlong::Truncate);
    let example = |encoder: &Encoder, sample: &Sample| match encoder.encode(sample, 0).unwrap() {
        Outcome::Whole(mut example) | Outcome::Truncated { kept: mut example, .. } => example.rows.swap_remove(0),
        Outcome::Skipped { reason, .. } => panic!("{reason}"),
    };
    let pixels = example(&unlimited, &both).pixel_values;
    let [a, b] = [&pixels[..48], &pixels[48..]];
    assert_ne!(a, b);
    let whole = example(&unlimited, &sample);
    assert_eq!(whole.pixel_values, pixels);
    let limited = |keep_end| {
        let mut encoder = encoder(whole.input_ids.len() - 1, Overlong::Truncate);
        encoder.options.keep_end = keep_end;
        example(&encoder, &sample)
    };
    let (first, last) = (limited(false), limited(true));
    assert_eq!((&first.pixel_values[..], &last.pixel_values[..]), (a, b));
    assert_eq!((first.image_positions.len(), last.image_positions.len()), (1, 1));
    // The file is not even opened.
    let mut missing = sample.clone();
    missing.images[0] = folder.path("nowhere.png");
    let mut keeps_end = encoder(whole.input_ids.len() - 1, Overlong::Truncate);
    keeps_end.options.keep_end = true;
    assert_eq!(example(&keeps_end, &missing).pixel_values, b);
    // A place of an image without a file is an error, not the next image's.
    let mut short = sample;
    short.images.pop();
    assert!(matches!(unlimited.encode(&short, 0), Err(DataError::ImageCount { markers: 2, images: 1, .. })));

    // An image of a system message goes with it.
    let mut with_system = both;
    with_system.conversation.messages.insert(0, Message::new(Role::System, vec![crate::text::Part::Image]));
    with_system.conversation.messages[1].content.remove(0);
    let mut encoder = Encoder { template: prefix_suffix(), ..unlimited };
    assert_eq!(example(&encoder, &with_system).pixel_values, pixels);
    encoder.options.ignore_system_prompt = true;
    assert_eq!(example(&encoder, &with_system).pixel_values, b);
    assert_eq!(encoder.encode_prompt(&with_system, 0).unwrap().encoded.pixel_values, b);
}
