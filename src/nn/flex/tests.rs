//! Every operation against the same formula composed of burn's own operations: values and
//! gradients, on shapes that fit no register and no block.

use super::*;
use burn::tensor::{TensorData, activation};

mod rows_of_tables;
mod sequence;
mod step;

/// Largest difference from the composed form, relative to its largest element. Both sides sum in
/// f32 in different orders: a few hundred terms of 6e-8 each.
const TOLERANCE: f32 = 5e-6;

fn device() -> Device {
    Device::flex()
}

/// Deterministic values in about -1..1 that differ by `seed`.
fn values<const D: usize>(shape: [usize; D], seed: usize) -> Tensor<D> {
    let len = shape.iter().product();
    let value = |i: usize| {
        let hash = ((i + 1) * 2_654_435_761 + seed * 40_503 + 12_345) % 1_000_003;
        (hash * hash % 20_011) as f32 / 10_005.5 - 1.0
    };
    let data: Vec<f32> = (0..len).map(value).collect();
    Tensor::from_data(TensorData::new(data, shape), &device())
}

/// The same values, tracked.
fn tracked<const D: usize>(tensor: &Tensor<D>) -> Tensor<D> {
    Tensor::from_data(tensor.to_data(), &device().autodiff()).require_grad()
}

fn vec<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

fn assert_close(name: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len(), "{name}: size");
    // Values that cancel to nothing keep the rounding of terms of about 0.1.
    let size = expected.iter().fold(0.1f32, |size, x| size.max(x.abs()));
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= tolerance * size, "{name}[{i}]: {a} instead of {e} (largest {size})");
    }
}

/// Runs a function of tracked inputs and returns its value and the gradients of
/// `Σ weight·output`, with weights that differ by element.
fn value_and_gradients<const I: usize, const O: usize>(
    inputs: &[Tensor<I>],
    function: impl Fn(&[Tensor<I>]) -> Tensor<O>,
) -> (Vec<f32>, Vec<Vec<f32>>) {
    let inputs: Vec<_> = inputs.iter().map(tracked).collect();
    let output = function(&inputs);
    let weight = values(output.dims(), 99);
    let weight = Tensor::from_data(weight.into_data(), &device().autodiff());
    let gradients = (output.clone() * weight).sum().backward();
    let gradient = |x: &Tensor<I>| vec(x.grad(&gradients).expect("a gradient"));
    (vec(output.inner()), inputs.iter().map(gradient).collect())
}

/// Compares a fused operation with its composed form, with and without autodiff.
fn check<const I: usize, const O: usize>(
    name: &str,
    inputs: &[Tensor<I>],
    fused: impl Fn(&[Tensor<I>]) -> Tensor<O>,
    composed: impl Fn(&[Tensor<I>]) -> Tensor<O>,
) {
    let (actual, actual_gradients) = value_and_gradients(inputs, &fused);
    let (expected, expected_gradients) = value_and_gradients(inputs, &composed);
    assert_close(name, &actual, &expected, TOLERANCE);
    for (i, (a, e)) in actual_gradients.iter().zip(&expected_gradients).enumerate() {
        assert_close(&format!("{name}, gradient {i}"), a, e, TOLERANCE);
    }
    assert_eq!(vec(fused(inputs)), actual, "{name}: without autodiff");
}

#[test]
fn a_flex_device_is_known_with_and_without_autodiff() {
    assert!(is_flex(&device()) && is_flex(&device().autodiff()));
}

