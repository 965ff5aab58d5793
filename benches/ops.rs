//! The fused CPU operations against the same arithmetic composed from burn's, forward and backward.
//!
//! `cargo bench --bench ops`

// b batch, t tokens, h heads, k head width, d model width, f hidden width of the MLP, v vocabulary, n tokens of a batch
use burn::tensor::activation::{log_softmax, silu, softmax};
use burn::tensor::{Device, Distribution, Int, Tensor};
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use firebrick::nn::{AttentionSpec, flex};
use std::hint::black_box;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Tokens of a batch.
const TOKENS: usize = 1024;
/// Width of the model and of its MLP.
const WIDTHS: [(usize, usize); 2] = [(256, 688), (512, 1376)];
const EPSILON: f32 = 1e-5;

fn random<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex().autodiff()).require_grad()
}

/// Forward and backward pass.
fn pass<const D: usize>(y: Tensor<D>) {
    black_box(y.sum().backward());
}

/// Times two forms of one operation.
fn compare(c: &mut Criterion, name: &str, size: String, fused: impl Fn(), composed: impl Fn()) {
    let mut group = c.benchmark_group(name);
    group.sample_size(10);
    group.bench_function(BenchmarkId::new("fused", &size), |b| b.iter(&fused));
    group.bench_function(BenchmarkId::new("composed", &size), |b| b.iter(&composed));
    group.finish();
}

fn rms_norm(c: &mut Criterion) {
    for (d, _) in WIDTHS {
        let (x, w) = (random([TOKENS, d]), random([d]));
        let fused = || pass(flex::rms_norm(x.clone(), w.clone(), EPSILON));
        let composed = || {
            let scale = (x.clone().square().mean_dim(1) + EPSILON).sqrt().recip();
            pass(x.clone() * scale * w.clone().unsqueeze());
        };
        compare(c, "rms_norm", format!("{TOKENS}x{d}"), fused, composed);
    }
}

fn swiglu_mlp(c: &mut Criterion) {
    for (d, f) in WIDTHS {
        let x = random([TOKENS, d]);
        let (gate, up, down) = (random([f, d]), random([f, d]), random([d, f]));
        let fused = || {
            let weights = flex::SwigluWeights { gate: gate.clone(), up: up.clone(), down: down.clone() };
            pass(flex::swiglu_mlp(x.clone(), weights));
        };
        let composed = || {
            let project = |w: &Tensor<2>| x.clone().matmul(w.clone().transpose());
            pass((silu(project(&gate)) * project(&up)).matmul(down.clone().transpose()));
        };
        compare(c, "swiglu_mlp", format!("{TOKENS}x{d}x{f}"), fused, composed);
    }
}

fn lora_linear(c: &mut Criterion) {
    for (d, f) in WIDTHS {
        let (x, w) = (random([TOKENS, d]), random([f, d]).detach());
        let (a, b) = (random([8, d]), random([f, 8]));
        let fused = || {
            let factors = flex::LoraFactors { a: a.clone(), b: b.clone(), scale: 2.0 };
            pass(flex::lora_linear(x.clone(), w.clone(), None, factors));
        };
        let composed = || {
            let update = x.clone().matmul(a.clone().transpose()).matmul(b.clone().transpose());
            pass(x.clone().matmul(w.clone().transpose()) + update * 2.0);
        };
        compare(c, "lora_linear", format!("{TOKENS}x{d}x{f}"), fused, composed);
    }
}

fn attention(c: &mut Criterion) {
    for (b, t, h, k) in [(4, 256, 8, 32), (2, 512, 8, 64)] {
        let [q, keys, values] = [(); 3].map(|()| random([b, t, h * k]));
        let spec = AttentionSpec {
            heads: h,
            kv_heads: h,
            head_dim: k,
            causal: true,
            starts: vec![0; b].into(),
            past: 0,
            window: None,
            scale: (k as f32).powf(-0.5),
        };
        let mask = Tensor::<2>::full([t, t], -1e30, &Device::flex()).triu(1).autodiff().unsqueeze::<4>();
        let fused = || pass(flex::attention(q.clone(), keys.clone(), values.clone(), None, spec.clone()));
        let composed = || {
            let heads = |x: &Tensor<3>| x.clone().reshape([b, t, h, k]).swap_dims(1, 2);
            let scores = heads(&q).matmul(heads(&keys).swap_dims(2, 3)) * spec.scale + mask.clone();
            pass(softmax(scores, 3).matmul(heads(&values)));
        };
        compare(c, "attention", format!("{b}x{t}x{h}x{k}"), fused, composed);
    }
}

fn token_nll(c: &mut Criterion) {
    for (d, v) in [(256, 4096), (512, 32_000)] {
        let (x, head) = (random([TOKENS, d]), random([v, d]));
        let targets = Tensor::<1, Int>::arange(0..TOKENS as i64, &Device::flex().autodiff());
        let fused = || pass(flex::token_nll(x.clone(), head.clone(), targets.clone()));
        let composed = || {
            let logits = x.clone().matmul(head.clone().transpose());
            pass(log_softmax(logits, 1).gather(1, targets.clone().reshape([TOKENS, 1])).neg());
        };
        compare(c, "token_nll", format!("{TOKENS}x{d}x{v}"), fused, composed);
    }
}

criterion_group!(benches, rms_norm, swiglu_mlp, lora_linear, attention, token_nll);
criterion_main!(benches);
