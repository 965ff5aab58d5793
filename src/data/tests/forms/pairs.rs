//! Pairs of answers.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{images_are_files, lines, parse, read, refuses, said, with, without};
use crate::data::{
    DataKind, HelpfulnessData, PairsData, PairsMarginData, PlainDpoData, PreferenceData, PreferenceMarginData,
    PreferenceScoresData, RlhfvData, SafetyData, Sample,
};
use crate::example::{Margin, PairExtra, Pairs, Safety, Scores};

/// Context, chosen and rejected.
fn shown<X: PairExtra>(sample: &Sample<Pairs<X>>) -> [Vec<String>; 3] {
    [said(&sample.conversation), lines(&sample.target.chosen), lines(&sample.target.rejected)]
}

fn texts<const A: usize, const B: usize, const C: usize>(a: [&str; A], b: [&str; B], c: [&str; C]) -> [Vec<String>; 3] {
    let own = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    [own(&a), own(&b), own(&c)]
}

/// What every kind of pair refuses: no answer, an empty one, two that are one.
fn pairs_are_checked<K: DataKind>(kind: &K, good: &Value, chosen: &str, rejected: &str) {
    read(kind, good);
    let names = [chosen, rejected].map(|pointer| pointer.split('/').nth(1).expect("a field"));
    let (first, second) = (good.pointer(chosen).cloned(), good.pointer(rejected).cloned());
    let (first, second) = (first.expect("an answer"), second.expect("an answer"));
    refuses(kind, with(good, rejected, first.clone()), "equal answers", &names);
    refuses(
        kind,
        with(good, chosen, json!(format!("{} \n", second.as_str().expect("words")))),
        "equal answers",
        &names,
    );
    for (pointer, name) in [(chosen, names[0]), (rejected, names[1])] {
        refuses(kind, with(good, pointer, json!("  ")), "empty answer", &[name]);
        refuses(kind, with(good, pointer, json!(7)), "wrong type", &[name, "7"]);
    }
}

fn turbo() -> Value {
    json!({"id": "0", "context": [{"role": "user", "content": "hi"}, {"role": "bot", "content": "hey"},
        {"role": "user", "content": "how?"}],
        "answer_w": {"role": "bot", "content": "good"}, "answer_l": {"role": "bot", "content": "bad"}})
}

#[test]
fn turbo_alignments_pairs() {
    let kind = PairsData::default();
    let expected = texts(["user: hi", "assistant: hey", "user: how?"], ["assistant: good"], ["assistant: bad"]);
    assert_eq!(shown(&read(&kind, &turbo())), expected);
    assert_eq!(shown(&read(&kind, &with(&turbo(), "precomputed_margin", json!("?")))), expected);
    pairs_are_checked(&kind, &turbo(), "/answer_w/content", "/answer_l/content");
    for field in ["context", "answer_w", "answer_l"] {
        refuses(&kind, without(&turbo(), field), "missing field", &[field]);
        refuses(&kind, with(&turbo(), field, json!("x")), "wrong type", &[field]);
    }
    refuses(&kind, with(&turbo(), "/answer_w/role", json!("user")), "answer is not the assistant's", &["`answer_w`"]);
    refuses(&kind, with(&turbo(), "/answer_w/role", json!("gpt")), "unknown role", &["\"gpt\""]);
    refuses(&kind, with(&turbo(), "context", json!([])), "empty conversation", &["`context`"]);
    let system = json!([{"role": "system", "content": "s"}]);
    refuses(&kind, with(&turbo(), "context", system), "no question", &["`context`"]);
    let image = json!({"role": "user", "type": "image", "content": "a.png"});
    let sample = read(&kind, &with(&turbo(), "/context/0", image.clone()));
    assert_eq!(said(&sample.conversation)[0], "user: ▣");
    let drawn = json!({"role": "bot", "type": "image", "content": "a.png"});
    refuses(&kind, with(&turbo(), "answer_l", drawn), "image in an answer", &["`answer_l`"]);
}

