//! No projection: the encoder's width is the language model's.

use super::{Accepts, Projector, ProjectorError, ProjectorModel, depth_of, mismatch};
use crate::vision::FeatureKind;
use burn::module::Module;
use burn::tensor::{Device, Tensor};

crate::component! {
    /// `projector: Identity`.
    pub struct Identity, IdentityBuilder {}
}

/// No weights.
#[derive(Module, Debug)]
pub struct IdentityModel {}

impl Projector for Identity {
    type Model = IdentityModel;

    fn build(&self, from: usize, to: usize, _device: &Device) -> Result<IdentityModel, ProjectorError> {
        if from == to { Ok(IdentityModel {}) } else { Err(ProjectorError::Widths { from, to }) }
    }

    fn check_keys(&self, keys: &[String]) -> Result<(), ProjectorError> {
        match depth_of(keys) {
            0 => Ok(()),
            depth => Err(mismatch("Identity".to_owned(), depth)),
        }
    }
}

impl<F: FeatureKind> Accepts<F> for Identity {}

impl ProjectorModel for IdentityModel {
    fn forward(&self, features_ntd: Tensor<3>) -> Tensor<3> {
        features_ntd
    }

    fn file_key(&self, parameter: &str) -> String {
        parameter.to_owned()
    }
}
