//! A projector that takes `side` × `side` neighbouring patches together.

// n images, t tokens, d width, g patches per row of the grid
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use firebrick::nn;
use firebrick::prelude::*;
use firebrick::projector::{ProjectorError, ProjectorModel};
use firebrick::settings::Kind;

use crate::encoder::Grid;

firebrick::component! {
    /// `projector: MergePatches<side: n>`: the language model reads `side²` times fewer tokens per image.
    pub struct MergePatches, MergePatchesBuilder {
        /// Rows, and columns, of patches that become one token.
        pub side: usize = 2 => Kind::integer(1, 16),
    }
}

/// The projector's weights.
#[derive(Module, Debug)]
pub struct MergePatchesModel {
    linear: nn::Linear,
    #[module(skip)]
    side: usize,
}

impl Projector for MergePatches {
    type Model = MergePatchesModel;

    fn build(&self, from: usize, to: usize, device: &Device) -> Result<MergePatchesModel, ProjectorError> {
        let linear = nn::Linear::new(from * self.side * self.side, to, true, device);
        Ok(MergePatchesModel { linear, side: self.side })
    }

    fn check_keys(&self, keys: &[String]) -> Result<(), ProjectorError> {
        if keys.iter().any(|key| key == "linear.weight") {
            return Ok(());
        }
        Err(ProjectorError::Mismatch {
            recipe: Self::NAME.to_owned(),
            found: keys.join(", "),
            instead: Mlp2xGelu::NAME.to_owned(),
        })
    }
}

/// Only a grid has neighbours: `Accepts<Patches>` is not implemented, and `vision: Clip` beside this projector does not
/// compile.
impl Accepts<Grid> for MergePatches {}

impl MergePatchesModel {
    /// Rows of merged patches; a remainder at the edge is left out.
    fn merged_side(&self, tokens: usize) -> usize {
        tokens.isqrt() / self.side
    }
}

impl ProjectorModel for MergePatchesModel {
    fn forward(&self, features_ntd: Tensor<3>) -> Tensor<3> {
        let [n, t, d] = features_ntd.dims();
        let (g, s, rows) = (t.isqrt(), self.side, self.merged_side(t));
        let x = features_ntd.reshape([n, g, g, d]).narrow(1, 0, rows * s).narrow(2, 0, rows * s);
        let x = x.reshape([n, rows, s, rows, s, d]).permute([0, 1, 3, 2, 4, 5]);
        self.linear.forward(x.reshape([n, rows * rows, s * s * d]))
    }

    fn tokens(&self, encoder_tokens: usize) -> usize {
        self.merged_side(encoder_tokens).pow(2)
    }

    fn file_key(&self, parameter: &str) -> String {
        parameter.to_owned()
    }
}
