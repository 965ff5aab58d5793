//! Tokens, masks, truncation, prompts and the preflight.

use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use serde_json::json;

use super::{Folder, IMAGE_ID, TOKENS_PER_IMAGE, encoder, record};
use crate::data::shorten::truncate;
use crate::data::{Check, DataError, Encoded, Example, Outcome, Overlong, SkipReason, check};
use crate::example::Learns;
use crate::text::EncodedText;

fn whole(outcome: Outcome<Example>) -> Encoded {
    match outcome {
        Outcome::Whole(example) => only(example),
        other => panic!("not whole: {other:?}"),
    }
}

fn only(mut example: Example) -> Encoded {
    assert_eq!(example.rows.len(), 1);
    example.rows.swap_remove(0)
}

#[test]
fn images_and_answers_are_where_they_belong() {
    let folder = Folder::new();
    let data = folder
        .llava(&[record(0, &["a.png", "b.png"], "What is it ?", "a cat"), record(1, &[], "What is it ?", "a cat")]);
    let encoder = encoder(500, Overlong::Error);
    let first = whole(encoder.encode(&data.sample(0).expect("a sample"), 0).expect("encoded"));
    assert_eq!(first.image_positions.len(), 2);
    for at in &first.image_positions {
        assert!(first.input_ids[at.clone()].iter().all(|&id| id == IMAGE_ID));
        assert_eq!(at.len(), TOKENS_PER_IMAGE);
    }
    assert_eq!((first.image_size, first.pixel_values.len()), ((4, 4), 2 * 3 * 4 * 4));
    assert_ne!(first.pixel_values[..48], first.pixel_values[48..], "the images keep their order");
    let learned: Vec<u32> =
        (0..first.input_ids.len()).filter(|&i| first.supervised[i]).map(|i| first.input_ids[i]).collect();
    assert_eq!(encoder.tokenizer.decode(&learned).trim(), "a cat");
    assert_eq!(learned.last().copied(), encoder.tokenizer.eos(), "the end is learned");

    let second = whole(encoder.encode(&data.sample(1).expect("a sample"), 1).expect("encoded"));
    assert_eq!((second.image_size, second.pixel_values.len(), second.index), ((0, 0), 0, 1));
    let text_model = crate::data::Encoder { image: None, ..encoder };
    assert!(matches!(
        text_model.encode(&data.sample(0).expect("a sample"), 0),
        Err(DataError::NoVision { images: 2, .. })
    ));
    assert_eq!(whole(text_model.encode(&data.sample(1).expect("a sample"), 1).expect("encoded")), second);
}

#[test]
fn overlong_records_are_cut_skipped_or_refused() {
    let folder = Folder::new();
    let data = folder.llava(&[record(0, &["a.png"], "What is it ?", "a cat a cat a cat")]);
    let sample = data.sample(0).expect("a sample");
    let full = whole(encoder(500, Overlong::Error).encode(&sample, 0).expect("encoded"));
    let length = full.input_ids.len();
    let at = |limit, overlong| encoder(limit, overlong).encode(&sample, 0);

    match at(length - 2, Overlong::Truncate).expect("encoded") {
        Outcome::Truncated { kept, tokens } => {
            let kept = only(kept);
            assert_eq!((kept.input_ids.len(), tokens), (length - 2, length));
            assert_eq!(kept.input_ids[..], full.input_ids[..length - 2]);
        }
        other => panic!("not truncated: {other:?}"),
    }
    let inside = full.image_positions[0].start + 1;
    let skipped = |reason| Outcome::Skipped { reason, tokens: length };
    assert_eq!(at(inside, Overlong::Truncate).expect("skipped"), skipped(SkipReason::CutImage));
    let after = full.image_positions[0].end;
    assert_eq!(at(after, Overlong::Truncate).expect("skipped"), skipped(SkipReason::NothingToLearn));
    assert_eq!(at(length - 1, Overlong::Skip).expect("skipped"), skipped(SkipReason::TooLong));
    assert!(matches!(at(length - 1, Overlong::Error), Err(DataError::Overlong { .. })));
}

#[test]
fn a_prompt_ends_where_the_last_answer_begins() {
    let folder = Folder::new();
    let mut two_turns = record(0, &["a.png"], "What is it ?", "a cat");
    let turns = two_turns["conversations"].as_array_mut().expect("turns");
    turns.push(json!({"from": "human", "value": "Is it red ?"}));
    turns.push(json!({"from": "gpt", "value": "no"}));
    let data = folder.llava(&[two_turns]);
    let sample = data.sample(0).expect("a sample");
    let encoder = encoder(500, Overlong::Error);
    let full = whole(encoder.encode(&sample, 0).expect("encoded"));
    let prompt = encoder.encode_prompt(&sample, 0).expect("a prompt");
    assert_eq!(prompt.answer, "no");
    assert!(full.input_ids.starts_with(&prompt.encoded.input_ids));
    assert_eq!(prompt.encoded.input_ids.len(), full.input_ids.len() - 2, "without `no` and `</s>`");
    assert!(prompt.encoded.supervised.iter().all(|&s| !s));
    assert_eq!(prompt.encoded.pixel_values, full.pixel_values);
}