#[test]
fn norms_match_the_composed_form() {
    for (rows, d) in [(1, 1), (3, 4), (70, 33), (2, 80), (300, 256), (0, 8)] {
        let x = values([rows.max(1), d], 1).slice([0..rows, 0..d]);
        let parameters = values([2, d], 2);
        let stack = Tensor::cat(vec![x * 3.0, parameters], 0);
        let split = |stack: &Tensor<2>| {
            let row = |i| stack.clone().slice([i..i + 1, 0..d]).reshape([d]);
            (stack.clone().slice([0..rows, 0..d]), row(rows), row(rows + 1))
        };
        if rows == 0 {
            let (x, weight, bias) = split(&stack);
            assert_eq!(rms_norm(x.clone(), weight.clone(), 1e-5).dims(), [0, d]);
            assert_eq!(layer_norm(x, weight, bias, 1e-5).dims(), [0, d]);
            continue;
        }
        check(
            &format!("rms_norm {rows}x{d}"),
            std::slice::from_ref(&stack),
            |inputs| {
                let (x, weight, _) = split(&inputs[0]);
                rms_norm(x, weight, 1e-5)
            },
            |inputs| {
                let (x, weight, _) = split(&inputs[0]);
                let rms = (x.clone().square().mean_dim(1) + 1e-5).sqrt();
                x / rms * weight.unsqueeze()
            },
        );
        check(
            &format!("layer_norm {rows}x{d}"),
            &[stack],
            |inputs| {
                let (x, weight, bias) = split(&inputs[0]);
                layer_norm(x, weight, bias, 1e-3)
            },
            |inputs| {
                let (x, weight, bias) = split(&inputs[0]);
                let x = x.clone() - x.mean_dim(1);
                let deviation = (x.clone().square().mean_dim(1) + 1e-3).sqrt();
                x / deviation * weight.unsqueeze() + bias.unsqueeze()
            },
        );
    }
}

#[test]
fn activations_match_the_composed_form() {
    for len in [1, 31, 1000, 40_000] {
        let inputs = [values([len], 3) * 6.0, values([len], 4)];
        let silu_product = |x: &[Tensor<1>]| activation::silu(x[0].clone()) * x[1].clone();
        let fused = |x: &[Tensor<1>]| swiglu(x[0].clone(), x[1].clone());
        check("swiglu", &inputs, fused, silu_product);
        let x = &inputs[..1];
        let composed = |x: &[Tensor<1>]| {
            let x = x[0].clone();
            x.clone() * ((x * std::f64::consts::FRAC_1_SQRT_2).erf() + 1.0) * 0.5
        };
        check("gelu", x, |x| gelu(x[0].clone()), composed);
        let composed = |x: &[Tensor<1>]| x[0].clone() * activation::sigmoid(x[0].clone() * 1.702);
        check("quick_gelu", x, |x| quick_gelu(x[0].clone()), composed);
    }
}

#[test]
fn gelu_is_accurate_in_the_tail_and_extreme_values_stay_finite() {
    // 0.5·x·erfc(-x/√2), computed in extended precision.
    let reference = [
        (-6.0, -5.919_526e-9),
        (-4.0, -1.266_849_7e-4),
        (-2.0, -0.045_500_264),
        (-0.5, -0.154_268_77),
        (1e-3, 5.003_99e-4),
        (3.0, 2.995_950_3),
    ];
    for (x, expected) in reference {
        let y: f32 = gelu(Tensor::<1>::from_floats([x], &device())).into_scalar();
        assert!((y - expected).abs() <= 2e-6 * expected.abs(), "gelu({x}) = {y}, not {expected}");
    }
    let extreme = Tensor::<1>::from_floats([-1e30, -200.0, 0.0, 200.0, 1e30], &device());
    for function in [gelu, quick_gelu] {
        // The exponential saturates at 2e38, so that the lower tail ends near 0, not at it.
        assert_close("extremes", &vec(function(extreme.clone()))[..4], &[0.0, 0.0, 0.0, 200.0], 1e-9);
        assert_eq!(vec(function(extreme.clone()))[4], 1e30);
    }
    let nan = Tensor::<1>::from_floats([f32::NAN], &device());
    assert!(vec(gelu(nan.clone()))[0].is_nan(), "a diverged run must show");
    assert!(vec(swiglu(nan.clone(), nan))[0].is_nan());
}

