//! The projection that keys and values come through.

// n virtual tokens, w width of a layer's keys, h width between the layers
use crate::nn::{PromptRule, linear};
use burn::tensor::Tensor;

/// `W₂·tanh(W₀·e + b₀) + b₂` of a table's rows `e`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Projection;

impl PromptRule for Projection {
    fn matrices(&self) -> Vec<String> {
        ["embedding.weight", "transform.0.weight", "transform.2.weight"].map(str::to_owned).to_vec()
    }

    fn biases(&self) -> Vec<String> {
        ["transform.0.bias", "transform.2.bias"].map(str::to_owned).to_vec()
    }

    fn table(&self, matrices: &[Tensor<2>], biases: &[Tensor<1>]) -> Tensor<2> {
        let table_nw = matrices[0].clone();
        let hidden_nh = linear(table_nw, matrices[1].clone(), Some(biases[0].clone())).tanh();
        linear(hidden_nh, matrices[2].clone(), Some(biases[1].clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DeviceRequest, choose};

    #[test]
    fn worked_by_hand() {
        let device = choose(DeviceRequest::Cpu).unwrap().device;
        let matrix = |values: [[f32; 2]; 1]| Tensor::<2>::from_data(values, &device);
        // tanh(2·0.5 - 1·1 + 0.25) = tanh(0.25), then (3, -1) times it plus (1, 2).
        let matrices = [matrix([[2.0, -1.0]]), matrix([[0.5, 1.0]]), matrix([[3.0, -1.0]]).transpose()];
        let biases = [Tensor::from_data([0.25], &device), Tensor::from_data([1.0, 2.0], &device)];
        let found: Vec<f32> = Projection.table(&matrices, &biases).into_data().try_to_vec().unwrap();
        let tanh = 0.25f32.tanh();
        for (found, expected) in found.iter().zip([3.0 * tanh + 1.0, 2.0 - tanh]) {
            assert!((found - expected).abs() < 1e-6, "{found} {expected}");
        }
    }
}
