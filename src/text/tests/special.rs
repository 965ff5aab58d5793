//! Special tokens that are added, and templates that end with them.

use super::*;

fn wanted() -> WantedTokens {
    let owned = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    WantedTokens {
        roles: vec![
            (SpecialRole::Eos, "<end>".into()),
            (SpecialRole::Pad, "<pad-2>".into()),
            (SpecialRole::Sep, "<sep>".into()),
        ],
        additional: vec!["<RS>".into(), "</RS>".into(), "<s>".into()],
        origins: owned(&[("<RS>", "cat sat"), ("<sep>", "</s>"), ("<s>", "x")]),
    }
}

#[test]
fn a_role_is_filled_where_there_is_none_and_kept_where_there_is_one() {
    for name in TOKENIZERS {
        let mut tokenizer = tokenizer(name);
        let before = tokenizer.clone();
        let had_pad = before.pad().is_some();
        let added = tokenizer.add_wanted(&wanted()).unwrap();
        assert_eq!(tokenizer.eos(), before.eos());
        assert!(added.notes.iter().any(|note| note.contains("eos_token \"</s>\" stays")), "{:?}", added.notes);
        assert!(added.notes.iter().any(|note| note.contains("\"<s>\" is not new")), "{:?}", added.notes);
        let expected = if had_pad { vec!["<sep>", "<RS>", "</RS>"] } else { vec!["<pad-2>", "<sep>", "<RS>", "</RS>"] };
        assert_eq!(added.new.iter().map(|new| new.text.as_str()).collect::<Vec<_>>(), expected, "{name}");
        let ids: Vec<u32> = added.new.iter().map(|new| new.id).collect();
        let first = before.vocab_size() as u32;
        assert_eq!(ids, (first..first + ids.len() as u32).collect::<Vec<_>>());
        assert_eq!(tokenizer.vocab_size(), before.vocab_size() + ids.len());
        let from = |text: &str| added.new.iter().find(|new| new.text == text).unwrap().from.clone();
        let words: Vec<u32> = before.encode("cat sat").unwrap().iter().map(|token| token.id).collect();
        assert_eq!((from("<RS>"), from("<sep>"), from("</RS>")), (words, vec![before.eos().unwrap()], vec![]));
        assert_eq!(tokenizer.role(SpecialRole::Sep), tokenizer.token_id("<sep>"));

        let dir = tempfile::tempdir().unwrap();
        tokenizer.save(dir.path()).unwrap();
        let again = Tokenizer::from_dir(dir.path()).unwrap();
        for role in [SpecialRole::Bos, SpecialRole::Eos, SpecialRole::Pad, SpecialRole::Unk, SpecialRole::Sep] {
            assert_eq!(again.role(role), tokenizer.role(role), "{role:?}");
        }
        let text = "<RS>A cat</RS><sep>";
        assert_eq!(again.encode(text).unwrap(), tokenizer.encode(text).unwrap());
        assert_eq!(again.template_variables()["sep_token"], "<sep>");
        // Once more, nothing is new.
        let added = again.clone().add_wanted(&wanted()).unwrap();
        assert_eq!((added.new.len(), again.vocab_size()), (0, tokenizer.vocab_size()));
    }
}

#[test]
fn tokens_that_cannot_be_are_refused_and_nothing_is_changed() {
    let mut tokenizer = tokenizer("bytelevel");
    let size = tokenizer.vocab_size();
    let origins =
        |token: &str, text: &str| WantedTokens { origins: vec![(token.to_owned(), text.to_owned())], ..wanted() };
    let empty = WantedTokens { additional: vec![" ".into()], ..WantedTokens::default() };
    for (wanted, words) in [
        (empty, "a special token is empty"),
        (origins("<nobody>", "x"), "\"<nobody>\", which is no token"),
        (origins("<RS>", ""), "which has no token"),
    ] {
        let error = tokenizer.add_wanted(&wanted).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
        assert_eq!((tokenizer.vocab_size(), tokenizer.role(SpecialRole::Sep)), (size, None));
    }
}

fn prefix_suffix(suffix: &str) -> ChatTemplate {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.json");
    let file = json!({"prefix_template": "<RS>{role}\n", "suffix_template": suffix,
        "role_tag_mapping": {"user": "USER", "bot": "BOT"}});
    std::fs::write(&path, file.to_string()).unwrap();
    ChatTemplate::prefix_suffix(&path).unwrap()
}

#[test]
fn a_suffix_ends_an_answer_as_a_token_or_as_words() {
    let mut tokenizer = tokenizer("bytelevel");
    for suffix in ["</RS>", "</RS>\n", "</s>", "###\n\n"] {
        check_end_of_turn(&prefix_suffix(suffix), &tokenizer).unwrap();
    }
    for suffix in ["", "\n"] {
        let error = check_end_of_turn(&prefix_suffix(suffix), &tokenizer).unwrap_err();
        assert!(matches!(error, TextError::NoEndOfTurn { .. }), "{error}");
    }
    check_end_of_turn(&ChatTemplate::plain_text(&tokenizer), &tokenizer).unwrap();
    let endless = ChatTemplate::PlainText(PlainTextTemplate::new(""));
    assert!(matches!(check_end_of_turn(&endless, &tokenizer), Err(TextError::NoEndOfTurn { .. })));

    // The prefix is never learned, the suffix is.
    tokenizer.try_add_special_tokens(&["<RS>", "</RS>"]).unwrap();
    let rendered = prefix_suffix("</RS>").render(&question_and_answer()).unwrap();
    assert_eq!(rendered.text, "<RS>USER\nHi</RS><RS>BOT\nYo</RS>");
    let encoded = encode_rendered(&tokenizer, &rendered, &ImageTokens::default()).unwrap();
    let learned = encoded.input_ids.iter().zip(&encoded.supervised).filter(|(_, learned)| **learned);
    assert_eq!(tokenizer.decode_all(&learned.map(|(&id, _)| id).collect::<Vec<_>>()), "Yo</RS>");
}

#[test]
fn all_text_is_learned_of_templates_with_and_without_blocks() {
    let golden = golden();
    let conversation = chat(&[(Role::User, "q"), (Role::Assistant, "a"), (Role::User, "r"), (Role::Assistant, "b")]);
    for name in golden["templates"].as_object().unwrap().keys() {
        let template = jinja(text_of(&golden["templates"], name)).unwrap();
        let plain = template.render(&conversation).unwrap();
        let all = template.render_all(&conversation).unwrap();
        assert_eq!((&all.text, all.spans.clone()), (&plain.text, Vec::from_iter(Some(0..plain.text.len()))));
        // Without the first exchange, what follows its question's header.
        let mut second = conversation.clone();
        second.messages[0].train = false;
        let spans = template.render_all(&second).unwrap().spans;
        assert_eq!(spans, Vec::from_iter(Some(plain.spans[0].start..plain.text.len())), "{name}");
        second.messages[3].train = false;
        let spans = template.render_all(&second).unwrap().spans;
        assert_eq!(spans.len(), 1, "{name}");
        let learned = &plain.text[spans[0].clone()];
        assert!(learned.contains('r') && !learned.contains('b'), "{name}: {learned:?}");
    }
}
