//! Lines, settings and conversations, with a model that repeats what it hears.

use super::error::ChatError;
use super::line::{Command, HELP, Line, goes_on, joined, path};
use super::place::{Piece, pieces};
use super::settings::Settings;
use super::talk::{Picture, Said, Speaker, Talk};
use super::{Chat, piped};
use crate::generation::stop::FinishReason;
use crate::text::{Conversation, Part, Role};
use clap::Parser;
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[track_caller]
fn command(line: &str, expected: Command) {
    assert_eq!(Line::parse(line).unwrap(), Line::Command(expected), "{line}");
}

#[test]
fn lines_are_questions_or_commands() {
    for (line, question) in [("What?", "What?"), ("  /half a path  ", "/half a path"), ("two\nlines", "two\nlines")] {
        assert_eq!(Line::parse(line).unwrap(), Line::Question(question.to_owned()));
    }
    assert_eq!(Line::parse(" \t ").unwrap(), Line::Nothing);
    command("/image a.png", Command::Image("a.png".into()));
    command("/image  \"a b.png\" ", Command::Image("a b.png".into()));
    command("/system Be brief.\nVery.", Command::System(Some("Be brief.\nVery.".to_owned())));
    command("/system", Command::System(None));
    command("/set top_p = 0.9", Command::Set("top_p = 0.9".to_owned()));
    command("/save x.jsonl", Command::Save("x.jsonl".into()));
    for (line, expected) in [
        ("/help", Command::Help),
        ("/reset", Command::Reset),
        ("/undo ", Command::Undo),
        ("/retry", Command::Retry),
        ("/settings", Command::Settings),
        ("/quit", Command::Quit),
        ("/exit", Command::Quit),
    ] {
        command(line, expected);
    }
    for (usage, _) in HELP {
        assert!(Line::parse(usage).is_ok(), "{usage}");
    }
}

#[test]
fn commands_that_cannot_be_read_say_what_to_write() {
    for (line, says) in [
        ("/imagine", "/help lists them"),
        ("/", "no command /"),
        ("/image", "write /image FILE"),
        ("/set ", "/set KEY=VALUE"),
        ("/save", "write /save FILE"),
        ("/reset everything", "/reset takes nothing, and \"everything\" stands behind it"),
    ] {
        let text = Line::parse(line).unwrap_err().to_string();
        assert!(text.contains(says) && !text.contains('\n'), "{text}");
    }
}

#[test]
fn a_backslash_goes_on_in_the_next_line() {
    assert!(goes_on("a\\") && !goes_on("a") && !goes_on("a\\\\") && goes_on("\\"));
    assert_eq!(joined("a\\\nb\\\nc"), "a\nb\nc");
    assert_eq!(joined("pasted\ntext\\\\"), "pasted\ntext\\\\");
    assert_eq!(joined("nothing follows\\"), "nothing follows\\");
}

#[cfg(unix)]
#[test]
fn paths_are_typed_as_in_a_shell() {
    for (typed, expected) in [("a\\ b.png", "a b.png"), ("'a b.png'", "a b.png"), ("a'b", "a'b"), ("~x", "~x")] {
        assert_eq!(path(typed), PathBuf::from(expected), "{typed}");
    }
    assert_eq!(path("~/a"), std::env::home_dir().unwrap().join("a"));
}

#[test]
fn files_behind_an_at_sign_are_images() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.png");
    std::fs::write(&file, b"").unwrap();
    let spaced = folder.path().join("a b");
    std::fs::write(&spaced, b"").unwrap();
    let (a, b) = (file.display().to_string(), spaced.display().to_string());
    let text = |text: &str| Piece::Text(text.to_owned());
    let check =
        |question: &str, expected: &[Piece]| assert_eq!(pieces(question, true).unwrap(), expected, "{question}");
    check(&format!("@{a} What is it?"), &[Piece::File(file.clone()), text("What is it?")]);
    check(
        &format!("Is @{a}, like @\"{b}\"?"),
        &[text("Is "), Piece::File(file.clone()), text(", like "), Piece::File(spaced.clone()), text("?")],
    );
    check(&format!("<image> or @{a}"), &[Piece::Marker, text(" or "), Piece::File(file)]);
    check("me@example.png and @someone", &[text("me@example.png and @someone")]);
    let error = pieces("What is @nowhere/cat.JPG?", true).unwrap_err().to_string();
    assert!(error.contains("nowhere/cat.JPG: there is no such file"), "{error}");
    assert_eq!(pieces("What is @nowhere/cat.JPG?", false).unwrap(), [text("What is @nowhere/cat.JPG?")]);
    if cfg!(unix) {
        check(&format!("@{} x", b.replace(' ', "\\ ")), &[Piece::File(spaced), text("x")]);
    }
}

