//! The networks that embeddings come out of.

// n virtual tokens, d width of the embeddings, h hidden width
use crate::adapters::prompt_learning::Drawing;
use crate::nn::{PromptRule, dropout, linear};
use burn::tensor::Tensor;
use burn::tensor::activation::{relu, sigmoid};

/// Three layers with ReLU between them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mlp;

impl PromptRule for Mlp {
    fn matrices(&self) -> Vec<String> {
        ["embedding.weight", "mlp_head.0.weight", "mlp_head.2.weight", "mlp_head.4.weight"].map(str::to_owned).to_vec()
    }

    fn biases(&self) -> Vec<String> {
        ["mlp_head.0.bias", "mlp_head.2.bias", "mlp_head.4.bias"].map(str::to_owned).to_vec()
    }

    fn table(&self, matrices: &[Tensor<2>], biases: &[Tensor<1>]) -> Tensor<2> {
        stack(matrices[0].clone(), &matrices[1..], biases)
    }
}

/// Linear layers with ReLU between them.
fn stack(x: Tensor<2>, matrices: &[Tensor<2>], biases: &[Tensor<1>]) -> Tensor<2> {
    let layers = matrices.iter().zip(biases).enumerate();
    layers.fold(x, |x, (index, (matrix, bias))| {
        let x = if index > 0 { relu(x) } else { x };
        linear(x, matrix.clone(), Some(bias.clone()))
    })
}

/// An LSTM in both directions over the rows of the table, then two layers with a ReLU between them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lstm {
    pub(super) layers: usize,
    pub(super) dropout: f64,
}

impl Lstm {
    /// Every direction's parameters, in the order in which `torch.nn.LSTM` holds them.
    pub(super) fn draw(&self, drawing: &mut Drawing<'_>, inputs: usize, hidden: usize) {
        let bound = 1.0 / (hidden as f32).sqrt();
        for direction in 0..2 * self.layers {
            let width = if direction < 2 { inputs } else { 2 * hidden };
            drawing.matrix([4 * hidden, width], bound);
            drawing.matrix([4 * hidden, hidden], bound);
            drawing.bias(4 * hidden, bound);
            drawing.bias(4 * hidden, bound);
        }
    }

    fn names(&self, kind: &str) -> Vec<String> {
        let directions = (0..self.layers).flat_map(|layer| ["", "_reverse"].map(|way| format!("l{layer}{way}")));
        directions.flat_map(|at| ["ih", "hh"].map(|from| format!("lstm_head.{kind}_{from}_{at}"))).collect()
    }
}

impl PromptRule for Lstm {
    fn matrices(&self) -> Vec<String> {
        let mut names = vec!["embedding.weight".to_owned()];
        names.extend(self.names("weight"));
        names.extend(["mlp_head.0.weight", "mlp_head.2.weight"].map(str::to_owned));
        names
    }

    fn biases(&self) -> Vec<String> {
        let mut names = self.names("bias");
        names.extend(["mlp_head.0.bias", "mlp_head.2.bias"].map(str::to_owned));
        names
    }

    fn table(&self, matrices: &[Tensor<2>], biases: &[Tensor<1>]) -> Tensor<2> {
        let mut x = matrices[0].clone();
        let drops = self.dropout > 0.0 && x.is_require_grad();
        let cells: Vec<Cell<'_>> = matrices[1..]
            .chunks_exact(2)
            .zip(biases.chunks_exact(2))
            .take(2 * self.layers)
            .map(|(weights, biases)| Cell { weights, biases })
            .collect();
        for (layer, both) in cells.chunks_exact(2).enumerate() {
            if drops && layer > 0 {
                x = dropout(x, self.dropout);
            }
            let n = x.dims()[0];
            x = Tensor::cat(vec![both[0].run(&x, 0..n), both[1].run(&x, (0..n).rev())], 1);
        }
        stack(x, &matrices[1 + 4 * self.layers..], &biases[4 * self.layers..])
    }
}

/// One direction of one layer.
struct Cell<'a> {
    /// From the input `[4h, d]` and from the state `[4h, h]`.
    weights: &'a [Tensor<2>],
    biases: &'a [Tensor<1>],
}