#[test]
fn linear_maps_match_the_composed_form() {
    // Rows, in, out, rank: one row and four take the dot-product path, the last transposes.
    for (rows, inputs, outputs, rank) in
        [(1, 7, 5, 1), (4, 33, 70, 3), (65, 80, 6, 4), (130, 48, 300, 8), (129, 512, 77, 2)]
    {
        let operands = [
            values([rows, inputs], 1),
            values([outputs, inputs], 2),
            values([1, outputs], 3),
            values([rank, inputs], 4),
            values([outputs, rank], 5),
        ];
        let bias = |x: &[Tensor<2>]| x[2].clone().reshape([outputs]);
        let plain = |x: &[Tensor<2>]| x[0].clone().matmul(x[1].clone().transpose());
        check(
            &format!("linear {rows}x{inputs}x{outputs}"),
            &operands[..3],
            |x| linear(x[0].clone(), x[1].clone(), Some(bias(x))),
            |x| plain(x) + x[2].clone(),
        );
        check("linear without bias", &operands[..2], |x| linear(x[0].clone(), x[1].clone(), None), plain);
        check(
            &format!("lora_linear {rows}x{inputs}x{outputs}, rank {rank}"),
            &operands,
            |x| {
                let factors = LoraFactors { a: x[3].clone(), b: x[4].clone(), scale: 0.7 };
                lora_linear(x[0].clone(), x[1].clone(), Some(bias(x)), factors)
            },
            |x| {
                let narrow = x[0].clone().matmul(x[3].clone().transpose());
                plain(x) + x[2].clone() + narrow.matmul(x[4].clone().transpose()) * 0.7
            },
        );
    }
}

#[test]
fn the_swiglu_block_matches_the_composed_form() {
    for (rows, d, hidden) in [(3, 10, 17), (70, 24, 65)] {
        let operands = [values([rows, d], 1), values([hidden, d], 2), values([hidden, d], 3), values([d, hidden], 4)];
        check(
            "swiglu_mlp",
            &operands,
            |x| {
                let [gate, up, down] = [1, 2, 3].map(|i| x[i].clone());
                swiglu_mlp(x[0].clone(), SwigluWeights { gate, up, down })
            },
            |x| {
                let gate = activation::silu(x[0].clone().matmul(x[1].clone().transpose()));
                let up = x[0].clone().matmul(x[2].clone().transpose());
                (gate * up).matmul(x[3].clone().transpose())
            },
        );
    }
}

#[test]
fn strided_and_expanded_inputs_are_read_correctly() {
    let x = values([6, 10], 1);
    let weight = values([4, 6], 2);
    let expected = vec(x.clone().transpose().matmul(weight.clone().transpose()));
    let actual = vec(linear(x.transpose(), weight, None));
    assert_close("transposed input", &actual, &expected, TOLERANCE);
    let row = values([1, 8], 3).expand([5, 8]);
    let actual = vec(rms_norm(row.clone(), Tensor::ones([8], &device()), 1e-6));
    let rms = (row.clone().square().mean_dim(1) + 1e-6).sqrt();
    assert_close("expanded input", &actual, &vec(row / rms), TOLERANCE);
    let wide = values([3, 5, 12], 4);
    let slice = wide.clone().slice([0..3, 1..4, 2..9]);
    let copy = Tensor::<3>::from_data(slice.to_data(), &device());
    assert_eq!(vec(gelu(slice)), vec(gelu(copy)), "sliced input");
}

#[test]
fn frozen_parents_get_no_gradient_and_the_others_the_right_one() {
    let (x, weight) = (tracked(&values([5, 6], 1)), values([4, 6], 2));
    let gradients = linear(x.clone(), weight.clone(), None).sum().backward();
    let expected = weight.clone().sum_dim(0).expand([5, 6]);
    assert_close("dX", &vec(x.grad(&gradients).unwrap()), &vec(expected), TOLERANCE);
    let frozen = Tensor::<2>::from_data(weight.to_data(), &device().autodiff());
    let hidden = tracked(&values([5, 6], 3));
    let targets = Tensor::<1, Int>::from_ints([0, 1, 2, 3, 0], &device());
    let gradients = token_nll(hidden.clone(), frozen.clone(), targets).mean().backward();
    assert!(hidden.grad(&gradients).is_some() && frozen.grad(&gradients).is_none());
    // Nothing tracked: the operation must still run on an autodiff device.
    assert_eq!(linear(frozen.clone(), frozen, None).dims(), [4, 4]);
}
