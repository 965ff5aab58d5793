//! `chat` on tiny checkpoints: one question, and a conversation line by line.

use super::{fixture, program, text};
use crate::parity::case::{Case, device};
use clap::Parser;
use firebrick::data::Encoder;
use firebrick::engine::{Engine, Prompt, Request as Asked};
use firebrick::generation::decoding::Decoding;
use firebrick::generation::driver::{Request, generate};
use firebrick::generation::row::RowSettings;
use firebrick::generation::stop::StopRules;
use firebrick::generation::{Lanes, Reuse};
use firebrick::projector::Projector;
use firebrick::recipe::tools::{Common, LocalEngine, LocalSettings};
use firebrick::text::{ChatTemplate, Conversation, Message, Part, Role};
use firebrick::vision::VisionEncoder;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

fn chat(model: &str) -> Command {
    let mut chat = program("chat");
    chat.arg("--model").arg(fixture("parity").join(model).join("model")).args(["--device", "cpu", "--template", "v1"]);
    chat
}

/// Runs with these lines as its input; the exit code must be `code`.
#[track_caller]
fn piped(chat: &mut Command, lines: &str, code: i32) -> Output {
    let mut child = chat.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // It may end before it has read all.
    let _ = child.stdin.take().unwrap().write_all(lines.as_bytes());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(code), "{}", text(&output));
    assert!(!text(&output).contains("panicked"), "{}", text(&output));
    output
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A question, how many images are new with it, and the tokens of its answer.
type Turn = (Vec<Part>, usize, usize);

/// The answers to these questions one after another, each with all that comes before it read from its beginning.
fn expected<V: VisionEncoder, P: Projector>(case: &Case<V, P>, turns: &[Turn], images: &[PathBuf]) -> Vec<String> {
    let encoder = Encoder { template: ChatTemplate::llava("v1").unwrap(), ..case.encoder.clone() };
    let (mut messages, mut shown) = (Vec::new(), 0);
    let answer = |(content, own, tokens): &Turn| {
        messages.push(Message::new(Role::User, content.clone()));
        shown += own;
        let prompt = encoder.encode_question(&Conversation::new(messages.clone()), &images[..shown]).unwrap();
        let stop = StopRules {
            ids: vec![encoder.tokenizer.eos().unwrap()],
            max_new_tokens: Some(*tokens),
            ..StopRules::default()
        };
        let settings = RowSettings {
            decoding: Arc::new(Decoding::greedy(stop)),
            prompt: prompt.input_ids.clone(),
            key: 0,
            detokenizer: Some(Box::new(encoder.tokenizer.stream())),
        };
        let lanes = Lanes::new(&case.loaded.model, 0, *tokens, &case.device);
        let rows = generate(lanes, vec![Request { prompt, settings }], &mut |_, _| ControlFlow::Continue(())).unwrap();
        messages.push(Message::text(Role::Assistant, rows[0][0].text.trim()));
        rows[0][0].text.clone()
    };
    turns.iter().map(answer).collect()
}

fn words(text: &str) -> Part {
    Part::Text(text.to_owned())
}

fn lines(answers: &[String]) -> String {
    answers.iter().map(|answer| format!("{answer}\n")).collect()
}

/// Of each answer, the tokens of its prompt and those of them that were known, as `--stats` tells them.
fn known(output: &Output) -> Vec<(usize, usize)> {
    let number = |text: &str| text.split(' ').next().unwrap().parse().unwrap();
    let of = |line: &str| {
        let (_, rest) = line.split_once("prompt of ")?;
        Some((number(rest), number(rest.split_once(", ").unwrap().1)))
    };
    stderr(output).lines().filter_map(of).collect()
}

#[test]
fn a_conversation_about_pictures_is_answered_as_if_it_were_read_whole() {
    let images = ["ridge.png", "stripes.png"].map(|name| fixture("parity/records/images").join(name));
    let [first, second] = images.each_ref().map(|image| image.display().to_string());
    let input = format!("/image {first}\nWhat is it?\n\nIs it\\\nhigh?\n@{second} And this one?\n");
    let arguments = ["--max-new-tokens", "6", "--stats"];
    let output = piped(chat("llava_gqa").args(arguments), &input, 0);
    let turns = [
        (vec![Part::Image, words("What is it?")], 1, 6),
        (vec![words("Is it\nhigh?")], 0, 6),
        (vec![Part::Image, words("And this one?")], 1, 6),
    ];
    let answers = expected(&Case::llava("llava_gqa", &device()), &turns, &images);
    assert_eq!(stdout(&output), lines(&answers));
    let known = known(&output);
    assert_eq!((known.len(), known[0].1), (3, 0), "{}", stderr(&output));
    for pair in known.windows(2) {
        // At least the prompt before is known, up to where the answer's words begin.
        assert!(pair[1].1 >= pair[0].0 - 1 && pair[1].1 < pair[1].0, "{known:?}");
    }
    // One question is the first of a conversation.
    let mut once = chat("llava_gqa");
    once.args(arguments).args(["--prompt", "What is it?", "--image", &first]);
    assert_eq!(stdout(&piped(&mut once, "", 0)), lines(&answers[..1]));
}

