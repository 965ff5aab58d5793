//! One linear layer, LLaVA's `linear`.

use super::{Accepts, Projector, ProjectorError, ProjectorModel, depth_of, mismatch};
use crate::nn;
use crate::vision::Patches;
use burn::module::Module;
use burn::tensor::{Device, Tensor};

crate::component! {
    /// `projector: Linear`.
    pub struct Linear, LinearBuilder {}
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

    fn file_key(&self, parameter: &str) -> String {
        parameter.to_owned()
    }
}
