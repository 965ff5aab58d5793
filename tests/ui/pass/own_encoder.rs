//! An encoder of one's own, with features of its own, and a projector that accepts all kinds.

use burn::tensor::Device;
use firebrick::checkpoint::{CheckpointError, Fields};
use firebrick::prelude::*;

/// A kind of features of one's own.
pub struct Grid;

impl FeatureKind for Grid {}

firebrick::component! {
    /// An encoder of one's own.
    pub struct Own, OwnBuilder {}
}

impl VisionEncoder for Own {
    type Features = Grid;
    type Model = <Clip as VisionEncoder>::Model;
    const MODEL_TYPES: &'static [&'static str] = &["own"];

    fn build(&self, config: &Fields<'_>, root: &Fields<'_>, device: &Device) -> Result<Self::Model, CheckpointError> {
        Clip::default().build(config, root, device)
    }
}

pub fn own_encoder() -> Experiment<Llama, NoAdapter, Own, Identity> {
    experiment! { model: Llama, vision: Own, projector: Identity }
}
