//! A projector that does not accept the features of an encoder of one's own.

use burn::tensor::Device;
use firebrick::checkpoint::{CheckpointError, Fields};
use firebrick::prelude::*;

/// A kind of features that no projector of the library knows.
struct Grid;

impl FeatureKind for Grid {}

firebrick::component! {
    /// An encoder of one's own.
    pub struct Own, OwnBuilder {}
}

impl VisionEncoder for Own {
    type Features = Grid;
    type Model = <Clip as VisionEncoder>::Model;
    const MODEL_TYPES: &'static [&'static str] = &["own"];

    fn build(
        &self,
        config: &Fields<'_>,
        root: &Fields<'_>,
        device: &Device,
    ) -> Result<Self::Model, CheckpointError> {
        Clip::default().build(config, root, device)
    }
}

fn main() -> anyhow::Result<()> {
    experiment! {
        model: Llama,
        adapter: Lora<r: 8>,
        vision: Own,
        projector: Mlp2xGelu,
        objective: Sft,
    }
    .main()
}