fn settings(given: &[&str]) -> Result<Settings, String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("generation_config.json"), r#"{"temperature": 0.6, "do_sample": true}"#).unwrap();
    let given: Result<Vec<_>, _> = given.iter().map(|text| super::settings::read(text)).collect();
    given.and_then(|given| Settings::new(folder.path(), &given)).map_err(|error| error.to_string())
}

#[test]
fn settings_go_over_the_checkpoints() {
    let of = |given: &[&str]| settings(given).unwrap().in_force().unwrap();
    let own = of(&[]);
    assert_eq!((own.do_sample, own.temperature, own.max_new_tokens), (true, 0.6, Some(512)));
    let set = of(&["generation.top_p=0.9", "max_new_tokens = 7", "seed=3"]);
    assert_eq!((set.do_sample, set.temperature, set.top_p, set.seed), (true, 0.6, 0.9, 3));
    assert_eq!(set.max_new_tokens, Some(7));
    let likeliest = of(&["temperature=0", "top_p=0.9"]);
    assert_eq!((likeliest.do_sample, likeliest.temperature, likeliest.top_p), (false, 1.0, 1.0));
    assert_ne!(of(&[]).seed, of(&[]).seed, "draws differ where no seed is given");
    assert_eq!(of(&["max_length=90"]).max_new_tokens, None);
}

#[test]
fn settings_are_obeyed_or_refused() {
    for (given, says) in [
        ("temprature=0.7", "did you mean `temperature`?"),
        ("temperature=-1", "`temperature` takes a number above 0, not `-1`"),
        ("top_p", "write it as key=value"),
        ("num_return_sequences=2", "a conversation shows one answer"),
        ("logprobs=true", "leave `logprobs` out"),
    ] {
        let text = settings(&[given]).unwrap_err();
        assert!(text.contains(says) && !text.contains("generation."), "{text}");
    }
    let text = settings(&["do_sample=false", "top_k=5"]).unwrap_err();
    assert!(text.contains("`top_k` is given, but `do_sample` is false"), "{text}");
    let mut settings = settings(&["top_k=5"]).unwrap();
    assert!(settings.set("num_beams=0").is_err());
    assert!(settings.set("do_sample=false").is_err(), "as it was before: top_k is set");
    assert!(settings.lines().unwrap().contains(&"top_k=5 (set)".to_owned()));
    settings.set("top_k=default").unwrap();
    settings.set("do_sample=false").unwrap();
    let lines = settings.lines().unwrap();
    assert!(lines.contains(&"do_sample=false (set)".to_owned()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.starts_with("top_k")), "{lines:?}");
}

#[test]
fn options_are_settings() {
    let given = |arguments: &[&str]| {
        let all = ["chat", "--model", "m"].iter().chain(arguments).copied();
        Chat::try_parse_from(all).unwrap().generation.assignments().map_err(|error| error.to_string())
    };
    let both = given(&["--temperature", "0.5", "--top-k", "3", "--set", "min_p=0.1", "--set", "seed=4"]).unwrap();
    let expected = [("temperature", json!(0.5)), ("top_k", json!(3)), ("min_p", json!(0.1)), ("seed", json!(4))];
    assert_eq!(both, expected.map(|(key, value)| (key.to_owned(), value)));
    let text = given(&["--max-new-tokens", "0"]).unwrap_err();
    assert!(text.starts_with("--max-new-tokens 0: ") && text.contains("of at least 1"), "{text}");
}

/// Says how many messages there are and the last words; after three pieces somebody may interrupt it.
#[derive(Debug)]
struct Echo {
    interrupts: Option<(usize, Arc<AtomicBool>)>,
    context: usize,
}

impl Speaker for Echo {
    fn picture(&self, path: &Path) -> Result<Picture, ChatError> {
        match path.is_file() {
            true => Ok(Picture { path: path.to_owned(), pixels: vec![0.0].into() }),
            false => Err(ChatError::NoFile(path.to_owned())),
        }
    }

