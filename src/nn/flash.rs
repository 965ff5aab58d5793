//! Attention by burn's own kernels, which hold no scores, forward and backward.
//!
//! burn 0.23.0-pre.1 has two families of them. What `burn::tensor::module::attention` runs without a gradient multiplies
//! f16 tiles whatever its arguments are, which overflows where bf16 does not, and falls back to all scores where a scale
//! is given. What it records under autodiff, and [`ModuleOps::attention_with_logsumexp`] runs without, multiplies tiles of
//! its arguments' own type and accumulates in f32; it is the one used here, in both cases. It takes no mask, no padding,
//! no segments and no window, only causality; in f32 it may multiply in TF32, so it is for bf16 alone. Its choice of routine is
//! measured at run time: one of them, on GPUs with atomic additions of f32, adds the gradient of the queries up in no set
//! order, so that its last bits differ from run to run.

// b batch, t queries, s keys, h heads, k head width
use super::AttentionSpec;
use burn::backend::{Dispatch, ops::ModuleOps};
use burn::tensor::Tensor;
use burn::tensor::module;
use burn::tensor::ops::AttentionModuleOptions;

/// Whether the kernels compute `spec` on the device and in the type of `q`.
#[cfg(feature = "cuda")]
pub(super) fn serves(q: &Tensor<3>, spec: &AttentionSpec) -> bool {
    use burn::backend::{CubeDevice, DispatchDevice};
    let device = q.device();
    let device = if device.is_autodiff() { device.inner() } else { device };
    let cuda = matches!(device.as_dispatch(), DispatchDevice::Cube(CubeDevice::Cuda(_)));
    cuda && q.dtype() == burn::tensor::DType::BF16 && shaped_for_it(spec)
}

/// Whether nothing is hidden but what causality hides. Right padding is hidden by it from every real token.
pub(super) fn shaped_for_it(spec: &AttentionSpec) -> bool {
    // With a cache, lengths grow by one: each is a key to the measurements of another routine.
    spec.past == 0 && spec.window.is_none() && (0..spec.starts.rows()).all(|row| spec.starts.of(row) == [0])
}

/// `softmax(scale·QKᵀ)·V` per head.
///
/// # Shapes
/// As [`super::attention`], rotated already.
pub(super) fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, spec: &AttentionSpec) -> Tensor<3> {
    let ([b, t, width], s) = (q.dims(), k.dims()[1]);
    let heads = |x: Tensor<3>, n: usize, heads: usize| x.reshape([b, n, heads, spec.head_dim]).swap_dims(1, 2);
    let (q, k, v) = (heads(q, t, spec.heads), heads(k, s, spec.kv_heads), heads(v, s, spec.kv_heads));
    let options =
        AttentionModuleOptions { scale: Some(f64::from(spec.scale)), is_causal: spec.causal, ..Default::default() };
    let o = if [&q, &k, &v].iter().any(|x| x.is_tracked()) {
        module::attention(q, k, v, None, None, options)
    } else {
        let lift = q.is_autodiff();
        let plain = |x: Tensor<4>| if x.is_autodiff() { x.inner() } else { x }.into_dispatch();
        let (o, _) = <Dispatch as ModuleOps<Dispatch>>::attention_with_logsumexp(plain(q), plain(k), plain(v), options);
        let o = Tensor::<4>::from_dispatch(o);
        if lift { o.autodiff() } else { o }
    };
    o.swap_dims(1, 2).reshape([b, t, width])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, DeviceKind, TensorData};

    #[test]
    fn padding_on_the_left_segments_caches_and_windows_are_not_for_it() {
        let plain = AttentionSpec {
            heads: 2,
            kv_heads: 1,
            head_dim: 16,
            causal: true,
            starts: [0, 0].into(),
            past: 0,
            window: None,
            scale: 0.25,
        };
        assert!(shaped_for_it(&plain));
        assert!(!shaped_for_it(&AttentionSpec { starts: [0, 1].into(), ..plain.clone() }));
        let starts = crate::nn::Starts::of_rows([vec![0, 3], vec![0]]);
        assert!(!shaped_for_it(&AttentionSpec { starts, ..plain.clone() }));
        assert!(!shaped_for_it(&AttentionSpec { past: 1, ..plain.clone() }));
        assert!(!shaped_for_it(&AttentionSpec { window: Some(4), ..plain }));
    }

    /// The kernels sum in another order, in f32.
    const TOLERANCE: f32 = 1e-5;

    fn values(shape: [usize; 3], seed: usize, device: &Device) -> Tensor<3> {
        let value = |i: usize| ((i * 7919 + seed * 104_729) % 257) as f32 / 128.0 - 1.0;
        let data: Vec<f32> = (0..shape.iter().product()).map(value).collect();
        Tensor::from_data(TensorData::new(data, shape), device)
    }

    fn results(device: &Device, of: impl Fn(Tensor<3>, Tensor<3>, Tensor<3>) -> Tensor<3>) -> Vec<Vec<f32>> {
        let inputs = [(4, 1), (2, 2), (2, 3)].map(|(h, seed)| values([2, 40, h * 16], seed, device));
        let [q, k, v] = inputs.clone();
        let plain = of(q, k, v).into_data().iter::<f32>().collect();
        let [q, k, v] = inputs.map(|x| Tensor::from_data(x.into_data(), &device.clone().autodiff()).require_grad());
        let o = of(q.clone(), k.clone(), v.clone());
        let gradients = (o.clone() * o.clone().detach()).sum().backward();
        let gradient = |x: Tensor<3>| x.grad(&gradients).unwrap().into_data().iter::<f32>().collect();
        vec![plain, o.into_data().iter::<f32>().collect(), gradient(q), gradient(k), gradient(v)]
    }

    /// Through wgpu, where the same kernels run in f32.
    #[test]
    fn burns_kernels_and_blocks_of_queries_agree() {
        let device = Device::wgpu(DeviceKind::DefaultDevice);
        for causal in [true, false] {
            let spec = AttentionSpec {
                heads: 4,
                kv_heads: 2,
                head_dim: 16,
                causal,
                starts: Default::default(),
                past: 0,
                window: None,
                scale: 0.25,
            };
            let actual = results(&device, |q, k, v| attention(q, k, v, &spec));
            let expected = results(&device, |q, k, v| super::super::composed::attention(q, k, v, spec.clone()));
            for (index, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
                let size = expected.iter().fold(0.1f32, |size, x| size.max(x.abs()));
                for (a, e) in actual.iter().zip(expected) {
                    assert!((a - e).abs() <= TOLERANCE * size, "causal {causal}, result {index}: {a} instead of {e}");
                }
            }
        }
    }
}
