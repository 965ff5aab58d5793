//! Questions that a person types.

use super::error::ChatError;
use super::line::{HELP, goes_on, joined};
use super::talk::{Speaker, Talk};
use crate::generation::settings::Generation;
use crate::settings::Component;
use rustyline::completion::{Completer, FilenameCompleter, Pair};
use rustyline::config::{Behavior, BellStyle, Config};
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{CompletionType, Context, Editor, Helper};
use signal_hook::consts::SIGINT;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Questions that are remembered.
const REMEMBERED: usize = 1000;

const PROMPT: &str = "> ";

/// Where questions are remembered: in the user's state folder. `None` where there is none.
pub(super) fn history_file() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = match cfg!(windows) {
        true => folder("LOCALAPPDATA"),
        false => folder("XDG_STATE_HOME").or_else(|| std::env::home_dir().map(|home| home.join(".local/state"))),
    };
    state.map(|state| state.join("firebrick").join("chat_history"))
}

/// Talks until Ctrl-D. Ctrl-C ends an answer, whose words stay, or clears the line; a second one before the answer has
/// ended ends the program.
///
/// # Errors
/// A terminal that cannot be used, and output that cannot be written.
pub(super) fn run<S: Speaker>(
    talk: &mut Talk<S>,
    history: Option<PathBuf>,
    interrupted: &Arc<AtomicBool>,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let mut editor = editor()?;
    let mut history = history.filter(|path| begin(&mut editor, path));
    // In this order: the first Ctrl-C finds the flag down and raises it.
    signal_hook::flag::register_conditional_shutdown(SIGINT, 130, interrupted.clone())?;
    signal_hook::flag::register(SIGINT, interrupted.clone())?;
    eprintln!("/help lists the commands; a backslash at a line's end goes on in the next; Ctrl-D ends");
    loop {
        let text = match editor.readline(PROMPT) {
            Ok(text) => text,
            Err(ReadlineError::Interrupted) => continue,
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        remember(&mut editor, &text, &mut history);
        match talk.line(&joined(&text), out) {
            Ok(flow) if flow.is_break() => return Ok(()),
            Ok(_) => {}
            Err(ChatError::Out(error)) => return Err(error.into()),
            Err(error) => eprintln!("error: {error}"),
        }
    }
}

fn editor() -> rustyline::Result<Editor<Words, FileHistory>> {
    let config = Config::builder()
        .max_history_size(REMEMBERED)?
        .history_ignore_space(true)
        .completion_type(CompletionType::List)
        .bell_style(BellStyle::None)
        // Standard output may be a file; what is typed is shown on the terminal in any case.
        .behavior(Behavior::PreferTerm)
        .build();
    let mut editor = Editor::with_config(config)?;
    editor.set_helper(Some(Words { files: FilenameCompleter::new() }));
    Ok(editor)
}

/// Reads the questions of earlier runs; `false` where none can be kept.
fn begin(editor: &mut Editor<Words, FileHistory>, path: &Path) -> bool {
    let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
    match made
        .map_err(ReadlineError::from)
        .and_then(|()| if path.exists() { editor.load_history(path) } else { Ok(()) })
    {
        Ok(()) => true,
        Err(error) => {
            eprintln!("{}: {error}; questions are not remembered", path.display());
            false
        }
    }
}

/// Remembers a line at once: a program that is killed has lost none.
fn remember(editor: &mut Editor<Words, FileHistory>, text: &str, history: &mut Option<PathBuf>) {
    let added = editor.add_history_entry(text).unwrap_or(false);
    let Some(path) = history.as_deref().filter(|_| added) else { return };
    if let Err(error) = editor.append_history(path) {
        eprintln!("{}: {error}; questions are not remembered", path.display());
        *history = None;
    }
}

/// Completes commands, settings and files; says when a line goes on.
struct Words {
    files: FilenameCompleter,
}

impl Completer for Words {
    type Candidate = Pair;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let typed = &line[..pos];
        let among = |start: usize, names: Vec<String>| {
            let fitting = names.into_iter().filter(|name| name.starts_with(&typed[start..]));
            Ok((start, fitting.map(|name| Pair { display: name.clone(), replacement: name }).collect()))
        };
        if let Some(start) = ["/image ", "/save "].iter().find_map(|c| typed.starts_with(c).then_some(c.len())) {
            return self.file(typed, start);
        }
        if typed.starts_with("/set ") {
            return among(5, Generation::PARAMETERS.iter().map(|parameter| format!("{}=", parameter.name)).collect());
        }
        if typed.starts_with('/') && !typed.contains(char::is_whitespace) {
            let name = |usage: &&(&str, &str)| usage.0.split(' ').next().unwrap_or_default().to_owned();
            return among(0, HELP.iter().map(|usage| name(&usage)).collect());
        }
        let word = typed.rfind(char::is_whitespace).map_or(0, |space| space + 1);
        match typed[word..].starts_with('@') {
            true => self.file(typed, word + 1),
            false => Ok((pos, Vec::new())),
        }
    }
}

impl Words {
    fn file(&self, typed: &str, start: usize) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (place, found) = self.files.complete_path(&typed[start..], typed.len() - start)?;
        Ok((start + place, found))
    }
}

impl Validator for Words {
    fn validate(&self, context: &mut ValidationContext<'_>) -> rustyline::Result<ValidationResult> {
        Ok(match goes_on(context.input()) {
            true => ValidationResult::Incomplete,
            false => ValidationResult::Valid(None),
        })
    }
}

impl Hinter for Words {
    type Hint = String;
}

impl Highlighter for Words {}

impl Helper for Words {}
