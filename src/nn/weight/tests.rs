use super::*;
use crate::nn::{Blocks, Levels, QuantFormat};
use burn::tensor::TensorData;
use std::f32::consts::PI;

const NF4: QuantFormat = QuantFormat::FourBit { levels: Levels::Nf4, block_size: 64, double: false };

/// Products sum in another order than the composition's: rounding of sums of a few hundred terms of size one.
const SUMS: f32 = 2e-5;

fn matrix(rows: usize, cols: usize, seed: f32, device: &Device) -> Tensor<2> {
    let value = |at: usize| ((at as f32 * 0.737 + seed) * PI).sin();
    Tensor::from_data(TensorData::new((0..rows * cols).map(value).collect::<Vec<_>>(), [rows, cols]), device)
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().unwrap()
}

fn close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let most = expected.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= SUMS * most, "{what}: {worst} of {most}");
}

/// Results and gradients of a map on a quantized weight and on the same weight in f32.
fn check(n: usize, [o, i]: [usize; 2], format: QuantFormat, rank: Option<usize>, bias: bool) {
    let device = Device::flex().autodiff();
    let blocks = Blocks::quantize(&values(matrix(o, i, 0.3, &device)), [o, i], format);
    let whole = Tensor::<2>::from_data(TensorData::new(blocks.dequantize(), [o, i]), &device);
    let weights = [Weight::Quantized(Quantized::on(blocks, &device)), Weight::from(whole)];
    let [found, expected] = weights.map(|weight| {
        let x = matrix(n, i, 0.1, &device).require_grad();
        let bias = bias.then(|| matrix(1, o, 0.7, &device).reshape([o]).require_grad());
        let update = rank.map(|r| {
            let (a_ri, b_or) = (matrix(r, i, 0.2, &device).require_grad(), matrix(o, r, 0.9, &device).require_grad());
            LowRank { a_ri, b_or, scale: 0.5 }
        });
        let y = match update.clone() {
            Some(update) => weight.lora(x.clone(), bias.clone(), update),
            None => weight.linear(x.clone(), bias.clone()),
        };
        let gradients = (y.clone() * matrix(n, o, 0.4, &device)).sum().backward();
        let mut all = vec![values(y), values(x.grad(&gradients).unwrap())];
        all.extend(bias.map(|bias| values(bias.grad(&gradients).unwrap())));
        if let Some(update) = update {
            all.extend([update.a_ri, update.b_or].map(|matrix| values(matrix.grad(&gradients).unwrap())));
        }
        all
    });
    for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
        close(found, expected, &format!("{n} rows, [{o}, {i}], {format}, result {index}"));
    }
}

#[test]
fn results_and_gradients_are_those_of_the_dequantized_weight() {
    for n in [1, 3, 40, 200] {
        check(n, [48, 256], NF4, Some(4), true);
        check(n, [33, 37], NF4, None, true);
        check(n, [96, 64], QuantFormat::Int8, Some(2), false);
    }
    let double = QuantFormat::FourBit { levels: Levels::Fp4, block_size: 32, double: true };
    check(130, [700, 1024], double, Some(8), false);
    check(7, [5, 2], double, None, false);
}

#[test]
fn a_quantized_weight_is_no_parameter() {
    let device = Device::flex();
    let mut linear = crate::nn::Linear::new(64, 8, true, &device);
    linear.weight = Weight::Quantized(Quantized::on(Blocks::quantize(&[0.5; 512], [8, 64], NF4), &device));
    let names: Vec<String> = crate::nn::params::list(&linear).into_iter().map(|param| param.name).collect();
    assert_eq!((names, linear.shape()), (vec!["bias".to_owned()], [8, 64]));
    let y = values(linear.forward(Tensor::<2>::ones([1, 64], &device)));
    assert!(y.iter().all(|y| (y - 32.0).abs() < 1e-4), "{y:?}");
}