#[test]
fn margins_are_finite_numbers() {
    let kind = PairsMarginData::default();
    for (field, margin) in [("precomputed_margin", json!(-1.5)), ("margin", json!(2))] {
        let sample = read(&kind, &with(&turbo(), field, margin.clone()));
        assert_eq!(Some(sample.target.extra.0), margin.as_f64());
    }
    refuses(&kind, turbo(), "missing field", &["`precomputed_margin`", "a finite number"]);
    for bad in [json!("1.0"), json!(null), json!([1]), json!(true)] {
        refuses(&kind, with(&turbo(), "margin", bad.clone()), "wrong type", &["`margin`", "a finite number"]);
        let row = json!({"prompt": "q", "chosen": "a", "rejected": "b", "margin": bad});
        refuses(&PreferenceMarginData::default(), row, "wrong type", &["`margin`"]);
    }
    // Python's json writes these, and no JSON has them: the line is named.
    let folder = super::super::Folder::new();
    for number in ["NaN", "Infinity", "1e999"] {
        let line =
            with(&turbo(), "margin", json!(1)).to_string().replace("\"margin\":1", &format!("\"margin\":{number}"));
        let file = folder.write("m.jsonl", format!("\n{line}"));
        let data = crate::data::Dataset::open(kind.clone(), &[file], &[]).expect("a data set");
        let message = data.sample(0).expect_err("a margin that is no number").to_string();
        assert!(message.contains("m.jsonl:2") && message.contains("malformed"), "{message}");
    }
}

#[test]
fn preferences_in_plain_text() {
    let kind = PreferenceData::default();
    let good = json!({"prompt": "The sky is", "chosen": " blue.", "rejected": " green.", "margin": "?"});
    let expected = texts(["user: The sky is"], ["assistant:  blue."], ["assistant:  green."]);
    assert_eq!(shown(&read(&kind, &good)), expected);
    pairs_are_checked(&kind, &good, "/chosen", "/rejected");
    refuses(&kind, without(&good, "rejected"), "missing field", &["`rejected`"]);
    refuses(&kind, with(&good, "prompt", json!(3)), "wrong type", &["`prompt`"]);
    refuses(&kind, with(&good, "prompt", json!(" ")), "no question", &["`prompt`"]);
    refuses(
        &kind,
        with(&good, "chosen", json!([{"role": "assistant", "content": "x"}])),
        "wrong type",
        &["`rejected`"],
    );
    let margin = read(&PreferenceMarginData::default(), &with(&good, "margin", json!(0.25)));
    assert_eq!(margin.target.extra, Margin(0.25));
    let scored = with(&with(&good, "score_chosen", json!(8)), "score_rejected", json!(3.5));
    assert_eq!(read(&PreferenceScoresData::default(), &scored).target.extra, Scores([8.0, 3.5]));
    refuses(&PreferenceScoresData::default(), without(&scored, "score_rejected"), "missing field", &["score_rejected"]);
}

