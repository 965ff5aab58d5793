//! A conversation: what was said, what waits, and how answers are made.

use super::error::ChatError;
use super::line::{Command, HELP, Line};
use super::place::{Piece, pieces};
use super::settings::Settings;
use crate::data::{ChatData, DataKind, Place, Sample};
use crate::generation::stop::FinishReason;
use crate::text::{Conversation, Message, Part, Role};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// An image, as the model takes it.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    pub(super) path: PathBuf,
    /// `[3, height, width]`, normalized.
    pub(super) pixels: Arc<[f32]>,
}

/// What a model has answered.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub(super) text: String,
    pub(super) finish: FinishReason,
    /// Tokens of the prompt, and those of them that were known.
    pub(super) prompt: usize,
    pub(super) reused: usize,
    pub(super) written: usize,
    /// Whether there was room for no more.
    pub(super) full: bool,
}

/// What answers.
pub(super) trait Speaker {
    /// Reads an image.
    fn picture(&self, path: &Path) -> Result<Picture, ChatError>;

    /// Answers a conversation; `on_text` sees what may be shown, piece by piece, and ends the answer with
    /// [`ControlFlow::Break`]. `number` tells its draws from those of other answers.
    fn answer(
        &mut self,
        conversation: &Conversation,
        pictures: &[Picture],
        settings: &Settings,
        number: u64,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Said, ChatError>;
}

/// A conversation with a model.
#[derive(Debug)]
pub(super) struct Talk<S> {
    speaker: S,
    settings: Settings,
    /// What the model is told before the conversation.
    pub(super) system: Option<String>,
    /// Whether each answer's speed is told.
    pub(super) stats: bool,
    messages: Vec<Message>,
    /// The images of the messages.
    pictures: Vec<Picture>,
    /// Images that come with the next question.
    waiting: Vec<Picture>,
    /// Set from outside: the answer is to end.
    interrupted: Arc<AtomicBool>,
    answers: u64,
}

impl<S: Speaker> Talk<S> {
    /// Nothing was said yet.
    pub(super) fn new(speaker: S, settings: Settings, interrupted: Arc<AtomicBool>) -> Self {
        let (messages, pictures, waiting) = Default::default();
        Self { speaker, settings, system: None, stats: false, messages, pictures, waiting, interrupted, answers: 0 }
    }

