//! What is kept of records that are too long, by hand and for every template and option.

use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::json;

use super::{encoder, sample, text_encoder, tokenizer};
use crate::data::{Encoder, Outcome, Overlong, Sample, SkipReason, TextOptions, TextRow};
use crate::example::{Label, Labelled, Pair, Pairs, Plain, Shape, Supervised};
use crate::text::{ChatTemplate, Conversation, Message, Part, Role};

const TAGGED: &str = "{% for m in messages %}{% if m.role == 'assistant' %}ASSISTANT :{% generation %} {{ m.content }} </s>\
    {% endgeneration %}{% else %}{{ m.role }} : {{ m.content }} {% endif %}{% endfor %}\
    {% if add_generation_prompt %}ASSISTANT :{% endif %}";

/// Of every kind; the last two take messages in any order.
fn templates() -> Vec<ChatTemplate> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.json");
    let file = json!({"prefix_template": " {role} : ", "suffix_template": " </s>",
        "role_tag_mapping": {"user": "USER", "bot": "ASSISTANT", "system": "the"}});
    std::fs::write(&path, file.to_string()).unwrap();
    let bare = TAGGED.replace("{% generation %}", "").replace("{% endgeneration %}", "");
    vec![
        ChatTemplate::llava("v1").unwrap(),
        ChatTemplate::llava("mpt").unwrap(),
        ChatTemplate::llava("llava_llama_2").unwrap(),
        ChatTemplate::jinja("tagged", TAGGED, &tokenizer()).unwrap(),
        ChatTemplate::jinja("bare", &bare, &tokenizer()).unwrap(),
        ChatTemplate::prefix_suffix(&path).unwrap(),
        ChatTemplate::plain_text(&tokenizer()),
    ]
}

const FREE: usize = 5;

fn limited(template: ChatTemplate, options: TextOptions, max_length: usize) -> Encoder {
    Encoder { template, options, ..encoder(max_length, Overlong::Truncate) }
}

fn files(conversation: &Conversation) -> Vec<PathBuf> {
    (0..conversation.image_count()).map(|i| format!("{i}.png").into()).collect()
}

fn record<S: Shape>(conversation: &Conversation, target: S::Target) -> Sample<S> {
    sample(conversation.clone(), target, &files(conversation))
}

/// Some messages of a conversation as a record of their own, encoded without a limit; `None` where nothing of them is
/// learned. With the numbers of their images in the whole conversation.
fn alone<S: Shape>(
    encoder: &Encoder,
    conversation: &Conversation,
    target: &S::Target,
    kept: &[usize],
) -> Option<Vec<TextRow>> {
    let before: Vec<usize> = (0..conversation.messages.len()).map(|i| conversation.up_to(i).image_count()).collect();
    let images = kept.iter().flat_map(|&i| before[i]..before[i] + conversation.messages[i].image_count());
    let images: Vec<usize> = images.collect();
    let part = Conversation::new(kept.iter().map(|&i| conversation.messages[i].clone()).collect());
    let unlimited = Encoder { max_length: usize::MAX, overlong: Overlong::Error, ..encoder.clone() };
    match unlimited.encode_text(&record::<S>(&part, target.clone())) {
        Ok(Outcome::Whole(mut rows)) => {
            let shows = |i: &usize| {
                !encoder.options.ignore_system_prompt || {
                    let owner = before.iter().rposition(|first| first <= i).unwrap_or(0);
                    conversation.messages[owner].role != Role::System
                }
            };
            for row in &mut rows {
                row.images = images.iter().copied().filter(shows).collect();
            }
            Some(rows)
        }
        _ => None,
    }
}

fn length(rows: &[TextRow]) -> usize {
    rows.iter().map(|row| row.text.input_ids.len()).max().unwrap_or(0)
}

