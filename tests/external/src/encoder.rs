//! A vision encoder of one layer: patches, positions, an MLP, a norm.

// n images, t tokens, d width, p patch side in pixels
use std::path::PathBuf;

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, activation};
use firebrick::checkpoint::{CheckpointError, Fields};
use firebrick::nn::{LayerNorm, Linear, params};
use firebrick::prelude::*;
use firebrick::settings::Kind;
use firebrick::vision::VisionTower;

/// The features of a square grid of patches, row by row: the number of tokens is a square.
#[derive(Clone, Copy, Debug)]
pub struct Grid;

impl FeatureKind for Grid {}

firebrick::component! {
    /// `vision: PatchTower`.
    pub struct PatchTower, PatchTowerBuilder {
        /// Folder of a tower, for a language model whose own folder has none.
        pub from: Option<String> = None => Kind::text().or_none(),
    }
}

impl VisionEncoder for PatchTower {
    type Features = Grid;
    type Model = PatchTowerModel;
    const MODEL_TYPES: &'static [&'static str] = &["patch_tower"];

    fn source(&self) -> Option<PathBuf> {
        self.from.as_ref().map(PathBuf::from)
    }

    fn build(&self, config: &Fields<'_>, _: &Fields<'_>, device: &Device) -> Result<PatchTowerModel, CheckpointError> {
        let (image_size, patch_size) = (config.usize("image_size")?, config.usize("patch_size")?);
        if patch_size == 0 || !image_size.is_multiple_of(patch_size) {
            return Err(config.error("patch_size", &format!("a divisor of image_size, which is {image_size}")));
        }
        Ok(PatchTowerModel::new(config.usize("hidden_size")?, image_size, patch_size, device))
    }
}

/// The encoder's weights. Field names are the names in its file.
#[derive(Module, Debug)]
pub struct PatchTowerModel {
    patches: Linear,
    positions: Param<Tensor<2>>,
    up: Linear,
    down: Linear,
    norm: LayerNorm,
    #[module(skip)]
    image_size: usize,
    #[module(skip)]
    patch_size: usize,
}

impl PatchTowerModel {
    /// A tower with fresh weights, for square images of `image_size` and patches of `patch_size` pixels.
    pub fn new(width: usize, image_size: usize, patch_size: usize, device: &Device) -> Self {
        let tokens = (image_size / patch_size).pow(2);
        Self {
            patches: Linear::new(3 * patch_size * patch_size, width, true, device),
            positions: params::normal([tokens, width], 0.02, device),
            up: Linear::new(width, 2 * width, true, device),
            down: Linear::new(2 * width, width, true, device),
            norm: LayerNorm::new(width, 1e-5, device),
            image_size,
            patch_size,
        }
    }
}

impl VisionTower for PatchTowerModel {
    fn encode(&self, pixels_nchw: Tensor<4>) -> Tensor<3> {
        let [n, c, h, w] = pixels_nchw.dims();
        let p = self.patch_size;
        let (rows, columns) = (h / p, w / p);
        let x = pixels_nchw.reshape([n, c, rows, p, columns, p]).permute([0, 2, 4, 1, 3, 5]);
        let x_ntd = self.patches.forward(x.reshape([n, rows * columns, c * p * p]));
        let x_ntd = x_ntd + self.positions.val().unsqueeze();
        let update = self.down.forward(activation::gelu(self.up.forward(x_ntd.clone())));
        self.norm.forward(x_ntd + update)
    }

    fn tokens_per_image(&self) -> usize {
        (self.image_size / self.patch_size).pow(2)
    }

    fn width(&self) -> usize {
        self.positions.lazy_shape().dims::<2>()[1]
    }

    fn image_size(&self) -> (usize, usize) {
        (self.image_size, self.image_size)
    }

    /// The tower alone and the tower inside a composed model (there behind `vision_tower.`) have the same names.
    fn file_key(&self, parameter: &str) -> String {
        parameter.to_owned()
    }

    fn root_config(&self) -> Vec<(&'static str, serde_json::Value)> {
        Vec::new()
    }
}
