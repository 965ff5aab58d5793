//! `depth` linear layers with GELU between them: LLaVA's `mlpNx_gelu`.

use super::{Accepts, Projector, ProjectorError, ProjectorModel, depth_of, mismatch};
use crate::nn::{self, Activation};
use crate::settings::Kind;
use crate::vision::Patches;
use burn::module::Module;
use burn::tensor::{Device, Tensor};

crate::component! {
    /// `projector: Mlp<depth: n>`.
    pub struct Mlp, MlpBuilder {
        /// Number of linear layers, with GELU between them.
        pub depth: usize = 2 => Kind::integer(1, 64),
        /// File or folder of trained weights: `mm_projector.bin`, the `final/` of `llava_pretrain`, a checkpoint.
        pub from: Option<String> = None => Kind::text().or_none(),
    }
}

/// LLaVA-1.5's projector: an [`Mlp`] of depth 2, which is its default.
pub type Mlp2xGelu = Mlp;

/// The layers, first to last.
#[derive(Module, Debug)]
pub struct MlpModel {
    /// Linear layers with biases.
    pub linears: Vec<nn::Linear>,
}

impl Projector for Mlp {
    type Model = MlpModel;

    fn build(&self, from: usize, to: usize, device: &Device) -> Result<MlpModel, ProjectorError> {
        // No layer at all, which a configuration can ask for.
        if self.depth == 0 && from != to {
            return Err(ProjectorError::Widths { from, to });
        }
        let linears =
            (0..self.depth).map(|i| nn::Linear::new(if i == 0 { from } else { to }, to, true, device)).collect();
        Ok(MlpModel { linears })
    }

    fn source(&self) -> Option<std::path::PathBuf> {
        self.from.as_ref().map(std::path::PathBuf::from)
    }

    fn check_keys(&self, keys: &[String]) -> Result<(), ProjectorError> {
        match depth_of(keys) {
            depth if depth == self.depth => Ok(()),
            depth => Err(mismatch(format!("Mlp<depth: {}>", self.depth), depth)),
        }
    }
}

impl Accepts<Patches> for Mlp {}

impl ProjectorModel for MlpModel {
    fn forward(&self, features_ntd: Tensor<3>) -> Tensor<3> {
        let mut layers = self.linears.iter();
        let Some(first) = layers.next() else { return features_ntd };
        layers.fold(first.forward(features_ntd), |x, layer| {
            // The error-function form, as LLaVA's `nn.GELU()`.
            layer.forward(Activation::Gelu.forward(x))
        })
    }

    fn visit_linears(&mut self, visit: &mut dyn FnMut(&str, &mut nn::Linear)) {
        for (index, linear) in self.linears.iter_mut().enumerate() {
            visit(&format!("linears.{index}"), linear);
        }
    }

    /// `linears.0.weight` is `linear_1.weight` in the file.
    fn file_key(&self, parameter: &str) -> String {
        let mut parts = parameter.splitn(3, '.');
        match (parts.next(), parts.next().and_then(|i| i.parse::<usize>().ok()), parts.next()) {
            (Some("linears"), Some(index), Some(rest)) => format!("linear_{}.{rest}", index + 1),
            _ => parameter.to_owned(),
        }
    }

    /// The original is a sequence in which GELU has every second place; a single layer is no sequence.
    fn original_key(&self, parameter: &str) -> String {
        let mut parts = parameter.splitn(3, '.');
        match (parts.next(), parts.next().and_then(|i| i.parse::<usize>().ok()), parts.next()) {
            (Some("linears"), Some(_), Some(rest)) if self.linears.len() == 1 => rest.to_owned(),
            (Some("linears"), Some(index), Some(rest)) => format!("{}.{rest}", 2 * index),
            _ => parameter.to_owned(),
        }
    }
}
