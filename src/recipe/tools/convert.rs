//! From one layout of checkpoints to the other.

use super::super::folder::ModelFolder;
use super::super::opened::Opened;
use super::super::save::{SENTENCEPIECE, save_model, save_original, suits_transformers};
use super::super::shape::Shape;
use super::super::{RecipeError, fetch, zoo};
use super::Tool;
use crate::checkpoint::bridge::Hold;
use crate::checkpoint::hub::Wanted;
use crate::device::{DeviceRequest, choose};
use crate::models::LanguageModel;
use crate::projector::Projector;
use crate::vision::VisionEncoder;
use clap::Parser;
use std::path::PathBuf;

/// Who reads what is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Target {
    /// `LlavaForConditionalGeneration` and `AutoProcessor` of transformers.
    Transformers,
    /// LLaVA's original code.
    Original,
}

/// Rewrites a checkpoint in the layout of transformers or of LLaVA's original code.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true, args_override_self = true)]
pub struct Convert {
    /// Checkpoint in either layout: a folder, or a Hugging Face id with an optional revision
    #[arg(long, value_name = "DIR|OWNER/NAME[@REVISION]")]
    pub model: PathBuf,
    /// Folder of the vision tower, where an original checkpoint names one that is not here
    #[arg(long, value_name = "DIR")]
    pub vision_from: Option<PathBuf>,
    /// Who reads the result
    #[arg(long, value_name = "LAYOUT")]
    pub to: Target,
    /// The folder that is written; it must not hold anything yet
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// How the weights are written.
    #[command(flatten)]
    pub shape: Shape,
}

impl Convert {
    /// Runs the tool on the types that the checkpoint names.
    ///
    /// # Errors
    /// Whatever stops it; nothing half-written is left.
    pub fn main(self) -> anyhow::Result<()> {
        zoo::with_types(&fetch::folder(&self.model, Wanted::Model)?, None, self)
    }
}

impl Tool for Convert {
    type Output = ();

    fn run<M: LanguageModel, V: VisionEncoder, P: Projector>(
        self,
        folder: ModelFolder,
        model: M,
        vision: V,
        projector: P,
    ) -> anyhow::Result<()> {
        // The original code has no class for a head that yields scores.
        let folder = match self.to {
            Target::Original => folder.with_head(None)?,
            _ => folder,
        };
        super::refuse_occupied(&self.output)?;
        self.shape.check(&folder)?;
        let device = choose(DeviceRequest::Cpu)?.device;
        let folder = match &self.vision_from {
            Some(tower) => folder.with_tower(tower)?,
            None => folder,
        };
        let mut opened = Opened::of(folder, &model, &vision, &projector, &device)?;
        if self.shape.dequantize {
            opened.dequantize();
        }
        let sees = opened.processor.is_some();
        if self.to == Target::Original && !sees {
            let advice = "LLaVA's original layout holds a model with a vision tower; this one is a language model alone, which \
                          both read as it is";
            return Err(RecipeError::Usage(advice.to_owned()).into());
        }
        let loaded = opened.load(&projector, &|_| Hold::Frozen, &device)?;
        if self.to == Target::Transformers && !suits_transformers(&loaded) {
            return Err(RecipeError::Structure {
                dir: loaded.folder.dir.clone(),
                problem: "has a projector that transformers has no class for: it knows one of two layers".to_owned(),
                advice: "use the folder as it is: every recipe and tool here reads it".to_owned(),
            }
            .into());
        }
        if self.to == Target::Original && !loaded.folder.dir.join(SENTENCEPIECE).is_file() {
            eprintln!(
                "note: LLaVA's own code reads the tokenizer from {SENTENCEPIECE} alone, which {} does not have",
                loaded.folder.dir.display()
            );
        }
        match self.to {
            Target::Transformers => save_model(&self.output, &loaded, self.shape)?,
            Target::Original => save_original(&self.output, &loaded, self.shape)?,
        }
        say!("{}", self.output.display());
        Ok(())
    }
}
