//! Typed assembly: experiments, their command line, validation, and the tools that take any checkpoint.

pub mod adapter_file;
mod cli;
mod combine;
mod configure;
mod error;
mod experiment;
mod fetch;
mod folder;
mod head;
pub mod made;
mod making;
pub mod memory;
mod opened;
mod parts;
mod preflight;
mod prepare;
mod quantize;
mod reference;
mod report;
mod run;
mod run_folder;
mod save;
mod shape;
mod sizing;
mod slots;
mod start_end;
pub mod tools;
mod watch;
mod zoo;

pub use crate::trainer::{NoReference, Reference};
pub use cli::Arguments;
pub use combine::{combine, combine_with};
pub use error::RecipeError;
pub use experiment::{Experiment, ExperimentBuilder, Parts};
pub use folder::ModelFolder;
pub use opened::{Loaded, Opened, VlmOf};
pub use quantize::{Bits, Quantize};
pub use run::{Finished, describe, exit};
use save::SENTENCEPIECE;
pub use save::{Saved, merge, save_adapter, save_final, save_model, save_original};
pub use shape::{Shape, WeightType};
#[doc(hidden)]
pub use slots::refused;
pub use slots::{
    Anchors, DefaultImageData, DefaultObjective, DefaultTextData, Fits, Suits, Teaches, Trains, Unwritten,
    check_generates, check_packs, fits, fits_train,
};
pub use zoo::with_adapter;

crate::component! {
    /// How images are brought to the encoder's size.
    pub struct ImageSettings, ImageSettingsBuilder {
        /// `crop` the centre or `pad` to a square; left open, what the checkpoint says. LLaVA's `square` is `crop`.
        pub aspect_ratio: Option<String> = None => crate::settings::Kind::choice(&["crop", "square", "pad"]).or_none(),
        /// Whether each image stands between the tokens `<im_start>` and `<im_end>`, whose rows are trained (LLaVA's
        /// `mm_use_im_start_end`); left open, what the checkpoint says.
        pub start_end: Option<bool> = None => crate::settings::Kind::bool().or_none(),
    }
}

impl ImageSettings {
    fn apply(&self, processor: &mut crate::image::ImageProcessor) {
        use crate::image::AspectRatio;
        match self.aspect_ratio.as_deref() {
            Some("pad") => processor.aspect_ratio = AspectRatio::Pad,
            Some(_) => processor.aspect_ratio = AspectRatio::Crop,
            None => {}
        }
    }
}