#[test]
fn an_implicit_prompt_of_plain_text_ends_with_a_word() {
    let kind = PreferenceData::default();
    let check = |chosen: &str, rejected: &str, expected: [&str; 3]| {
        for (a, b, [prompt, first, second]) in
            [(chosen, rejected, expected), (rejected, chosen, [expected[0], expected[2], expected[1]])]
        {
            let sample = read(&kind, &json!({"chosen": a, "rejected": b}));
            let words = |messages: &[crate::text::Message]| messages[0].words();
            let found =
                [words(&sample.conversation.messages), words(&sample.target.chosen), words(&sample.target.rejected)];
            assert_eq!(found, [prompt, first, second].map(str::to_owned));
        }
    };
    check("The sky is blue.", "The sky is green.", ["The sky is", " blue.", " green."]);
    // TRL would split the number, the word and the contraction.
    check("The first prime is 11.", "The first prime is 12.", ["The first prime is", " 11.", " 12."]);
    check("It costs 1.50 now", "It costs 1.75 now", ["It costs", " 1.50 now", " 1.75 now"]);
    check("He is here", "He isn't here", ["He", " is here", " isn't here"]);
    check("caf\u{e9} au lait", "caf\u{e9} noir", ["caf\u{e9}", " au lait", " noir"]);
    // One ends where the other goes on: neither may be empty.
    check("Say it: yes", "Say it: yes, always", ["Say it:", " yes", " yes, always"]);
    check("Say it.", "Say it. And again.", ["Say", " it.", " it. And again."]);
    check(
        "\n\nHuman: q\n\nAssistant: a b",
        "\n\nHuman: q\n\nAssistant: c",
        ["\n\nHuman: q\n\nAssistant:", " a b", " c"],
    );
    check("q\n\nyes", "q\nno", ["q", "\n\nyes", "\nno"]);
    // Scripts without spaces: after each character.
    check("天空是蓝色", "天空是绿色", ["天空是", "蓝色", "绿色"]);
    check("答案是11", "答案是12", ["答案是", "11", "12"]);
    let refused = |a: &str, b: &str, reason: &str| {
        refuses(&kind, json!({"chosen": a, "rejected": b}), reason, &["chosen", "rejected"]);
    };
    refused("Yes.", "No.", "no common prompt");
    refused("Yesterday", "Yes", "no common prompt");
    refused(" a", " b", "no common prompt");
    refused("same", "same ", "equal answers");
    refused("", "", "equal answers");
}

#[test]
fn preferences_in_messages() {
    let kind = PreferenceData::default();
    let (user, assistant) =
        (|w: &str| json!({"role": "user", "content": w}), |w: &str| json!({"role": "assistant", "content": w}));
    let explicit = json!({"prompt": [user("q")], "chosen": [assistant("a")], "rejected": [assistant("b")]});
    let expected = texts(["user: q"], ["assistant: a"], ["assistant: b"]);
    assert_eq!(shown(&read(&kind, &explicit)), expected);
    pairs_are_checked(&kind, &explicit, "/chosen/0/content", "/rejected/0/content");
    let mixed = json!({"prompt": [user("q")], "chosen": "a", "rejected": "b"});
    assert_eq!(shown(&read(&kind, &mixed)), expected);
    let implicit = json!({"chosen": [user("q"), assistant("a")], "rejected": [user("q"), assistant("b")]});
    assert_eq!(shown(&read(&kind, &implicit)), expected);
    // UltraFeedback has the prompt in plain text as well.
    assert_eq!(shown(&read(&kind, &with(&implicit, "prompt", json!("q")))), expected);
    let check = |chosen: Vec<Value>, rejected: Vec<Value>, split: [Vec<String>; 3]| {
        assert_eq!(shown(&read(&kind, &json!({"chosen": chosen, "rejected": rejected}))), split);
    };
    check(
        vec![user("q"), assistant("a"), user("r"), assistant("c")],
        vec![user("q"), assistant("a"), user("r"), assistant("d")],
        texts(["user: q", "assistant: a", "user: r"], ["assistant: c"], ["assistant: d"]),
    );
    // The user's messages differ: the answers begin before them, with the assistant's.
    check(
        vec![user("q"), assistant("a"), user("r"), assistant("c")],
        vec![user("q"), assistant("a"), user("s"), assistant("c")],
        texts(["user: q"], ["assistant: a", "user: r", "assistant: c"], ["assistant: a", "user: s", "assistant: c"]),
    );
    // One goes on where the other ends.
    check(
        vec![user("q"), assistant("a")],
        vec![user("q"), assistant("a"), user("r"), assistant("c")],
        texts(["user: q"], ["assistant: a"], ["assistant: a", "user: r", "assistant: c"]),
    );
    refuses(&kind, json!({"chosen": implicit["chosen"], "rejected": implicit["chosen"]}), "equal answers", &[]);
    refuses(&kind, with(&implicit, "/rejected/0/content", json!("r")), "no common prompt", &["`prompt`"]);
    refuses(&kind, json!({"chosen": [assistant("a")], "rejected": [assistant("b")]}), "no common prompt", &[]);
    refuses(&kind, json!({"chosen": [], "rejected": []}), "equal answers", &[]);
    refuses(&kind, with(&explicit, "chosen", json!([])), "empty answer", &["`chosen`"]);
    refuses(&kind, with(&explicit, "chosen", json!([user("x")])), "answer is not the assistant's", &["user's"]);
    refuses(&kind, with(&explicit, "prompt", json!([])), "empty conversation", &["`prompt`"]);
    refuses(&kind, with(&explicit, "/rejected/0/role", json!("bot")), "unknown role", &["\"bot\""]);
    let tools = with(&explicit, "tools", json!([{"name": "f"}]));
    assert_eq!(read(&kind, &tools).conversation.tools.len(), 1);
}