/// Every run of messages that may be kept, longest first, as the documentation says it; `answers`: the context's record
/// has answers behind it.
fn runs(conversation: &Conversation, keep_end: bool, kind: Kind) -> Vec<Vec<usize>> {
    let role = |i: usize| conversation.messages[i].role;
    let n = conversation.messages.len();
    if !keep_end {
        return match kind {
            Kind::Pair => Vec::new(),
            Kind::Learned => {
                (1..=n).rev().filter(|&e| role(e - 1) == Role::Assistant).map(|e| (0..e).collect()).collect()
            }
            Kind::Judged => (1..=n).rev().filter(|&e| role(e - 1) != Role::System).map(|e| (0..e).collect()).collect(),
        };
    }
    let answered = (0..n).rev().find(|&i| role(i) == Role::Assistant).map_or(0, |i| i + 1);
    let end = if kind == Kind::Learned { answered } else { n };
    let starts = (0..end).filter(|&i| role(i) == Role::User && (i == 0 || role(i - 1) != Role::User));
    let starts: Vec<usize> = starts.collect();
    let with: Vec<Vec<usize>> = starts
        .iter()
        .map(|&start| (0..start).filter(|&i| role(i) == Role::System).chain(start..end).collect())
        .collect();
    let without: Vec<Vec<usize>> = starts.iter().map(|&start| (start..end).collect()).collect();
    // Nothing without the system message comes before anything with it.
    if with == without { with } else { with.into_iter().chain(without).collect() }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Learned,
    Judged,
    Pair,
}

/// Words that stay apart from what precedes them where a template writes nothing between messages.
fn said() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "cat", "dog", "red", "two", "circles", "?", "."]), 1..5)
        .prop_map(|words| format!(" {}", words.join(" ")))
}

/// A conversation, with images where the user speaks. With `free`, images and answers may be messages of their own.
fn conversations(free: bool) -> impl Strategy<Value = Conversation> {
    let user = (said(), 0usize..3, any::<bool>());
    let bot = (said(), prop::bool::weighted(0.8), any::<bool>());
    let exchanges = prop::collection::vec((user, bot), 1..5);
    (prop::option::of(said()), exchanges, prop::option::of(said())).prop_map(move |(system, exchanges, last)| {
        let mut messages: Vec<Message> = system.map(|text| Message::text(Role::System, text)).into_iter().collect();
        for ((question, images, apart), (answer, train, twice)) in exchanges {
            let mut content = vec![Part::Image; images];
            if free && apart && images > 0 {
                messages.push(Message::new(Role::User, std::mem::take(&mut content)));
            }
            content.push(Part::Text(question));
            messages.push(Message::new(Role::User, content));
            messages.push(Message { train, ..Message::text(Role::Assistant, &answer) });
            if free && twice {
                messages.push(Message::text(Role::Assistant, answer));
            }
        }
        messages.extend(last.map(|text| Message::text(Role::User, text)));
        Conversation::new(messages)
    })
}

fn options() -> impl Strategy<Value = TextOptions> {
    let flags = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    flags.prop_map(|(only_answer_loss, only_last_replica_loss, ignore_system_prompt, single_eos, keep_end)| {
        TextOptions { only_answer_loss, only_last_replica_loss, ignore_system_prompt, single_eos, keep_end }
    })
}

/// The conversation as it is written.
fn written(conversation: &Conversation, options: TextOptions) -> Vec<usize> {
    let all = 0..conversation.messages.len();
    all.filter(|&i| !options.ignore_system_prompt || conversation.messages[i].role != Role::System).collect()
}

fn cut(row: &TextRow, limit: usize, judged: bool) -> Result<TextRow, SkipReason> {
    let mut row = row.clone();
    if row.text.input_ids.len() > limit {
        if row.text.image_positions.iter().any(|at| at.contains(&limit) && at.start < limit) {
            return Err(SkipReason::CutImage);
        }
        row.text.input_ids.truncate(limit);
        row.text.supervised.truncate(limit);
        row.text.image_positions.retain(|at| at.end <= limit);
        row.images.truncate(row.text.image_positions.len());
        if !judged && !row.text.supervised.iter().skip(1).any(|learned| *learned) {
            return Err(SkipReason::NothingToLearn);
        }
    }
    Ok(row)
}

