//! Token and position tables.

use super::params::normal;
use burn::module::{Module, Param};
use burn::tensor::{Device, Int, Tensor};

/// A table of rows, looked up by index.
#[derive(Module, Debug)]
pub struct Embedding {
    /// The rows, `[n, d]`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// `n` rows of width `d`, drawn from a normal distribution of standard deviation 0.02.
    pub fn new(n: usize, d: usize, device: &Device) -> Self {
        Self { weight: normal([n, d], 0.02, device) }
    }

    /// # Shapes
    /// ids `[b, t]` to `[b, t, d]`.
    pub fn forward(&self, ids_bt: Tensor<2, Int>) -> Tensor<3> {
        let [b, t] = ids_bt.dims();
        let weight = self.weight.val();
        let d = weight.dims()[1];
        weight.select(0, ids_bt.reshape([b * t])).reshape([b, t, d])
    }
}