#[test]
fn commands_change_what_comes_and_mistakes_end_nothing() {
    let input = "One?\n/set max_new_tokens=2\nTwo?\n/undo\n/reset\nOne?\n/set max_new_tokens=0\n/image nowhere.png\n\
                 @nowhere.png?\n/what\n/set max_new_tokens=5\n/retry\n/quit\nThree?\n";
    let output = piped(chat("llama_text").args(["--max-new-tokens", "5"]), input, 1);
    let case = Case::text("llama_text", &device());
    let one = |tokens: usize| (vec![words("One?")], 0, tokens);
    let mut answers = expected(&case, &[one(5), (vec![words("Two?")], 0, 2)], &[]);
    answers.extend(expected(&case, &[one(2)], &[]));
    answers.extend(expected(&case, &[one(5)], &[]));
    assert_eq!(stdout(&output), lines(&answers));
    let errors: Vec<String> =
        stderr(&output).lines().filter(|line| line.starts_with("error: ")).map(str::to_owned).collect();
    let says =
        ["line 7: --set max_new_tokens=0: ", "line 8: nowhere.png: ", "line 9: nowhere.png: ", "line 10: there is"];
    assert_eq!(errors.len(), 5, "{errors:?}");
    for (error, says) in errors.iter().zip(says) {
        assert!(error.contains(says), "{error}");
    }
    assert_eq!(errors[4], "error: 4 of 13 lines had no answer");
}

#[test]
fn a_full_context_says_what_to_do() {
    let long = "word ".repeat(700);
    let output = piped(chat("llama_text").args(["--max-new-tokens", "3"]), &format!("{long}\nOne?\n"), 1);
    assert!(stderr(&output).contains("line 1: the context is full") && stderr(&output).contains("/reset begins anew"));
    let answer = expected(&Case::text("llama_text", &device()), &[(vec![words("One?")], 0, 3)], &[]);
    assert_eq!(stdout(&output), lines(&answer));
}

#[test]
fn one_question_obeys_settings_or_refuses_them() {
    let ask = |more: &[&str], code| piped(chat("llama_text").args(["--prompt", "/What?"]).args(more), "", code);
    let drawn = ask(&["--temperature", "3", "--seed", "5", "--max-new-tokens", "9"], 0);
    assert_eq!(
        stdout(&drawn),
        stdout(&ask(&["--set", "temperature=3", "--seed", "5", "--set", "max_new_tokens=9"], 0))
    );
    assert_ne!(stdout(&drawn), stdout(&ask(&["--temperature", "3", "--seed", "6", "--max-new-tokens", "9"], 0)));
    let beams = ask(&["--set", "num_beams=3", "--max-new-tokens", "4"], 0);
    assert!(stdout(&beams).len() > 1);
    for (more, says) in [
        (&["--temperature", "hot"][..], "--temperature hot: `temperature` takes a number above 0"),
        (&["--set", "temprature=1"], "did you mean `temperature`?"),
        (&["--set", "do_sample=false", "--top-k", "5"], "`top_k` is given, but `do_sample` is false"),
        (&["--image", "x.png", "--set", "logprobs=true"], "leave `logprobs` out"),
    ] {
        let refused = ask(more, 2);
        assert!(stderr(&refused).contains(says) && stdout(&refused).is_empty(), "{}", text(&refused));
    }
}

#[test]
fn a_reader_that_goes_away_ends_it_quietly() {
    let mut child = chat("llama_text")
        .args(["--max-new-tokens", "3"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    child.stdin.take().unwrap().write_all(b"One?\nTwo?\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(!stderr(&output).contains("error"), "{}", stderr(&output));
}

/// The options that the tools share, as a program would read them.
#[derive(Parser)]
struct Shared {
    #[command(flatten)]
    common: Common,
}

#[test]
fn an_engine_says_what_it_need_not_read() {
    let model = fixture("parity/llama_text/model").display().to_string();
    for (rows, known) in [(2, 38), (0, 0)] {
        let common = Shared::parse_from(["engine", "--model", &model, "--device", "cpu"]).common;
        let reuse = Reuse { rows, tokens: 1000 };
        let engine = LocalEngine::open(LocalSettings { common, adapters: Vec::new(), lanes: 2, reuse }).unwrap();
        let ask = |more: &[u32]| {
            let ids = (10..45).chain(more.iter().copied()).collect();
            let mut request = Asked::new("a", Prompt::Tokens(ids));
            request.sampling.max_new_tokens = Some(4);
            request.sampling.ignore_eos = true;
            let mut answer = None;
            engine.generate(&[request], &mut |_, result| {
                answer = Some(result.unwrap());
                ControlFlow::Continue(())
            });
            let usage = answer.unwrap().usage;
            (usage.prompt_tokens, usage.cached_tokens)
        };
        assert_eq!(ask(&[99, 98, 97]), (38, 0));
        assert_eq!(ask(&[99, 98, 97, 5, 6]), (40, known));
        assert_eq!(ask(&[3]), (36, if rows > 0 { 35 } else { 0 }));
    }
}
