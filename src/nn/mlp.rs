//! The gated block of a decoder.

// b batch, t tokens, d model width
use super::{Activation, Linear};
#[cfg(feature = "cpu")]
use burn::module::Param;
use burn::tensor::Tensor;

/// `down(activation(gate(x)) · up(x))`.
///
/// On the CPU, plain projections run as one operation, which keeps the two projections for the gradient and computes the
/// product of the gate again.
///
/// # Shapes
/// `[b, t, d]` to the same.
pub fn gated_mlp(x_btd: Tensor<3>, gate: &Linear, up: &Linear, down: &Linear, activation: Activation) -> Tensor<3> {
    #[cfg(feature = "cpu")]
    if activation == Activation::Silu
        && super::fused(&x_btd)
        && let [Some(gate), Some(up), Some(down)] = [gate, up, down].map(plain)
    {
        let [gate, up, down] = [gate, up, down].map(|weight| super::cast_to(weight.val(), x_btd.dtype()));
        return super::flex::swiglu_mlp(x_btd, super::flex::SwigluWeights { gate, up, down });
    }
    down.forward(activation.gated(gate.forward(x_btd.clone()), up.forward(x_btd)))
}

/// The weight of a projection that is nothing else: no adapter, no bias, and not quantized.
#[cfg(feature = "cpu")]
fn plain(linear: &Linear) -> Option<&Param<Tensor<2>>> {
    linear.weight.param().filter(|_| linear.adapter.is_none() && linear.bias.is_none())
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution};

    #[test]
    fn the_fused_block_is_the_composed_one() {
        let device = Device::flex().autodiff();
        let layer = |inputs, outputs| Linear::new(inputs, outputs, false, &device);
        let (gate, up, down) = (layer(24, 70), layer(24, 70), layer(70, 24));
        let x = Tensor::<3>::random([2, 19, 24], Distribution::Normal(0.0, 1.0), &device).require_grad();
        let values = |y: Tensor<3>| {
            let gradients = y.clone().square().sum().backward();
            let dx = x.grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();
            let dw = down.weight.dense().grad(&gradients).unwrap().into_data().try_to_vec::<f32>().unwrap();
            [y.inner().into_data().try_to_vec::<f32>().unwrap(), dx, dw].concat()
        };
        let fused = values(gated_mlp(x.clone(), &gate, &up, &down, Activation::Silu));
        let product = Activation::Silu.forward(gate.forward(x.clone())) * up.forward(x.clone());
        let composed = values(down.forward(product));
        // Sums of 70 products in f32, in another order.
        assert!(fused.iter().zip(&composed).all(|(a, b)| (a - b).abs() < 1e-5), "{fused:?} {composed:?}");
        // Other activations take the composed way.
        let y = gated_mlp(x.clone(), &gate, &up, &down, Activation::Relu);
        assert_eq!(y.dims(), [2, 19, 24]);
    }
}
