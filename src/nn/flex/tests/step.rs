//! The optimizer's step, determinism, and gradients against finite differences.

use super::*;
use crate::nn::{AdamWStep, AdamWTensors, Starts};

#[test]
fn adamw_matches_the_formula_over_several_steps_and_works_in_place() {
    let shape = [7, 13];
    let (lr, beta1, beta2, eps, weight_decay) = (1e-2, 0.9, 0.999, 1e-8, 0.1);
    let mut tensors = AdamWTensors {
        param: values(shape, 1),
        m: Tensor::zeros(shape, &device()),
        v: Tensor::zeros(shape, &device()),
    };
    let mut expected: Vec<[f64; 3]> = vec(tensors.param.clone()).iter().map(|p| [f64::from(*p), 0.0, 0.0]).collect();
    for step in 1..=5 {
        let grad = values(shape, 10 + step) * 0.3;
        let (bias_correction1, bias_correction2) =
            (1.0 - f64::powi(beta1, step as i32), 1.0 - f64::powi(beta2, step as i32));
        let hyper =
            AdamWStep { lr, beta1, beta2, eps, weight_decay, bias_correction1, bias_correction2, grad_scale: 1.0 };
        for ([p, m, v], g) in expected.iter_mut().zip(vec(grad.clone())) {
            let g = f64::from(g);
            *p *= 1.0 - lr * weight_decay;
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            *p -= lr / bias_correction1 * *m / (v.sqrt() / bias_correction2.sqrt() + eps);
        }
        let before = address(&tensors.param);
        tensors = adamw_step(tensors, grad, hyper);
        assert_eq!(address(&tensors.param), before, "the parameter moved");
    }
    let column = |i: usize| expected.iter().map(|e| e[i] as f32).collect::<Vec<_>>();
    assert_close("param", &vec(tensors.param), &column(0), 1e-6);
    assert_close("m", &vec(tensors.m), &column(1), 1e-6);
    assert_close("v", &vec(tensors.v), &column(2), 1e-6);
}

fn address<const D: usize>(tensor: &Tensor<D>) -> *const u8 {
    let tensor = tensor.clone().try_into_primitive::<burn::backend::Flex>().unwrap();
    tensor.bytes().as_ptr()
}

#[test]
fn adamw_leaves_other_holders_of_the_memory_alone() {
    let param = values([5], 1);
    let kept = vec(param.clone());
    let tensors = AdamWTensors { param: param.clone(), m: param.zeros_like(), v: param.zeros_like() };
    let hyper = AdamWStep {
        lr: 0.1,
        beta1: 0.9,
        beta2: 0.99,
        eps: 1e-8,
        weight_decay: 0.0,
        bias_correction1: 0.1,
        bias_correction2: 0.01,
        grad_scale: 1.0,
    };
    let stepped = adamw_step(tensors, Tensor::ones([5], &device()), hyper);
    assert_eq!(vec(param), kept);
    assert_ne!(vec(stepped.param), kept);
}

#[test]
fn the_sum_of_squares_is_exact_to_f64_and_empty_tensors_give_zero() {
    let x = values([70_001], 1);
    let expected: f64 = vec(x.clone()).iter().map(|x| f64::from(*x).powi(2)).sum();
    assert!((sum_of_squares(&x) / expected - 1.0).abs() < 1e-12);
    assert_eq!(sum_of_squares(&values([4, 3], 1).slice([0..0, 0..3])), 0.0);
}

