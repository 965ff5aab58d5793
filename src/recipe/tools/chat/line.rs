//! What a line means: a question, or a command.

use super::error::ChatError;
use std::path::PathBuf;

/// A line that was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    Nothing,
    Question(String),
    Command(Command),
}

/// What begins with a slash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Command {
    Help,
    Image(PathBuf),
    Reset,
    Undo,
    Retry,
    /// Without a text there is no system message any more.
    System(Option<String>),
    Set(String),
    Settings,
    Save(PathBuf),
    Quit,
}

/// The commands, and what each does.
pub(super) const HELP: &[(&str, &str)] = &[
    ("/image FILE", "shows an image with the next question; so does @FILE inside of a question"),
    ("/retry", "answers the last question again"),
    ("/undo", "takes the last question and its answer back"),
    ("/reset", "begins a new conversation; system message and settings stay"),
    ("/system TEXT", "tells the model something before the conversation; without a text, nothing"),
    ("/set KEY=VALUE", "changes a setting, for example temperature=0.7; KEY=default takes it back"),
    ("/settings", "lists the settings in force"),
    ("/save FILE", "writes the conversation as a line of JSON, which the data kind chat reads"),
    ("/quit", "ends; so does Ctrl-D"),
    ("/help", "lists the commands"),
];

impl Line {
    /// Reads a line, or several.
    ///
    /// # Errors
    /// A slash with a word that is no command; a command with too little or too much behind it.
    pub(super) fn parse(text: &str) -> Result<Self, ChatError> {
        let Some(command) = text.strip_prefix('/') else {
            let question = text.trim();
            return Ok(if question.is_empty() { Self::Nothing } else { Self::Question(question.to_owned()) });
        };
        let (name, rest) = command.split_once(char::is_whitespace).unwrap_or((command, ""));
        let rest = rest.trim();
        let bare = |command: &'static str, what: Command| match rest {
            "" => Ok(what),
            more => Err(ChatError::TooMuch { command, more: more.to_owned() }),
        };
        let given = |usage: &'static str| if rest.is_empty() { Err(ChatError::Incomplete(usage)) } else { Ok(rest) };
        Ok(Self::Command(match name {
            "help" => bare("help", Command::Help)?,
            "image" => Command::Image(path(given("/image FILE")?)),
            "reset" => bare("reset", Command::Reset)?,
            "undo" => bare("undo", Command::Undo)?,
            "retry" => bare("retry", Command::Retry)?,
            "system" => Command::System((!rest.is_empty()).then(|| rest.to_owned())),
            "set" => Command::Set(given("/set KEY=VALUE, for example /set temperature=0.7")?.to_owned()),
            "settings" => bare("settings", Command::Settings)?,
            "save" => Command::Save(path(given("/save FILE")?)),
            "quit" | "exit" => bare("quit", Command::Quit)?,
            other => return Err(ChatError::Unknown(other.to_owned())),
        }))
    }
}

/// Whether a line goes on in the next one: an odd number of backslashes at its end.
pub(super) fn goes_on(text: &str) -> bool {
    text.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1
}

/// Lines that were put together: the backslashes that said so go.
pub(super) fn joined(text: &str) -> String {
    let lines: Vec<&str> = text.split('\n').collect();
    let last = lines.len() - 1;
    let line = |(i, line): (usize, &&str)| match goes_on(line) && i < last {
        true => line[..line.len() - 1].to_owned(),
        false => (*line).to_owned(),
    };
    lines.iter().enumerate().map(line).collect::<Vec<_>>().join("\n")
}

/// A file as it is typed: in quotes, or with backslashes before spaces; `~/` is the home folder.
pub(super) fn path(text: &str) -> PathBuf {
    let quoted = ['"', '\''].iter().find_map(|&quote| text.strip_prefix(quote)?.strip_suffix(quote));
    let plain = quoted.map_or_else(|| unescaped(text), str::to_owned);
    match (plain.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => plain.into(),
    }
}

/// Without the backslashes that stand before a character; on Windows they are part of paths.
fn unescaped(text: &str) -> String {
    if cfg!(windows) {
        return text.to_owned();
    }
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => plain.extend(chars.next()),
            c => plain.push(c),
        }
    }
    plain
}