impl Cell<'_> {
    /// The state at every row of `x_nd`, visited in `order` from a state of zeros, `[n, h]`.
    fn run(&self, x_nd: &Tensor<2>, order: impl Iterator<Item = usize>) -> Tensor<2> {
        let h = self.weights[1].dims()[1];
        let bias = self.biases[0].clone() + self.biases[1].clone();
        let given = linear(x_nd.clone(), self.weights[0].clone(), Some(bias));
        let mut state = Tensor::<2>::zeros([1, h], &x_nd.device());
        let mut memory = state.clone();
        let mut states = vec![state.clone(); x_nd.dims()[0]];
        for row in order {
            let gates = given.clone().narrow(0, row, 1) + linear(state, self.weights[1].clone(), None);
            let gate = |index: usize| gates.clone().narrow(1, index * h, h);
            // torch's order: input, forget, cell, output.
            memory = sigmoid(gate(1)) * memory + sigmoid(gate(0)) * gate(2).tanh();
            state = sigmoid(gate(3)) * memory.clone().tanh();
            states[row] = state.clone();
        }
        Tensor::cat(states, 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DeviceRequest, choose};
    use crate::nn::VirtualPlace;
    use burn::tensor::Device;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::SeedableRng;

    fn drawn(lstm: Lstm, device: &Device) -> crate::nn::VirtualTokens {
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        let mut drawing = Drawing::new(&mut rng, device);
        drawing.table([4, 3]);
        lstm.draw(&mut drawing, 3, 2);
        drawing.linear(4, 4);
        drawing.linear(4, 3);
        drawing.finish(lstm, VirtualPlace::Embeddings)
    }

    /// A state of width 1 and rows of width 1: two steps, worked by hand.
    #[test]
    fn two_steps_of_one_direction() {
        let device = choose(DeviceRequest::Cpu).unwrap().device;
        let column = |values: [f32; 4]| Tensor::<2>::from_data(values.map(|v| [v]), &device);
        let weights = [column([0.5, -1.0, 2.0, 1.0]), column([1.0, 0.25, -0.5, 2.0])];
        let biases = [Tensor::from_data([0.1, 0.2, 0.3, 0.4], &device), Tensor::from_data([0.0; 4], &device)];
        let x = Tensor::<2>::from_data([[1.0], [-2.0]], &device);
        let cell = Cell { weights: &weights, biases: &biases };
        let found: Vec<f32> = cell.run(&x, 0..2).into_data().try_to_vec().unwrap();

        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let (mut state, mut memory) = (0.0f64, 0.0f64);
        for (row, x) in [1.0f64, -2.0].into_iter().enumerate() {
            let (input, forget) = (sigmoid(0.5 * x + state + 0.1), sigmoid(-x + 0.25 * state + 0.2));
            let (cell, output) = ((2.0 * x - 0.5 * state + 0.3).tanh(), sigmoid(x + 2.0 * state + 0.4));
            memory = forget * memory + input * cell;
            state = output * memory.tanh();
            assert!((f64::from(found[row]) - state).abs() < 1e-6, "{found:?} {state}");
        }
    }

    #[test]
    fn names_and_parameters_agree() {
        let device = choose(DeviceRequest::Cpu).unwrap().device;
        let lstm = Lstm { layers: 3, dropout: 0.0 };
        let made = drawn(lstm, &device);
        assert_eq!(made.adapter.matrices.len(), lstm.matrices().len());
        assert_eq!(made.adapter.biases.len(), lstm.biases().len());
        assert_eq!(lstm.matrices()[..3], ["embedding.weight", "lstm_head.weight_ih_l0", "lstm_head.weight_hh_l0"]);
        assert_eq!(lstm.biases()[2], "lstm_head.bias_ih_l0_reverse");
        assert_eq!(made.table().dims(), [4, 3]);
    }

    #[test]
    fn dropout_acts_in_training_only() {
        let device = choose(DeviceRequest::Cpu).unwrap().device.autodiff();
        let lstm = Lstm { layers: 2, dropout: 0.5 };
        let values = |tokens: &crate::nn::VirtualTokens| tokens.table().into_data().try_to_vec::<f32>().unwrap();
        let trained = drawn(lstm, &device);
        assert_ne!(values(&trained), values(&trained));
        let plain = drawn(Lstm { dropout: 0.0, ..lstm }, &device);
        let frozen = crate::nn::params::set_trainable(trained, |_| false);
        assert_eq!(values(&frozen), values(&plain));
    }
}
