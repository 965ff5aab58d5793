//! Image encoders: one folder each.

pub mod clip;

use crate::checkpoint::{CheckpointError, Fields};
use crate::nn::Linear;
use crate::settings::Component;
use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Tensor};

pub use clip::Clip;

/// What stands in a recipe's `vision` slot: a family of encoders.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a vision encoder",
    label = "the slot `vision` takes a vision encoder, for example `Clip`",
    note = "write `vision: Clip`, or implement `firebrick::vision::VisionEncoder` for `{Self}`"
)]
pub trait VisionEncoder: Component {
    /// The kind of features the encoder yields, which its projector must accept.
    type Features: FeatureKind;

    /// The encoder that is built from a checkpoint's configuration.
    type Model: VisionTower;

    /// Whether there is an encoder at all.
    const SEES: bool = true;

    /// The values of `model_type` in a `vision_config` that this family reads.
    const MODEL_TYPES: &'static [&'static str];

    /// The folder that the encoder's weights come from, where the language model's folder has none.
    fn source(&self) -> Option<std::path::PathBuf> {
        None
    }

    /// Builds the encoder that a `vision_config` describes, without its weights; `root` is the whole `config.json`,
    /// whose LLaVA fields choose the layer and the tokens.
    ///
    /// # Errors
    /// [`CheckpointError`] names a field that is missing, of the wrong type, or that asks for what is not implemented.
    fn build(&self, config: &Fields<'_>, root: &Fields<'_>, device: &Device) -> Result<Self::Model, CheckpointError>;
}

/// An encoder that turns pixels into a sequence of features.
pub trait VisionTower: Module + ModuleDisplay + Sync {
    /// Tensors that may stand beside the tower's in its own folder and are not looked at; `*` stands for anything.
    const BESIDE: &'static [&'static str] = &[];

    /// Features of a batch of images.
    ///
    /// # Shapes
    /// `[n, 3, h, w]` to `[n, tokens, width]`.
    fn encode(&self, pixels_nchw: Tensor<4>) -> Tensor<3>;

    /// Features per image.
    fn tokens_per_image(&self) -> usize;

    /// Width of a feature.
    fn width(&self) -> usize;

    /// Height and width of the images it takes, in pixels.
    fn image_size(&self) -> (usize, usize);

    /// The key of a parameter in a Hugging Face checkpoint of this encoder alone.
    fn file_key(&self, parameter: &str) -> String;

    /// Every linear layer, with its path inside the tower: what can be held in fewer bits while it is frozen. None, where
    /// nothing else is said.
    fn visit_linears(&mut self, _visit: &mut dyn FnMut(&str, &mut Linear)) {}

    /// Rewrites the configuration's fields that the tower was built with a choice of, for saving: key and value at
    /// the root of `config.json`.
    fn root_config(&self) -> Vec<(&'static str, serde_json::Value)>;
}

/// A kind of features, so that a projector can say which it accepts.
pub trait FeatureKind: 'static {}

/// A sequence of patch features, one vector per patch.
#[derive(Clone, Copy, Debug)]
pub struct Patches;

impl FeatureKind for Patches {}

/// The features of no encoder.
#[derive(Clone, Copy, Debug)]
pub struct NoFeatures;

impl FeatureKind for NoFeatures {}

crate::component! {
    /// The empty `vision` slot of a language model alone.
    pub struct NoVision, NoVisionBuilder {}
}

impl VisionEncoder for NoVision {
    type Features = NoFeatures;
    type Model = NoTower;
    const SEES: bool = false;
    const MODEL_TYPES: &'static [&'static str] = &[];

    fn build(
        &self,
        _config: &Fields<'_>,
        _root: &Fields<'_>,
        _device: &Device,
    ) -> Result<Self::Model, CheckpointError> {
        Ok(NoTower {})
    }
}

/// The tower of [`NoVision`]: it takes no image, so it is never asked for features.
#[derive(Module, Debug)]
pub struct NoTower {}

impl VisionTower for NoTower {
    fn encode(&self, pixels_nchw: Tensor<4>) -> Tensor<3> {
        let [n, ..] = pixels_nchw.dims();
        Tensor::zeros([n, 0, 0], &pixels_nchw.device())
    }

    fn tokens_per_image(&self) -> usize {
        0
    }

    fn width(&self) -> usize {
        0
    }

    fn image_size(&self) -> (usize, usize) {
        (0, 0)
    }

    fn file_key(&self, parameter: &str) -> String {
        parameter.to_owned()
    }

    fn root_config(&self) -> Vec<(&'static str, serde_json::Value)> {
        Vec::new()
    }
}
