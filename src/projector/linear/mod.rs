//! One linear layer, LLaVA's `linear`.

use super::{Accepts, Projector, ProjectorError, ProjectorModel, depth_of, mismatch};
use crate::nn;
use crate::settings::Kind;
use crate::vision::Patches;
use burn::module::Module;
use burn::tensor::{Device, Tensor};

crate::component! {
    /// `projector: Linear`.
    pub struct Linear, LinearBuilder {
        /// File or folder of trained weights: `mm_projector.bin`, the `final/` of `llava_pretrain`, a checkpoint.
        pub from: Option<String> = None => Kind::text().or_none(),
    }
}

/// One layer with a bias.
#[derive(Module, Debug)]
pub struct LinearModel {
    /// The layer.
    pub linear_1: nn::Linear,
}

impl Projector for Linear {
    type Model = LinearModel;

    fn build(&self, from: usize, to: usize, device: &Device) -> Result<LinearModel, ProjectorError> {
        Ok(LinearModel { linear_1: nn::Linear::new(from, to, true, device) })
    }

    fn source(&self) -> Option<std::path::PathBuf> {
        self.from.as_ref().map(std::path::PathBuf::from)
    }

    fn check_keys(&self, keys: &[String]) -> Result<(), ProjectorError> {
        match depth_of(keys) {
            1 => Ok(()),
            depth => Err(mismatch("Linear".to_owned(), depth)),
        }
    }
}

impl Accepts<Patches> for Linear {}

impl ProjectorModel for LinearModel {
    fn forward(&self, features_ntd: Tensor<3>) -> Tensor<3> {
        self.linear_1.forward(features_ntd)
    }

    fn visit_linears(&mut self, visit: &mut dyn FnMut(&str, &mut nn::Linear)) {
        visit("linear_1", &mut self.linear_1);
    }

    fn file_key(&self, parameter: &str) -> String {
        parameter.to_owned()
    }

    fn original_key(&self, parameter: &str) -> String {
        parameter.strip_prefix("linear_1.").unwrap_or(parameter).to_owned()
    }
}