/// Compares what the encoder keeps with what the documentation says, found by trying everything.
fn compare<S: Shape>(
    encoder: &Encoder,
    conversation: &Conversation,
    target: &S::Target,
    kind: Kind,
) -> Result<(), TestCaseError> {
    let all: Vec<usize> = (0..conversation.messages.len()).collect();
    let outcome = encoder.encode_text(&record::<S>(conversation, target.clone()));
    let Some(whole) = alone::<S>(encoder, conversation, target, &all) else {
        // Nothing to learn, or no words for it, whatever the limit.
        prop_assert!(outcome.is_err());
        return Ok(());
    };
    let outcome = outcome.expect("what can be encoded can be cut");
    let (limit, tokens) = (encoder.max_length, length(&whole));
    if tokens <= limit {
        prop_assert_eq!(outcome, Outcome::Whole(whole));
        return Ok(());
    }
    let kept = written(conversation, encoder.options);
    let seen = Conversation::new(kept.iter().map(|&i| conversation.messages[i].clone()).collect());
    let back = |run: Vec<usize>| run.into_iter().map(|i| kept[i]).collect::<Vec<_>>();
    let runs = runs(&seen, encoder.options.keep_end, kind).into_iter().map(back);
    let encoded: Vec<Vec<TextRow>> = runs.filter_map(|run| alone::<S>(encoder, conversation, target, &run)).collect();
    // No message is half there, and of what is there the ids and the mask are those it has alone.
    if let Some(fits) = encoded.iter().find(|rows| length(rows) <= limit) {
        prop_assert_eq!(outcome, Outcome::Truncated { kept: fits.clone(), tokens });
        return Ok(());
    }
    let judged = kind == Kind::Judged;
    let cuts = |rows: &Vec<TextRow>| rows.iter().map(|row| cut(row, limit, judged)).collect::<Result<Vec<_>, _>>();
    match &outcome {
        Outcome::Truncated { kept, tokens: reported } => {
            prop_assert_eq!(*reported, tokens);
            let candidates = encoded.iter().chain(std::iter::once(&whole));
            prop_assert!(candidates.filter_map(|rows| cuts(rows).ok()).any(|rows| rows == *kept));
            prop_assert!(length(kept) <= limit);
        }
        Outcome::Skipped { .. } => {
            // Not even the shortest could be cut.
            let shortest = encoded.last().unwrap_or(&whole);
            prop_assert!(cuts(shortest).is_err());
        }
        Outcome::Whole(_) => prop_assert!(false, "{} tokens are too many for {}", tokens, limit),
    }
    if let Outcome::Truncated { kept, .. } = outcome {
        for row in kept {
            let image = encoder.image.as_ref().expect("with images");
            prop_assert_eq!(row.images.len(), row.text.image_positions.len());
            prop_assert!(row.text.image_positions.iter().all(|at| at.len() == image.tokens_per_image));
            let marks = row.text.input_ids.iter().filter(|&&id| id == image.token_id).count();
            prop_assert_eq!(marks, row.images.len() * image.tokens_per_image);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn whole_messages_are_kept(
        (number, conversation) in (0usize..7).prop_flat_map(|n| (Just(n), conversations(n >= FREE))),
        options in options(),
        limit in 5usize..70,
    ) {
        let encoder = limited(templates().swap_remove(number), options, limit);
        compare::<Supervised>(&encoder, &conversation, &(), Kind::Learned)?;
        compare::<Labelled>(&encoder, &conversation, &Label::Class(0), Kind::Judged)?;
    }

    #[test]
    fn both_rows_of_a_pair_keep_one_context(
        (number, mut context) in (0usize..7).prop_flat_map(|n| (Just(n), conversations(n >= FREE))),
        (question, chosen, rejected) in (said(), said(), said()),
        options in options(),
        limit in 5usize..70,
    ) {
        if context.messages.last().is_none_or(|last| last.role != Role::User) {
            context.messages.push(Message::text(Role::User, question));
        }
        let answer = |text| vec![Message::text(Role::Assistant, text)];
        let pair = Pair { chosen: answer(chosen), rejected: answer(rejected), extra: Plain };
        let encoder = limited(templates().swap_remove(number), options, limit);
        compare::<Pairs>(&encoder, &context, &pair, Kind::Pair)?;
        if let Outcome::Whole(rows) | Outcome::Truncated { kept: rows, .. } =
            encoder.encode_text(&record::<Pairs>(&context, pair)).unwrap()
        {
            let prompts = [0, 1].map(|i| {
                let start = rows[i].text.supervised.iter().position(|learned| *learned).unwrap();
                (&rows[i].text.input_ids[..start], &rows[i].images)
            });
            prop_assert_eq!(prompts[0], prompts[1]);
        }
    }
}

/// `<s>`, then `the : a </s>` of the system's, `USER : a </s>` and `ASSISTANT : a </s>` of four tokens each.
fn by_hand(roles: &str) -> Conversation {
    let message = |role| match role {
        's' => Message::text(Role::System, "a"),
        'u' => Message::text(Role::User, "a"),
        'x' => Message::text(Role::Assistant, "a").without_loss(),
        _ => Message::text(Role::Assistant, "a"),
    };
    Conversation::new(roles.chars().map(message).collect())
}

#[track_caller]
fn check(roles: &str, options: TextOptions, limit: usize, expected: &str) {
    let conversation = by_hand(roles);
    let encoder = Encoder {
        max_length: limit,
        overlong: Overlong::Truncate,
        options,
        ..text_encoder(templates().swap_remove(FREE))
    };
    let kept = match encoder.encode_text(&record::<Supervised>(&conversation, ())).unwrap() {
        Outcome::Whole(rows) | Outcome::Truncated { kept: rows, .. } => {
            let id = |text: &str| encoder.tokenizer.token_id(text).unwrap();
            let letter = |(&token, &learned): (&u32, &bool)| match (token, learned) {
                _ if token == id("the") => "s",
                _ if token == id("USER") => "u",
                _ if token == id("ASSISTANT") => "b",
                (token, true) if token == id("a") => "!",
                _ => "",
            };
            rows[0].text.input_ids.iter().zip(&rows[0].text.supervised).map(letter).collect()
        }
        Outcome::Skipped { reason, .. } => reason.to_string(),
    };
    assert_eq!(kept, expected);
}

#[test]
fn the_first_or_the_last_messages_are_kept() {
    let start = TextOptions::default();
    let end = TextOptions { keep_end: true, ..start };
    check("sububub", start, 29, "sub!ub!ub!");
    check("sububub", start, 28, "sub!ub!");
    check("sububub", start, 13, "sub!");
    check("subu", start, 16, "sub!");
    // Not even one exchange: its end is cut off.
    check("sububub", start, 12, "sub!");
    check("sububub", start, 11, "too long: truncation would leave nothing to learn");
    check("sububub", end, 28, "sub!ub!");
    check("sububub", end, 21, "sub!ub!");
    check("sububub", end, 20, "sub!");
    // The system message goes before the last exchange is cut.
    check("sububub", end, 12, "ub!");
    check("subu", end, 16, "sub!");
    check("ubxub", end, 12, "ub!");
    // Without anything to learn in the first exchange, more is needed than that.
    check("uxub", start, 16, "ubub!");
    check("uxub", start, 12, "too long: truncation would leave nothing to learn");
    check("ubux", end, 16, "ub!ub");
    let last = TextOptions { only_last_replica_loss: true, ..start };
    check("ububub", last, 20, "ubub!");
    check("ubuxub", last, 20, "ub!");
    check("ububub", TextOptions { keep_end: true, ..last }, 20, "ubub!");
    check("sububub", TextOptions { ignore_system_prompt: true, ..start }, 17, "ub!ub!");
    check("ubub", TextOptions { single_eos: false, ..start }, 17, "ub!");
}

#[test]
fn fifty_thousand_messages_are_cut_in_good_time() {
    let conversation = by_hand(&"ub".repeat(25_000));
    for keep_end in [false, true] {
        let options = TextOptions { keep_end, ..TextOptions::default() };
        let template = templates().swap_remove(FREE);
        let encoder = Encoder { options, max_length: 2049, overlong: Overlong::Truncate, ..text_encoder(template) };
        let Outcome::Truncated { kept, tokens } =
            encoder.encode_text(&record::<Supervised>(&conversation, ())).unwrap()
        else {
            panic!("not truncated")
        };
        assert_eq!((kept[0].text.input_ids.len(), tokens), (2049, 200_001));
    }
}
