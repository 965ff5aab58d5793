//! One question, answered as the model writes.

use super::super::folder::ModelFolder;
use super::super::{RecipeError, zoo};
use super::{Common, Tool, Weights, end_tokens, pad_id, ready};
use crate::data::turns::split_images;
use crate::data::{PadSide, Padding, collate};
use crate::generation::Stop;
use crate::models::LanguageModel;
use crate::projector::Projector;
use crate::text::{Conversation, Message, Part, Role, StopText, TextStream};
use crate::trainer::Policy;
use crate::vision::VisionEncoder;
use clap::Parser;
use std::io::Write;
use std::path::PathBuf;

/// One question about images, answered as the model writes it.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true, args_override_self = true)]
pub struct Chat {
    /// What every tool takes.
    #[command(flatten)]
    pub common: Common,
    /// Images, in the order in which they come before the question
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub image: Vec<PathBuf>,
    /// The question
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// Tokens after which the answer ends anyway
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = super::at_least_one)]
    pub max_new_tokens: usize,
}

impl Chat {
    /// Runs the tool on the types that the checkpoint names.
    ///
    /// # Errors
    /// Whatever stops it.
    pub fn main(mut self) -> anyhow::Result<()> {
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
        // Markers in the prompt say where the images go; without any they come first.
        let mut content = split_images(&self.prompt);
        if !content.contains(&Part::Image) {
            content.splice(0..0, self.image.iter().map(|_| Part::Image));
        }
        let places = content.iter().filter(|part| **part == Part::Image).count();
        if places != self.image.len() {
            let pictures = self.image.len();
            return Err(RecipeError::Usage(format!(
                "--prompt has {places} <image>, but --image names {pictures} files; name as many, or leave the markers out"
            ))
            .into());
        }
        let conversation = Conversation::new(vec![Message::new(Role::User, content)]);
        let encoded = ready.encoder.encode_question(&conversation, &self.image)?;
        let padding = Padding { token: pad_id(&ready.encoder.tokenizer), side: PadSide::Left, multiple_of: 1 };
        let batch = collate(&[encoded], &padding);
        let stop = Stop {
            end_tokens: end_tokens(&ready.loaded.folder.dir, &ready.encoder),
            max_new_tokens: self.max_new_tokens,
        };
        let mut stream: TextStream = ready.encoder.tokenizer.stream();
        let mut ends = StopText::new(&ready.encoder.tokenizer, ready.encoder.template.stop().as_deref(), 1);
        let mut out = std::io::stdout().lock();
        let mut failed = None;
        ready.loaded.model.generate(&batch, &stop, &ready.device, &mut |row, id| {
            if !ends.push(row, id) {
                return false;
            }
            let written = match stream.push(id) {
                Some(text) => write!(out, "{text}").and_then(|()| out.flush()),
                None => Ok(()),
            };
            failed = written.err();
            failed.is_none()
        });
        // A reader that closed the pipe has what it wanted.
        match failed {
            Some(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
            Some(_) => Ok(()),
            None => Ok(writeln!(out, "{}", stream.finish().unwrap_or_default())?),
        }
    }
}