#[test]
fn preferences_show_images() {
    let kind = PreferenceData::default();
    let plain = json!({"prompt": "What?", "images": null, "chosen": "a", "rejected": "b"});
    images_are_files(&kind, &plain, "images");
    images_are_files(&kind, &plain, "image");
    let front = read(&kind, &with(&plain, "images", json!(["a.png", "b.png"])));
    assert_eq!(said(&front.conversation), ["user: ▣▣What?"]);
    let marked = with(&with(&plain, "prompt", json!("What <image>?")), "images", json!(["a.png"]));
    assert_eq!(said(&read(&kind, &marked).conversation), ["user: What ▣?"]);
    refuses(&kind, with(&marked, "images", json!(["a.png", "b.png"])), "mismatched number of images", &["1 place(s)"]);
    // Both answers repeat the prompt and its image, which is one.
    let user = json!({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]});
    let answer = |words: &str| json!({"role": "assistant", "content": [{"type": "text", "text": words}]});
    let implicit = json!({"images": ["a.png"], "chosen": [user, answer("a")], "rejected": [user, answer("b")]});
    let sample = read(&kind, &implicit);
    assert_eq!(shown(&sample), texts(["user: ▣What?"], ["assistant: a"], ["assistant: b"]));
    let drawn = json!([{"role": "assistant", "content": [{"type": "image"}]}]);
    let row = json!({"images": ["a.png"], "prompt": "q", "chosen": drawn, "rejected": drawn});
    refuses(
        &kind,
        with(&row, "prompt", json!([{"role": "user", "content": "q"}])),
        "image in an answer",
        &["`chosen`"],
    );
}

#[test]
fn safe_rlhf_prefers_the_costlier_answer_in_cost_models() {
    let good = json!({"prompt": "q", "response_0": "no", "response_1": "sure", "is_response_0_safe": true,
        "is_response_1_safe": false, "safer_response_id": 0, "better_response_id": 1});
    let cost = read(&SafetyData::default(), &good);
    assert_eq!(shown(&cost), texts(["user: q"], ["assistant: sure"], ["assistant: no"]));
    assert_eq!(cost.target.extra, Safety([false, true]));
    let other = read(&SafetyData::default(), &with(&good, "safer_response_id", json!(1)));
    assert_eq!(lines(&other.target.chosen), ["assistant: no"]);
    assert_eq!(other.target.extra, Safety([true, false]));
    let helpful = read(&HelpfulnessData::default(), &good);
    assert_eq!(shown(&helpful), texts(["user: q"], ["assistant: sure"], ["assistant: no"]));
    for id in [json!("0"), json!(0.0)] {
        let sample = read(&HelpfulnessData::default(), &with(&good, "better_response_id", id));
        assert_eq!(lines(&sample.target.chosen), ["assistant: no"]);
    }
    pairs_are_checked(&HelpfulnessData::default(), &good, "/response_1", "/response_0");
    pairs_are_checked(&SafetyData::default(), &good, "/response_1", "/response_0");
    let kind = SafetyData::default();
    refuses(&kind, with(&good, "safer_response_id", json!(2)), "no preference", &["`safer_response_id`", "2"]);
    refuses(&kind, with(&good, "safer_response_id", json!("a")), "wrong type", &["0 or 1"]);
    refuses(&kind, with(&good, "safer_response_id", json!(0.5)), "wrong type", &["0 or 1", "0.5"]);
    refuses(&kind, with(&good, "is_response_0_safe", json!(1)), "wrong type", &["is_response_0_safe"]);
    for field in ["is_response_1_safe", "safer_response_id", "prompt", "response_0"] {
        refuses(&kind, without(&good, field), "missing field", &[field]);
    }
    refuses(
        &HelpfulnessData::default(),
        without(&good, "better_response_id"),
        "missing field",
        &["better_response_id"],
    );
}

