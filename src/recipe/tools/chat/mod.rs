//! Questions to a model, answered as it writes: one on the command line, or a conversation.
//!
//! Standard output carries answers and nothing else.

mod error;
mod line;
mod model;
mod options;
mod piped;
mod place;
mod settings;
mod talk;
mod terminal;
#[cfg(test)]
mod tests;

pub use options::GenerationOptions;

use super::super::folder::ModelFolder;
use super::super::{RecipeError, zoo};
use super::{Common, Tool, Weights, ready};
use crate::models::LanguageModel;
use crate::projector::Projector;
use crate::vision::VisionEncoder;
use clap::Parser;
use error::ChatError;
use model::Model;
use settings::Settings;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use talk::Talk;

/// Questions about text and images, answered as the model writes.
///
/// With --prompt one answer. Without it a conversation: at a terminal with line editing (/help lists the commands), else a
/// question in each line of standard input.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true, args_override_self = true)]
pub struct Chat {
    /// What every tool takes.
    #[command(flatten)]
    pub common: Common,
    /// Images, in the order in which they come before the first question, or at its image markers
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub image: Vec<PathBuf>,
    /// The question, of which the answer is all
    #[arg(long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// What the model is told before the conversation
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// How answers are made.
    #[command(flatten)]
    pub generation: GenerationOptions,
    /// Says after each answer how fast it was written, and how much of the prompt was known
    #[arg(long)]
    pub stats: bool,
    /// Remembers no questions between runs
    #[arg(long)]
    pub no_history: bool,
}

impl Chat {
    /// Runs the tool on the types that the checkpoint names.
    ///
    /// # Errors
    /// Whatever stops it.
    pub fn main(mut self) -> anyhow::Result<()> {
        // What was typed wrongly is told before a model is loaded.
        self.generation.assignments()?;
        self.common = self.common.here()?;
        let Common { model, adapter, .. } = self.common.clone();
        zoo::with_types(&model, adapter.as_deref(), self)
    }
}

impl Tool for Chat {
    type Output = ();

    fn run<M: LanguageModel, V: VisionEncoder, P: Projector>(
        self,
        folder: ModelFolder,
        model: M,
        vision: V,
        projector: P,
    ) -> anyhow::Result<()> {
        let ready = ready(&self.common, folder.with_head(None)?, &model, &vision, &projector, Weights::AsStored)?;
        let given = self.generation.assignments()?;
        let settings = Settings::new(&ready.loaded.folder.dir, &given).map_err(RecipeError::Setting)?;
        let interrupted = Arc::new(AtomicBool::new(false));
        let mut talk = Talk::new(Model::new(&ready), settings, interrupted.clone());
        talk.system = self.system;
        talk.stats = self.stats;
        let begun = self.image.iter().try_for_each(|path| talk.show(path));
        let mut out = std::io::stdout().lock();
        let ended = match (begun, &self.prompt) {
            (Err(error), _) => Err(error),
            (Ok(()), Some(prompt)) => talk.ask(prompt, &mut out),
            (Ok(()), None) if std::io::stdin().is_terminal() => {
                let history = (!self.no_history).then(terminal::history_file).flatten();
                return quietly(terminal::run(&mut talk, history, &interrupted, &mut out));
            }
            (Ok(()), None) => return quietly(piped::run(&mut talk, &mut std::io::stdin().lock(), &mut out)),
        };
        quietly(ended.map_err(ChatError::at_the_edge))
    }
}

/// A reader that closed the pipe has what it wanted.
fn quietly(result: anyhow::Result<()>) -> anyhow::Result<()> {
    let closed = |error: &anyhow::Error| {
        let io = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
        io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    };
    match result {
        Err(error) if closed(&error) => Ok(()),
        result => result,
    }
}

impl ChatError {
    /// As a program's own error, with its exit code.
    fn at_the_edge(self) -> anyhow::Error {
        match self {
            Self::Setting(error) => RecipeError::Setting(error).into(),
            Self::Markers { places, images } => RecipeError::Usage(format!(
                "--prompt has {places} <image>, but --image names {images} files; name as many, or leave the markers out"
            ))
            .into(),
            error => error.into(),
        }
    }
}