    /// Takes a line: [`ControlFlow::Break`] where it ends the conversation.
    ///
    /// # Errors
    /// What is wrong with the line; the conversation is then as it was.
    pub(super) fn line(&mut self, text: &str, out: &mut impl Write) -> Result<ControlFlow<()>, ChatError> {
        match Line::parse(text)? {
            Line::Nothing => {}
            Line::Question(text) => self.question(&text, true, out)?,
            Line::Command(Command::Quit) => return Ok(ControlFlow::Break(())),
            Line::Command(command) => self.command(command, out)?,
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Answers a question in which `@` has no meaning.
    ///
    /// # Errors
    /// As [`line`](Self::line).
    pub(super) fn ask(&mut self, text: &str, out: &mut impl Write) -> Result<(), ChatError> {
        self.question(text, false, out)
    }

    /// Shows an image with the next question.
    ///
    /// # Errors
    /// An image that cannot be read, and a model that sees none.
    pub(super) fn show(&mut self, path: &Path) -> Result<(), ChatError> {
        self.waiting.push(self.speaker.picture(path)?);
        Ok(())
    }

    fn command(&mut self, command: Command, out: &mut impl Write) -> Result<(), ChatError> {
        match command {
            Command::Help => HELP.iter().for_each(|(usage, what)| eprintln!("{usage:<16} {what}")),
            Command::Image(path) => {
                self.show(&path)?;
                eprintln!("{} with the next question", count(self.waiting.len(), "image"));
            }
            Command::Reset => (self.messages, self.pictures, self.waiting) = Default::default(),
            Command::Undo => self.undo()?,
            Command::Retry => self.retry(out)?,
            Command::System(text) => self.system = text,
            Command::Set(text) => self.settings.set(&text)?,
            Command::Settings => self.settings.lines()?.iter().for_each(|line| eprintln!("{line}")),
            Command::Save(path) => self.save(&path)?,
            Command::Quit => {}
        }
        Ok(())
    }

    fn question(&mut self, text: &str, files: bool, out: &mut impl Write) -> Result<(), ChatError> {
        let (content, shown) = self.place(pieces(text, files)?)?;
        let before = self.pictures.len();
        self.messages.push(Message::new(Role::User, content));
        self.pictures.extend(shown);
        let answered = self.answer(out);
        match &answered {
            Ok(()) => self.waiting.clear(),
            // The answer is there, and nobody to take it.
            Err(ChatError::Out(_)) => {}
            Err(_) => {
                self.messages.pop();
                self.pictures.truncate(before);
            }
        }
        answered
    }

    /// A question's parts and its images. Those that wait go to the markers, or before everything else.
    fn place(&self, pieces: Vec<Piece>) -> Result<(Vec<Part>, Vec<Picture>), ChatError> {
        let (places, images) = (pieces.iter().filter(|piece| **piece == Piece::Marker).count(), self.waiting.len());
        if places != 0 && places != images {
            return Err(ChatError::Markers { places, images });
        }
        let mut waiting = self.waiting.iter().cloned();
        let mut shown: Vec<Picture> = if places == 0 { waiting.by_ref().collect() } else { Vec::new() };
        let mut content = vec![Part::Image; shown.len()];
        for piece in pieces {
            content.push(match piece {
                Piece::Text(text) => Part::Text(text),
                Piece::Marker => {
                    shown.extend(waiting.next());
                    Part::Image
                }
                Piece::File(path) => {
                    shown.push(self.speaker.picture(&path)?);
                    Part::Image
                }
            });
        }
        Ok((content, shown))
    }

    fn undo(&mut self) -> Result<(), ChatError> {
        if self.messages.pop().is_none() {
            return Err(ChatError::Nothing("there is no question to take back"));
        }
        let images = self.messages.pop().map_or(0, |question| question.image_count());
        self.pictures.truncate(self.pictures.len() - images);
        Ok(())
    }

    fn retry(&mut self, out: &mut impl Write) -> Result<(), ChatError> {
        let Some(answer) = self.messages.pop() else {
            return Err(ChatError::Nothing("there is no question to answer again"));
        };
        let answered = self.answer(out);
        if answered.is_err() {
            self.messages.push(answer);
        }
        answered
    }

    /// Answers the last question.
    fn answer(&mut self, out: &mut impl Write) -> Result<(), ChatError> {
        self.interrupted.store(false, Ordering::Relaxed);
        let conversation = self.conversation();
        let (begun, mut first, mut failed) = (Instant::now(), None, None);
        let interrupted = self.interrupted.clone();
        let said = self.speaker.answer(&conversation, &self.pictures, &self.settings, self.answers, &mut |text| {
            first.get_or_insert_with(|| begun.elapsed());
            failed = out.write_all(text.as_bytes()).and_then(|()| out.flush()).err();
            match failed.is_some() || interrupted.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        })?;
        if let Some(error) = failed {
            return Err(error.into());
        }
        if said.finish == FinishReason::Cancelled && said.text.is_empty() {
            return Err(ChatError::Stopped);
        }
        self.answers += 1;
        writeln!(out).and_then(|()| out.flush())?;
        self.remark(&said, begun.elapsed(), first.unwrap_or_default());
        // Templates put the space before an answer that the model has learned to begin with: with its own there would be
        // two, and its tokens would not be known again.
        self.messages.push(Message::text(Role::Assistant, said.text.trim()));
        Ok(())
    }

    /// Says why an answer ended, where that is not plain, and how fast it was.
    fn remark(&self, said: &Said, took: Duration, first: Duration) {
        match said.finish {
            FinishReason::Length if said.full => {
                eprintln!("[the context is full; /undo takes the last exchange back, /reset begins anew]");
            }
            FinishReason::Length => {
                let written = count(said.written, "token");
                eprintln!("[ended after {written}; /set max_new_tokens=N changes that]");
            }
            FinishReason::Cancelled => eprintln!("[stopped]"),
            FinishReason::StopToken(_) | FinishReason::StopString(_) => {}
        }
        if self.stats {
            let (seconds, waited) = (took.as_secs_f64(), first.as_secs_f64());
            let rate = said.written.saturating_sub(1) as f64 / (seconds - waited).max(1e-9);
            eprintln!(
                "[{} in {seconds:.2} s: the first after {waited:.2} s, then {rate:.1} a second; prompt of {}, {} known]",
                count(said.written, "token"),
                count(said.prompt, "token"),
                said.reused
            );
        }
    }

    fn conversation(&self) -> Conversation {
        let system = self.system.iter().map(|text| Message::text(Role::System, text.as_str()));
        Conversation::new(system.chain(self.messages.iter().cloned()).collect())
    }

    /// Writes the conversation as a record of the data kind `chat`; over no file.
    fn save(&self, path: &Path) -> Result<(), ChatError> {
        if self.messages.is_empty() {
            return Err(ChatError::Nothing("nothing was said yet that could be saved"));
        }
        let sample = Sample {
            id: "chat".to_owned(),
            conversation: self.conversation(),
            target: (),
            images: self.pictures.iter().map(|picture| absolute(&picture.path)).collect(),
            dropped_leading: 0,
            place: Place { file: path.into(), line: 1 },
        };
        let row = ChatData::default().to_row(&sample).map(serde_json::Value::Object).unwrap_or_default();
        let failed = |source| ChatError::Save { path: path.to_owned(), source };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder).map_err(failed)?;
        writeln!(file, "{row}").map_err(failed)?;
        file.persist_noclobber(path).map_err(|error| failed(error.error))?;
        eprintln!("{} saved in {}", count(self.messages.len(), "message"), path.display());
        Ok(())
    }
}

/// A path that means the same wherever the file that names it lies.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
