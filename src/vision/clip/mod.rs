//! OpenAI's CLIP image tower, as transformers' `CLIPVisionModel` has it.

mod config;
mod model;

pub use config::{ClipConfig, FeatureSelect};
pub use model::ClipVision;

use super::{Patches, VisionEncoder};
use crate::checkpoint::{CheckpointError, Fields};
use crate::settings::Kind;
use burn::tensor::Device;

crate::component! {
    /// CLIP in the slot `vision`. Where a parameter is left open, the checkpoint's configuration decides.
    pub struct Clip, ClipBuilder {
        /// Hidden state that is read: 0 is the embedding's output, -1 the last layer's, -2 the one before.
        pub select_layer: Option<i64> = None => Kind::integer(-1000, 1000).or_none(),
        /// `patch` drops the class token, `cls_patch` keeps it.
        pub select_feature: Option<String> = None => Kind::choice(&["patch", "cls_patch"]).or_none(),
        /// Folder of a CLIP checkpoint, for a language model whose own folder has no tower.
        pub from: Option<String> = None => Kind::text().or_none(),
    }
}

impl VisionEncoder for Clip {
    type Features = Patches;
    type Model = ClipVision;
    const MODEL_TYPES: &'static [&'static str] = &["clip_vision_model", "clip"];

    fn source(&self) -> Option<std::path::PathBuf> {
        self.from.as_ref().map(std::path::PathBuf::from)
    }

    fn build(&self, config: &Fields<'_>, root: &Fields<'_>, device: &Device) -> Result<ClipVision, CheckpointError> {
        Ok(ClipVision::new(&ClipConfig::read(config, root, self)?, device))
    }
}