    fn answer(
        &mut self,
        conversation: &Conversation,
        pictures: &[Picture],
        _: &Settings,
        _: u64,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Said, ChatError> {
        let messages = &conversation.messages;
        assert_eq!(conversation.image_count(), pictures.len());
        if messages.len() > self.context {
            return Err(ChatError::Full { tokens: messages.len(), context: self.context });
        }
        let first = if messages[0].role == Role::System { messages[0].words() } else { String::new() };
        let whole =
            [first, messages.len().to_string(), format!("[{}]", pictures.len()), messages.last().unwrap().words()];
        let mut text = String::new();
        let mut finish = FinishReason::StopToken(2);
        for (n, piece) in whole.iter().enumerate() {
            if let Some((at, flag)) = &self.interrupts {
                flag.store(n >= *at, Ordering::Relaxed);
            }
            if self.interrupts.as_ref().is_some_and(|(at, _)| *at == 0) {
                finish = FinishReason::Cancelled;
                break;
            }
            text.push_str(piece);
            if on_text(piece).is_break() {
                finish = FinishReason::Cancelled;
                break;
            }
        }
        Ok(Said { text, finish, prompt: 1, reused: 0, written: 1, full: false })
    }
}

fn talk(interrupt: Option<usize>, context: usize) -> Talk<Echo> {
    let flag = Arc::new(AtomicBool::new(false));
    let echo = Echo { interrupts: interrupt.map(|at| (at, flag.clone())), context };
    Talk::new(echo, settings(&[]).unwrap(), flag)
}

/// What standard output gets of these lines, and what went wrong at last.
fn said(talk: &mut Talk<Echo>, lines: &str) -> (String, Option<String>) {
    let mut out = Vec::new();
    let result = piped::run(talk, &mut lines.as_bytes(), &mut out);
    (String::from_utf8(out).unwrap(), result.err().map(|error| error.to_string()))
}

#[test]
fn a_conversation_goes_on_and_back() {
    let lines = "one\n\ntwo\\\nmore\n/undo\n/retry\n/system S\nthree\n/reset\nfour\n/quit\nfive\n";
    let (out, error) = said(&mut talk(None, 99), lines);
    assert_eq!(out, "1[0]one\n3[0]two\nmore\n1[0]one\nS4[0]three\nS2[0]four\n");
    assert_eq!(error, None);
}

#[test]
fn what_is_wrong_with_a_line_ends_nothing() {
    let (out, error) =
        said(&mut talk(None, 3), "/undo\n/retry\n/image nowhere.png\n/what\none\n@no.png\ntwo\nthree\n/undo\nfour");
    assert_eq!(out, "1[0]one\n3[0]two\n3[0]four\n", "three finds no room");
    assert_eq!(error.as_deref(), Some("6 of 10 lines had no answer"));
    let mut out = Vec::new();
    let bytes: &[u8] = b"\xff\xfe\nwell\n";
    let error = piped::run(&mut talk(None, 9), &mut &bytes[..], &mut out).unwrap_err();
    assert_eq!((out.as_slice(), error.to_string().as_str()), (&b"1[0]well\n"[..], "1 of 2 lines had no answer"));
}

#[test]
fn images_wait_for_a_question_that_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("a.png");
    std::fs::write(&file, b"").unwrap();
    let a = file.display();
    let lines =
        format!("/image {a}\n/image {a}\n<image> one marker\n<image> and <image>?\nmore\n@{a} again\n/undo\nend");
    let (out, error) = said(&mut talk(None, 99), &lines);
    assert_eq!(out, "1[2] and ?\n3[2]more\n5[3]again\n5[2]end\n");
    assert_eq!(error.as_deref(), Some("1 of 8 lines had no answer"));
}

#[test]
fn an_answer_that_is_stopped_stays_as_far_as_it_came() {
    let mut stopped = talk(Some(1), 99);
    assert_eq!(said(&mut stopped, "one\ntwo\n").0, "1\n3\n");
    let mut at_once = talk(Some(0), 99);
    let (out, error) = said(&mut at_once, "one\n/retry\n");
    assert_eq!((out.as_str(), error.as_deref()), ("", Some("2 of 2 lines had no answer")));
}

#[test]
fn a_conversation_is_saved_as_a_record() {
    let folder = tempfile::tempdir().unwrap();
    let (file, image) = (folder.path().join("talk.jsonl"), folder.path().join("a.png"));
    std::fs::write(&image, b"").unwrap();
    let mut talk = talk(None, 99);
    let lines =
        format!("/save {0}\n/system S\n/image {1}\none\n/save {0}\n/save {0}\n", file.display(), image.display());
    assert_eq!(said(&mut talk, &lines).1.as_deref(), Some("2 of 6 lines had no answer"), "too early, and once more");
    let row: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let roles: Vec<&str> = row["messages"].as_array().unwrap().iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles.first(), Some(&"system"));
    let place = crate::data::Place { file: file.as_path().into(), line: 1 };
    let Value::Object(fields) = row else { panic!("{row}") };
    let read = <crate::data::ChatData as crate::data::DataKind>::parse(&Default::default(), &fields, &place).unwrap();
    let messages = &read.conversation.messages;
    assert_eq!(messages[1].content, [Part::Image, Part::Text("one".to_owned())]);
    assert_eq!((messages[2].words().as_str(), read.images.as_slice()), ("S2[1]one", &[image][..]));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing half-written is left");
}

#[test]
fn a_reader_that_is_gone_ends_the_conversation() {
    struct Gone;
    impl std::io::Write for Gone {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut talk = talk(None, 99);
    let error = piped::run(&mut talk, &mut &b"one\ntwo\n"[..], &mut Gone).unwrap_err();
    assert!(super::quietly(Err(error)).is_ok());
    assert!(super::quietly(Err(anyhow::anyhow!("another"))).is_err());
}
