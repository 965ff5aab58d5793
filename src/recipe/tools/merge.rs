//! An adapter and its base become one plain checkpoint.

use super::super::folder::ModelFolder;
use super::super::save::save_model;
use super::super::shape::Shape;
use super::super::{RecipeError, zoo};
use super::{Common, Tool, Weights, ready};
use crate::models::LanguageModel;
use crate::projector::Projector;
use crate::vision::VisionEncoder;
use clap::Parser;
use std::path::PathBuf;

/// Adds an adapter's updates to its base's weights and writes a plain checkpoint, which transformers loads.
#[derive(Clone, Debug, Parser)]
#[command(disable_version_flag = true, args_override_self = true)]
pub struct Merge {
    /// What every tool takes.
    #[command(flatten)]
    pub common: Common,
    /// The folder that is written; it must not hold anything yet
    #[arg(long, value_name = "DIR")]
    pub output: PathBuf,
    /// How the weights are written.
    #[command(flatten)]
    pub shape: Shape,
}

impl Merge {
    /// Runs the tool on the types that the checkpoint names.
    ///
    /// # Errors
    /// Whatever stops it; nothing half-written is left.
    pub fn main(mut self) -> anyhow::Result<()> {
        if let Some(name) = &self.common.template {
            let advice = format!("--template {name} would do nothing: merging writes the base's own; leave it out");
            return Err(RecipeError::Usage(advice).into());
        }
        self.common = self.common.here()?;
        let Common { model, adapter, .. } = self.common.clone();
        let Some(adapter) = adapter else {
            let advice = "merge needs --adapter, the adapter to merge; `convert` writes a checkpoint as it is";
            return Err(RecipeError::Usage(advice.to_owned()).into());
        };
        zoo::with_types(&model, Some(&adapter), self)
    }
}

impl Tool for Merge {
    type Output = ();

    fn run<M: LanguageModel, V: VisionEncoder, P: Projector>(
        self,
        folder: ModelFolder,
        model: M,
        vision: V,
        projector: P,
    ) -> anyhow::Result<()> {
        super::refuse_occupied(&self.output)?;
        self.shape.check(&folder)?;
        let weights = if self.shape.dequantize { Weights::Whole } else { Weights::AsStored };
        let ready = ready(&self.common, folder, &model, &vision, &projector, weights)?;
        save_model(&self.output, &ready.loaded, self.shape)?;
        say!("{}", self.output.display());
        Ok(())
    }
}
