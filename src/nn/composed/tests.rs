//! Every operation against the same formula left to burn's autodiff, values and gradients, on each device that this build
//! has; and in bf16 against f32.

use super::*;
use crate::nn::{RopeConfig, RopeScaling, SequenceLayout, Starts};
use burn::tensor::{Bool, DType, Device, FloatDType, Int, TensorData, activation};

/// Largest difference from the plain formula, relative to its largest element: both sum a few hundred terms of 6e-8 in
/// f32, in different orders, and a GPU's exponential is good to a few units in the last place.
const TOLERANCE: f32 = 1e-5;

/// The same in bf16 against f32: a result is rounded to 8 bits (4e-3), and so are the scores and weights it is made of.
const BF16_TOLERANCE: f32 = 3e-2;

fn devices() -> Vec<Device> {
    vec![
        #[cfg(feature = "cpu")]
        Device::flex(),
        #[cfg(feature = "wgpu")]
        Device::wgpu(burn::tensor::DeviceKind::DefaultDevice),
    ]
}

/// Deterministic values in about -1..1 that differ by `seed`, exact in bf16.
fn values<const D: usize>(shape: [usize; D], seed: usize, device: &Device) -> Tensor<D> {
    let value = |i: usize| {
        let hash = ((i + 1) * 2_654_435_761 + seed * 40_503 + 12_345) % 1_000_003;
        (hash * hash % 257) as f32 / 128.0 - 1.0
    };
    Tensor::from_data(TensorData::new((0..shape.iter().product()).map(value).collect::<Vec<f32>>(), shape), device)
}

fn vec<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn assert_close(name: &str, actual: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(actual.len(), expected.len(), "{name}: size");
    let size = expected.iter().fold(0.1f32, |size, x| size.max(x.abs()));
    for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
        assert!((a - e).abs() <= tolerance * size, "{name}[{i}]: {a} instead of {e} (largest {size})");
    }
}

/// Runs `function` on tracked inputs in `dtype`; its value, and the gradients of `Σ weight·output`.
fn run<const I: usize, const O: usize>(
    inputs: &[Tensor<I>],
    dtype: DType,
    function: &dyn Fn(&[Tensor<I>]) -> Tensor<O>,
) -> Vec<Vec<f32>> {
    let device = inputs[0].device().autodiff();
    let tracked = |x: &Tensor<I>| {
        Tensor::<I>::from_data(x.to_data(), &device).cast(FloatDType::from(dtype)).detach().require_grad()
    };
    let inputs: Vec<_> = inputs.iter().map(tracked).collect();
    let output = function(&inputs);
    assert_eq!(output.dtype(), dtype, "type of the result");
    let weight = values(output.dims(), 99, &device).cast(FloatDType::from(dtype));
    let gradients = (output.clone() * weight).sum().backward();
    let gradient = |x: &Tensor<I>| {
        let gradient = x.grad(&gradients).expect("a gradient");
        assert_eq!(gradient.dtype(), dtype, "type of the gradient");
        vec(gradient)
    };
    std::iter::once(vec(output.inner())).chain(inputs.iter().map(gradient)).collect()
}

/// Compares a composed operation with the plain formula in f32, without autodiff with itself, and in bf16 with f32.
fn check<const I: usize, const O: usize>(
    name: &str,
    inputs: &[Tensor<I>],
    composed: &dyn Fn(&[Tensor<I>]) -> Tensor<O>,
    plain: &dyn Fn(&[Tensor<I>]) -> Tensor<O>,
) {
    let expected = run(inputs, DType::F32, plain);
    let actual = run(inputs, DType::F32, composed);
    for (i, (a, e)) in actual.iter().zip(&expected).enumerate() {
        assert_close(&format!("{name}, result {i}"), a, e, TOLERANCE);
    }
    assert_close(&format!("{name}, without autodiff"), &vec(composed(inputs)), &actual[0], 1e-6);
    if crate::nn::is_flex(&inputs[0].device()) {
        let narrow = run(inputs, DType::BF16, composed);
        for (i, (a, e)) in narrow.iter().zip(&expected).enumerate() {
            assert_close(&format!("{name}, bf16 result {i}"), a, e, BF16_TOLERANCE);
        }
    }
}