#[test]
fn vl_rlhfs_pairs_show_a_picture() {
    let kind = PlainDpoData::default();
    let good = json!({"image": "a.jpg", "prompt": "Describe.", "chosen": "A cat.", "rejected": "A dog."});
    assert_eq!(shown(&read(&kind, &good)), texts(["user: ▣Describe."], ["assistant: A cat."], ["assistant: A dog."]));
    assert_eq!(said(&read(&kind, &without(&good, "image")).conversation), ["user: Describe."]);
    assert_eq!(said(&read(&kind, &with(&good, "prompt", json!("See <image>"))).conversation), ["user: See ▣"]);
    images_are_files(&kind, &good, "image");
    pairs_are_checked(&kind, &good, "/chosen", "/rejected");
    refuses(&kind, without(&good, "prompt"), "missing field", &["`prompt`"]);
    refuses(&kind, with(&good, "prompt", json!("<image><image>")), "mismatched number of images", &["2 place(s)"]);

    let kind = RlhfvData::default();
    let inner = json!({"question": "What?", "chosen": "A cat.", "rejected": "A dog."});
    let written = json!({"idx": 3, "image_path": "a.jpg", "text": inner.to_string()});
    let expected = texts(["user: ▣What?"], ["assistant: A cat."], ["assistant: A dog."]);
    assert_eq!(shown(&read(&kind, &written)), expected);
    assert_eq!(shown(&read(&kind, &with(&written, "text", inner.clone()))), expected);
    let flat = json!({"image": "a.jpg", "question": "What?", "chosen": "A cat.", "rejected": "A dog."});
    assert_eq!(shown(&read(&kind, &flat)), expected);
    images_are_files(&kind, &flat, "image");
    images_are_files(&kind, &written, "image_path");
    pairs_are_checked(&kind, &flat, "/chosen", "/rejected");
    refuses(&kind, with(&written, "text", json!("{\"question\": ")), "malformed JSON in a field", &["`text`"]);
    refuses(&kind, with(&written, "text", json!(5)), "wrong type", &["`text`"]);
    refuses(&kind, with(&written, "text", json!("{}")), "missing field", &["`text.question`"]);
    refuses(&kind, without(&flat, "image"), "missing field", &["`image_path`"]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn no_letter_of_an_implicit_prompt_is_lost(
        prompt in "[a-z0-9.,'é猫 \n\u{301}]{0,20}", chosen in "[a-z0-9.,'é猫 \n\u{301}]{0,8}",
        rejected in "[a-z0-9.,'é猫 \n\u{301}]{0,8}",
    ) {
        let [a, b] = [format!("{prompt}{chosen}"), format!("{prompt}{rejected}")];
        match parse(&PreferenceData::default(), &json!({"chosen": a, "rejected": b})) {
            Ok(sample) => {
                let prompt = sample.conversation.messages[0].words();
                let [first, second] = [&sample.target.chosen, &sample.target.rejected].map(|side| side[0].words());
                prop_assert_eq!(format!("{prompt}{first}"), a);
                prop_assert_eq!(format!("{prompt}{second}"), b);
                prop_assert!(!prompt.trim().is_empty() && !first.trim().is_empty() && !second.trim().is_empty());
                let joins = |rest: &str| rest.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
                let last = prompt.chars().next_back();
                prop_assert!(!last.is_some_and(|c| c.is_ascii_alphanumeric()) || !joins(&first) && !joins(&second));
            }
            Err(error) => prop_assert!(["equal answers", "no common prompt"].contains(&error.reason()), "{}", error),
        }
    }
}
