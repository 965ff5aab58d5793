//! `tokenizer.json`, its companions and chat templates.

use super::files::{cut, edit, nested, set};
use super::program::Work;
use super::{Case, Program, check, check_with};
use serde_json::json;
use std::fs;
use std::path::PathBuf;

const READERS: &[Program] = &[Program::DryRun, Program::Score];

fn tokenizer(work: &Work) -> PathBuf {
    work.model().join("tokenizer.json")
}

/// Gives the last token of the vocabulary another id.
fn far(work: &Work, id: u32) {
    edit(&tokenizer(work), |t| {
        let vocabulary = t["model"]["vocab"].as_object_mut().unwrap();
        let last = vocabulary.values_mut().max_by_key(|id| id.as_u64()).unwrap();
        *last = json!(id);
    });
}

fn template(work: &Work, source: &str) {
    fs::write(work.model().join("chat_template.jinja"), source).unwrap();
}

#[test]
fn files_that_are_no_tokenizer() {
    check(
        READERS,
        &[
            Case {
                name: "none",
                damage: |w| fs::remove_file(tokenizer(w)).unwrap(),
                says: &["model", "tokenizer.json"],
            },
            Case { name: "empty", damage: |w| cut(&tokenizer(w), 0), says: &["tokenizer.json"] },
            Case { name: "cut", damage: |w| cut(&tokenizer(w), 9000), says: &["tokenizer.json"] },
            Case { name: "no JSON", damage: |w| fs::write(tokenizer(w), "<html>").unwrap(), says: &["tokenizer.json"] },
            Case {
                name: "nested without end",
                damage: |w| fs::write(tokenizer(w), nested(5_000_000)).unwrap(),
                says: &["tokenizer.json"],
            },
            Case {
                name: "an unknown model",
                damage: |w| set(&tokenizer(w), "/model/type", json!("Telepathy")),
                says: &["tokenizer.json"],
            },
            Case {
                name: "no vocabulary",
                damage: |w| edit(&tokenizer(w), |t| drop(t["model"].as_object_mut().unwrap().remove("vocab"))),
                says: &["tokenizer.json"],
            },
            Case {
                name: "negative ids",
                damage: |w| set(&tokenizer(w), "/model/vocab", json!({"a": -1})),
                says: &["tokenizer.json"],
            },
            Case {
                name: "an id at the end of what a number holds",
                damage: |w| far(w, u32::MAX),
                says: &["tokenizer", "4294967295"],
            },
            Case {
                name: "an id far beyond the embedding's rows",
                damage: |w| far(w, 2_000_000_000),
                says: &["tokenizer", "2000000000"],
            },
            Case {
                name: "a merge of what is not in the vocabulary",
                damage: |w| set(&tokenizer(w), "/model/merges", json!([["qqq", "zzz"]])),
                says: &["tokenizer.json"],
            },
            Case {
                name: "a pattern that cannot be compiled",
                damage: |w| {
                    let split =
                        json!({"type": "Split", "pattern": {"Regex": "((("}, "behavior": "Isolated", "invert": false});
                    set(&tokenizer(w), "/pre_tokenizer", split);
                },
                says: &["tokenizer.json"],
            },
            Case {
                name: "companions that are cut",
                damage: |w| cut(&w.model().join("tokenizer_config.json"), 40),
                says: &["tokenizer_config.json"],
            },
            Case {
                name: "companions in Latin-1",
                damage: |w| fs::write(w.model().join("tokenizer_config.json"), b"{\"eos_token\": \"\xe9\"}").unwrap(),
                says: &["tokenizer_config.json", "UTF-8"],
            },
        ],
    );
}

/// What a template of a checkpoint may try. A string that doubles itself forty times is not among them: nothing in the
/// template engine limits the memory of one value, so that only the system's own limit stops it.
const TEMPLATES: &[Case] = &[
    Case { name: "does not compile", damage: |w| template(w, "{% for %}"), says: &["template"] },
    Case {
        name: "raises",
        damage: |w| template(w, "{{ raise_exception('only on Sundays') }}"),
        says: &["only on Sundays"],
    },
    Case {
        name: "calls what is not there",
        damage: |w| template(w, "{{ messages[0].content.launch() }}"),
        says: &["launch"],
    },
    Case {
        name: "loops for ever",
        damage: |w| template(w, "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"),
        says: &["template"],
    },
    Case {
        name: "writes for ever",
        damage: |w| {
            template(w, "{% for a in range(90000) %}{% for b in range(90000) %}{{ messages }}{% endfor %}{% endfor %}")
        },
        says: &["template"],
    },
    Case { name: "repeats a string", damage: |w| template(w, "{{ 'ab' * 100000000000 }}"), says: &["template"] },
    Case {
        name: "fills a line",
        damage: |w| template(w, "{{ 'ab'.center(100000000000) }}{{ '%0100000000000d'|format(1) }}"),
        says: &["template"],
    },
    Case {
        name: "calls itself",
        damage: |w| template(w, "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"),
        says: &["recursion"],
    },
    Case { name: "nests blocks", damage: |w| template(w, &"{% if true %}".repeat(100_000)), says: &["template"] },
    Case {
        name: "nests brackets",
        damage: |w| template(w, &format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000))),
        says: &["template"],
    },
    Case { name: "includes a file", damage: |w| template(w, "{% include '/etc/passwd' %}"), says: &["/etc/passwd"] },
    Case { name: "ignores the conversation", damage: |w| template(w, "Hello."), says: &["leaves out"] },
    Case {
        name: "is ten megabytes of text",
        damage: |w| template(w, &"Lorem ipsum. ".repeat(800_000)),
        says: &["leaves out"],
    },
];

#[test]
fn templates_that_do_not_yield() {
    check_with(Program::DryRun, &["--set", "data.template=checkpoint"], TEMPLATES);
    check_with(Program::Score, &["--template", "checkpoint"], TEMPLATES);
}