fn spec(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionSpec {
    let scale = (head_dim as f32).powf(-0.5);
    AttentionSpec { heads, kv_heads, head_dim, causal: true, starts: Starts::default(), past: 0, window: None, scale }
}

/// Attention with every score in memory and the keys repeated.
fn plain_attention(qkv: &[Tensor<3>], spec: &AttentionSpec) -> Tensor<3> {
    let ([b, t, _], s) = (qkv[0].dims(), qkv[1].dims()[1]);
    let k = spec.head_dim;
    let heads = |x: &Tensor<3>, n: usize, h: usize| x.clone().reshape([b, n, h, k]).swap_dims(1, 2);
    let repeat = |x: Tensor<4>| {
        let group = spec.heads / spec.kv_heads;
        x.reshape([b, spec.kv_heads, 1, s * k]).expand([b, spec.kv_heads, group, s * k]).reshape([b, spec.heads, s, k])
    };
    let keys = repeat(heads(&qkv[1], s, spec.kv_heads));
    let values = repeat(heads(&qkv[2], s, spec.kv_heads));
    let hidden: Vec<bool> = (0..b * t * s)
        .map(|index| {
            let (row, i, j) = (index / (t * s), index / s % t, index % s);
            !spec.visible(row, i, s).contains(&j)
        })
        .collect();
    let hidden = Tensor::<4, Bool>::from_data(TensorData::new(hidden, [b, 1, t, s]), &qkv[0].device());
    let hidden = hidden.expand([b, spec.heads, t, s]);
    let scores = heads(&qkv[0], t, spec.heads).matmul(keys.swap_dims(2, 3)) * spec.scale;
    let p = activation::softmax(scores.mask_fill(hidden.clone(), -1e9), 3).mask_fill(hidden, 0.0);
    p.matmul(values).swap_dims(1, 2).reshape([b, t, spec.heads * k])
}

fn check_attention(name: &str, b: usize, t: usize, spec: &AttentionSpec, device: &Device) {
    let s = spec.past + t;
    let (q_width, kv_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let qkv = [
        values([b, t, q_width], 1, device) * 2.0,
        values([b, s, kv_width], 2, device) * 2.0,
        values([b, s, kv_width], 3, device),
    ];
    let composed = |x: &[Tensor<3>]| attention(x[0].clone(), x[1].clone(), x[2].clone(), spec.clone());
    check(name, &qkv, &composed, &|x| plain_attention(x, spec));
}

/// Every kind of visibility, in one block and in several.
fn check_attention_on(device: &Device) {
    for (b, t, heads, kv_heads, head_dim) in [(1, 1, 1, 1, 4), (2, 17, 6, 2, 6), (1, 600, 2, 1, 8)] {
        let name = format!("b {b} t {t} h {heads}/{kv_heads} k {head_dim}");
        check_attention(&name, b, t, &spec(heads, kv_heads, head_dim), device);
    }
    let open = AttentionSpec { causal: false, ..spec(2, 2, 4) };
    check_attention("not causal", 2, 33, &open, device);
    let padded = AttentionSpec { causal: false, starts: [0, 9].into(), ..spec(2, 2, 4) };
    check_attention("not causal, padded", 2, 33, &padded, device);
    let left = AttentionSpec { starts: [0, 7, 300].into(), ..spec(4, 2, 4) };
    check_attention("left padding", 3, 520, &left, device);
    let packed = Starts::of_rows([vec![0, 100, 290, 420], vec![3]]);
    for causal in [true, false] {
        let packed = AttentionSpec { starts: packed.clone(), causal, ..spec(4, 2, 4) };
        check_attention(&format!("several segments, causal {causal}"), 2, 450, &packed, device);
    }
    check_attention("a cache", 2, 5, &AttentionSpec { past: 11, ..spec(4, 2, 4) }, device);
    let window = AttentionSpec { window: Some(40), starts: [0, 30].into(), ..spec(2, 1, 4) };
    check_attention("a window", 2, 530, &window, device);
}

#[test]
fn attention_matches_the_plain_formula() {
    for device in devices() {
        if crate::nn::is_flex(&device) {
            check_attention_on(&device);
        } else {
            // Each shape is a minute of kernel compilation: one of two blocks, with segments, padding and shared keys.
            let starts = Starts::of_rows([vec![0, 100, 270], vec![3]]);
            check_attention("two blocks", 2, 300, &AttentionSpec { starts, ..spec(4, 2, 4) }, &device);
        }
    }
}

#[test]
fn queries_that_see_nothing_give_zeros_and_no_gradient() {
    for device in devices() {
        let device = device.autodiff();
        let spec = AttentionSpec { starts: [3].into(), ..spec(1, 1, 4) };
        let [q, k, v] = [1, 2, 3].map(|seed| values([1, 5, 4], seed, &device).require_grad());
        let o = attention(q.clone(), k.clone(), v, spec);
        assert!(vec(o.clone().inner())[..12].iter().all(|&x| x == 0.0));
        let gradients = o.sum().backward();
        let dq = vec(q.grad(&gradients).unwrap());
        assert!(dq[..12].iter().all(|&x| x == 0.0) && dq.iter().all(|x| x.is_finite()));
        assert!(vec(k.grad(&gradients).unwrap()).iter().all(|x| x.is_finite()));
    }
}

#[test]
fn norms_match_the_plain_formula() {
    for device in devices() {
        for (rows, d) in [(1, 1), (5, 33), (70, 64)] {
            let stack = Tensor::cat(vec![values([rows, d], 1, &device) * 3.0, values([2, d], 2, &device)], 0);
            let split = move |stack: &Tensor<2>| {
                let row = |i| stack.clone().slice([i..i + 1, 0..d]).reshape([d]);
                (stack.clone().slice([0..rows, 0..d]), row(rows), row(rows + 1))
            };
            check(
                &format!("rms_norm {rows}x{d}"),
                std::slice::from_ref(&stack),
                &|x| {
                    let (x, weight, _) = split(&x[0]);
                    rms_norm(x, weight, 1e-2)
                },
                &|x| {
                    let (x, weight, _) = split(&x[0]);
                    let rms = (x.clone().square().mean_dim(1) + 1e-2).sqrt();
                    x / rms * weight.unsqueeze()
                },
            );
            check(
                &format!("layer_norm {rows}x{d}"),
                std::slice::from_ref(&stack),
                &|x| {
                    let (x, weight, bias) = split(&x[0]);
                    layer_norm(x, weight, bias, 1e-2)
                },
                &|x| {
                    let (x, weight, bias) = split(&x[0]);
                    let x = x.clone() - x.mean_dim(1);
                    let deviation = (x.clone().square().mean_dim(1) + 1e-2).sqrt();
                    x / deviation * weight.unsqueeze() + bias.unsqueeze()
                },
            );
        }
    }
}

#[test]
fn a_trained_scale_in_f32_gets_its_gradient_in_f32_from_bf16_activations() {
    for device in devices().into_iter().filter(crate::nn::is_flex) {
        let device = device.autodiff();
        let x = values([6, 8], 1, &device).cast(FloatDType::BF16).detach().require_grad();
        let weight = values([8], 2, &device).require_grad();
        let y = rms_norm(x.clone(), weight.clone(), 1e-5);
        assert_eq!(y.dtype(), DType::BF16);
        let gradients = y.sum().backward();
        assert_eq!(weight.grad(&gradients).unwrap().dtype(), DType::F32);
        assert_eq!(x.grad(&gradients).unwrap().dtype(), DType::BF16);
    }
}

#[test]
fn swiglu_matches_the_plain_formula_and_saturates() {
    for device in devices() {
        let inputs = [values([300], 3, &device) * 6.0, values([300], 4, &device)];
        let composed = |x: &[Tensor<1>]| swiglu(x[0].clone(), x[1].clone());
        check("swiglu", &inputs, &composed, &|x| activation::silu(x[0].clone()) * x[1].clone());
        let device = device.autodiff();
        let gate = Tensor::<1>::from_floats([-1e4, -90.0, 0.0, 90.0, 1e4], &device).require_grad();
        let y = swiglu(gate.clone(), Tensor::ones([5], &device));
        let slopes = vec(gate.grad(&y.clone().sum().backward()).unwrap());
        assert_close("values", &vec(y.inner()), &[0.0, 0.0, 0.0, 90.0, 1e4], 1e-6);
        assert_close("slopes", &slopes, &[0.0, 0.0, 0.5, 1.0, 1.0], 1e-6);
    }
}

#[test]
fn rotations_match_the_plain_formula_with_and_without_padding() {
    for device in devices() {
        let config = RopeConfig { head_dim: 6, theta: 100.0, scaling: RopeScaling::Default };
        let (b, t, heads) = (2, 9, 3);
        let x = [values([b, t, heads * 6], 5, &device)];
        for starts in [vec![0, 0], vec![0, 4]] {
            let layout = SequenceLayout::with_starts(starts.clone());
            let rotated = |x: &[Tensor<3>]| {
                // The door itself would take the fused kernel on the CPU only inside attention.
                config.table(t, &x[0].device()).rotate(x[0].clone(), heads, &layout, 0)
            };
            let plain = |x: &[Tensor<3>]| {
                let positions: Vec<i32> = (0..b * t).map(|i| (i % t).saturating_sub(starts[i / t]) as i32).collect();
                let positions = Tensor::<1, Int>::from_data(TensorData::new(positions, [b * t]), &x[0].device());
                let table = config.table(t, &x[0].device()).table_pk.select(0, positions).reshape([b, t, 1, 6]);
                let (cos, sin) = (table.clone().narrow(3, 0, 3), table.narrow(3, 3, 3));
                let x = x[0].clone().reshape([b, t, heads, 6]);
                let (left, right) = (x.clone().narrow(3, 0, 3), x.narrow(3, 3, 3));
                let first = left.clone() * cos.clone() - right.clone() * sin.clone();
                Tensor::cat(vec![first, right * cos + left * sin], 3).reshape([b, t, heads * 6])
            };
            check(&format!("starts {starts:?}"), &x, &rotated, &plain);
        }
    }
}

#[test]
fn frozen_parents_get_no_gradient() {
    for device in devices() {
        let (plain, device) = (device.clone(), device.autodiff());
        let gate = values([4, 6], 1, &device).require_grad();
        let gradients = swiglu(gate.clone(), values([4, 6], 2, &plain)).sum().backward();
        assert!(gate.grad(&gradients).is_some());
        let q = values([1, 4, 8], 1, &device).require_grad();
        let (k, v) = (values([1, 4, 8], 2, &device), values([1, 4, 8], 3, &plain));
        let gradients = attention(q.clone(), k.clone(), v, spec(2, 2, 4)).sum().backward();
        assert!(q.grad(&gradients).is_some() && k.grad(&gradients).is_none());
        // Nothing tracked: the operation must still run on an autodiff device.
        assert_eq!(rms_norm(k, Tensor::ones([8], &plain), 1e-5).dims(), [1, 4, 8]);
    }
}