/// All operations once, forward and backward, as bits.
fn everything() -> Vec<u32> {
    let mut bits = Vec::new();
    let mut keep = |(value, gradients): (Vec<f32>, Vec<Vec<f32>>)| {
        bits.extend(value.iter().chain(gradients.iter().flatten()).map(|x| x.to_bits()));
    };
    let matrices = [values([520, 130], 1), values([260, 130], 2), values([260, 130], 3), values([130, 260], 4)];
    let bias = |x: &Tensor<2>| x.clone().slice([0..1, 0..130]).reshape([130]);
    keep(value_and_gradients(&matrices[..2], |x| rms_norm(x[0].clone(), bias(&x[1]), 1e-5)));
    keep(value_and_gradients(&matrices[..2], |x| layer_norm(x[0].clone(), bias(&x[1]), bias(&x[1]), 1e-5)));
    keep(value_and_gradients(&matrices, |x| {
        let [gate, up, down] = [1, 2, 3].map(|i| x[i].clone());
        swiglu_mlp(gelu(x[0].clone()), SwigluWeights { gate, up, down })
    }));
    keep(value_and_gradients(&matrices, |x| {
        let factors = LoraFactors { a: x[1].clone(), b: x[3].clone(), scale: 0.5 };
        lora_linear(x[0].clone(), x[3].clone().narrow(1, 0, 130), Some(bias(&x[2])), factors)
    }));
    keep(value_and_gradients(&matrices[..2], |x| {
        let ids: Vec<i32> = (0..520).map(|i| i % 260).collect();
        let targets = Tensor::<1, Int>::from_data(TensorData::new(ids, [520]), &x[0].device());
        token_nll(x[0].clone(), x[1].clone(), targets)
    }));
    let spec = AttentionSpec {
        heads: 4,
        kv_heads: 2,
        head_dim: 10,
        causal: true,
        starts: Starts::of_rows([vec![0, 70, 75], vec![11]]),
        past: 0,
        window: None,
        scale: 0.3,
    };
    let qkv = [values([2, 150, 40], 5), values([2, 150, 20], 6), values([2, 150, 20], 7)];
    let rope = values([150, 10], 8);
    keep(value_and_gradients(&qkv, |x| {
        attention(x[0].clone(), x[1].clone(), x[2].clone(), Some(rope.clone()), spec.clone())
    }));
    let spec = AttentionSpec { head_dim: 20, window: Some(90), ..spec };
    let qkv = [values([2, 150, 80], 5), values([2, 150, 40], 6), values([2, 150, 40], 7)];
    keep(value_and_gradients(&qkv, |x| attention(x[0].clone(), x[1].clone(), x[2].clone(), None, spec.clone())));
    keep(value_and_gradients(&matrices[..1], |x| {
        let ids: Vec<i32> = (0..700).map(|i| i * i % 520).collect();
        rows(x[0].clone(), Tensor::<1, Int>::from_data(TensorData::new(ids, [700]), &x[0].device()))
    }));
    bits.extend(sum_of_squares(&values([100_003], 9)).to_bits().to_le_bytes().map(u32::from));
    bits
}

#[test]
fn results_have_the_same_bits_for_one_and_several_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(everything)
    };
    let once = run(1);
    for threads in [1, 2, 2, 3] {
        assert!(run(threads) == once, "{threads} threads differ from one");
    }
}

#[test]
fn the_plainest_kernels_agree_with_the_widest() {
    let baseline = rayon::ThreadPoolBuilder::new()
        .num_threads(2)
        .start_handler(|_| kernels::FORCE_BASELINE.set(true))
        .build()
        .unwrap();
    let floats = |bits: Vec<u32>| bits.into_iter().map(f32::from_bits).collect::<Vec<_>>();
    assert_close("baseline", &floats(baseline.install(everything)), &floats(everything()), 1e-6);
}

#[test]
fn gradients_match_finite_differences() {
    // A central difference in f32 of a sum of a few hundred terms: 1e-2 is its own error.
    const STEP: f32 = 1e-2;
    let spec = AttentionSpec {
        heads: 2,
        kv_heads: 1,
        head_dim: 4,
        causal: true,
        starts: Starts::from([2]),
        past: 0,
        window: Some(6),
        scale: 0.5,
    };
    let rope = values([9, 4], 5);
    let whole = |x: &[Tensor<3>]| {
        let q = gelu(x[0].clone());
        let y = attention(q, x[1].clone(), x[2].clone(), Some(rope.clone()), spec.clone());
        let weight = x[1].clone().reshape([9, 4]).narrow(0, 0, 5).transpose().reshape([4, 5]);
        let y = linear(y.reshape([18, 4]), weight.transpose(), None);
        let y = rms_norm(y, x[2].clone().reshape([36]).narrow(0, 0, 5), 1e-3);
        quick_gelu(y)
    };
    let inputs = [values([1, 9, 8], 1), values([1, 9, 4], 2), values([1, 9, 4], 3)];
    let (_, gradients) = value_and_gradients(&inputs, whole);
    let weight = values([18, 5], 99);
    let loss = |x: &[Tensor<3>]| -> f64 { vec(whole(x) * weight.clone()).iter().map(|x| f64::from(*x)).sum() };
    for (which, gradient) in gradients.iter().enumerate() {
        for index in (0..gradient.len()).step_by(7) {
            let shifted = |by: f32| {
                let mut inputs = inputs.clone();
                let mut data = vec(inputs[which].clone());
                data[index] += by;
                let shape = inputs[which].dims();
                inputs[which] = Tensor::from_data(TensorData::new(data, shape), &device());
                loss(&inputs)
            };
            let slope = ((shifted(STEP) - shifted(-STEP)) / f64::from(2.0 * STEP)) as f32;
            let error = (gradient[index] - slope).abs();
            assert!(error < 1e-2 * slope.abs().max(1.0), "{which}[{index}]: {} and {slope}", gradient[index]);
        }
    }
}