#[test]
fn the_preflight_counts_everything() {
    let folder = Folder::new();
    folder.write("text.png", "this is not a picture");
    let mut extra = record(0, &["a.png"], "What is it ?", "a cat");
    extra["model"] = json!("x");
    extra["conversations"][0]["weight"] = json!(1);
    let bad_role = json!({"conversations": [{"from": "alien", "value": "q"}]});
    let mut records =
        vec![extra, record(1, &[], "What is it ?", "a dog"), bad_role.clone(), record(3, &["text.png"], "q", "a")];
    records.extend((0..30).map(|_| bad_role.clone()));
    records.push(record(34, &[], &"red ".repeat(100), "no"));
    let data = folder.llava(&records);
    for decode in [false, true] {
        let calls = AtomicUsize::new(0);
        let progress = |done| {
            calls.fetch_max(done, Ordering::Relaxed);
        };
        let checked = check(&data, &encoder(80, Overlong::Truncate), &Check { decode, ..Check::default() }, progress);
        assert_eq!(calls.into_inner(), records.len());
        assert_eq!((checked.ok, checked.refused()), (2, 32), "{:?}", checked.problems);
        assert_eq!(checked.problem_counts["unknown role"], 31);
        assert_eq!(checked.problem_counts["unreadable image"], 1);
        assert_eq!(checked.problems.len(), 20);
        assert!(checked.problems[1].to_string().contains("data.jsonl:4, image 1"), "{}", checked.problems[1]);
        assert_eq!(checked.skipped[SkipReason::NothingToLearn.label()], 1);
        assert_eq!(checked.ignored_fields["model"], 1);
        assert_eq!(checked.ignored_fields["conversations[].weight"], 1);
        assert_eq!(checked.ignored_fields.len(), 2);
        assert_eq!((checked.images, checked.image_tokens), (1, TOKENS_PER_IMAGE));
        assert_eq!(checked.supervised_tokens, 6, "`a cat </s>` and `a dog </s>`");
        assert!(checked.lengths[0] > checked.lengths[1] && checked.lengths[2] == 0);
        assert!(checked.signed_lengths[0] > 0 && checked.signed_lengths[1] < 0);
    }
}

#[test]
fn a_record_without_supervision_is_refused() {
    use crate::data::{Dataset, MessagesData};
    let folder = Folder::new();
    let row = json!({"messages": [{"role": "user", "content": "q"},
        {"role": "assistant", "content": "a", "disable_loss": true}]});
    let file = folder.write("m.jsonl", row.to_string());
    let data = Dataset::open(MessagesData::default(), &[file], &[]).expect("a data set");
    let checked = check(&data, &encoder(500, Overlong::Error), &Check::default(), |_| {});
    assert!(matches!(checked.problems[..], [DataError::NoSupervision { .. }]));
}

/// Runs of text (false) and images (true) with lengths, and which text tokens are learned.
fn texts() -> impl Strategy<Value = EncodedText> {
    let run = (any::<bool>(), prop::collection::vec(any::<bool>(), 1..6));
    prop::collection::vec(run, 1..8).prop_map(|runs| {
        let mut text = EncodedText::default();
        for (image, learned) in runs {
            let start = text.input_ids.len();
            for learn in learned {
                text.input_ids.push(if image { IMAGE_ID } else { 100 + text.input_ids.len() as u32 });
                text.supervised.push(learn && !image);
            }
            if image {
                text.image_positions.push(start..text.input_ids.len());
            }
        }
        text
    })
}

proptest! {
    #[test]
    fn truncation_never_cuts_an_image_nor_invents_supervision(text in texts(), limit in 0usize..40) {
        let before = text.clone();
        let tokens = before.input_ids.len();
        match truncate(text, limit, Learns::Answers) {
            Ok(kept) => {
                let length = tokens.min(limit);
                prop_assert_eq!(&kept.input_ids[..], &before.input_ids[..length]);
                prop_assert_eq!(&kept.supervised[..], &before.supervised[..length]);
                prop_assert!(tokens <= limit || kept.supervised[1..].contains(&true));
                prop_assert!(before.image_positions.starts_with(&kept.image_positions));
                let in_slots: usize = kept.image_positions.iter().map(|at| at.len()).sum();
                let in_text = kept.input_ids.iter().filter(|&&id| id == IMAGE_ID).count();
                prop_assert_eq!(in_slots, in_text);
            }
            Err(SkipReason::CutImage) => {
                prop_assert!(before.image_positions.iter().any(|at| at.start < limit && limit < at.end));
            }
            Err(reason) => {
                prop_assert_eq!(reason, SkipReason::NothingToLearn);
                prop_assert!(!before.supervised[..limit].iter().skip(1).any(|&s| s));
            }
        }
    }
}
