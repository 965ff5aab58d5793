//! Attention and the likelihood of tokens.

use super::*;
use crate::nn::Starts;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

/// Which of a row's segments token `j` is in, counted from 1; 0 for left padding.
fn segment_of(spec: &AttentionSpec, row: usize, j: usize) -> usize {
    spec.starts.of(row).iter().filter(|&&start| start <= j).count()
}

/// The rotate-half form on `[b, h, s, k]`, with the position of each index per row of the batch.
fn rotate(x: Tensor<4>, rope: &Tensor<2>, spec: &AttentionSpec) -> Tensor<4> {
    let [b, h, s, k] = x.dims();
    let positions: Vec<i32> = (0..b)
        .flat_map(|row| (0..s).map(move |j| (row, j)))
        .map(|(row, j)| match segment_of(spec, row, j) {
            0 => 0,
            segment => (j - spec.starts.of(row)[segment - 1]) as i32,
        })
        .collect();
    let device = x.device();
    let positions = Tensor::<1, Int>::from_data(TensorData::new(positions, [b * s]), &device);
    let rope = Tensor::<2>::from_data(rope.to_data(), &device);
    let table = rope.select(0, positions).reshape([b, 1, s, k]).expand([b, h, s, k]);
    let half = |x: &Tensor<4>, i: usize| x.clone().narrow(3, i * k / 2, k / 2);
    let (cos, sin, left, right) = (half(&table, 0), half(&table, 1), half(&x, 0), half(&x, 1));
    let first = left.clone() * cos.clone() - right.clone() * sin.clone();
    Tensor::cat(vec![first, right * cos + left * sin], 3)
}

/// Attention composed of burn's operations, with every score in memory.
fn composed(qkv: &[Tensor<3>], rope: Option<&Tensor<2>>, spec: &AttentionSpec) -> Tensor<3> {
    let ([b, t, _], [_, s, _]) = (qkv[0].dims(), qkv[1].dims());
    let (k, group) = (spec.head_dim, spec.heads / spec.kv_heads);
    let split = |x: &Tensor<3>, n, h: usize| x.clone().reshape([b, n, h, k]).swap_dims(1, 2);
    let repeat = |x: Tensor<4>| {
        let x = x.reshape([b, spec.kv_heads, 1, s * k]).expand([b, spec.kv_heads, group, s * k]);
        x.reshape([b, spec.heads, s, k])
    };
    let (mut q, mut keys) = (split(&qkv[0], t, spec.heads), split(&qkv[1], s, spec.kv_heads));
    if let Some(rope) = rope {
        (q, keys) = (rotate(q, rope, spec), rotate(keys, rope, spec));
    }
    let (keys, values) = (repeat(keys), repeat(split(&qkv[2], s, spec.kv_heads)));
    let mut visible = vec![0f32; b * t * s];
    for (index, visible) in visible.iter_mut().enumerate() {
        let (row, i, j) = (index / (t * s), spec.past + index / s % t, index % s);
        let inside = spec.window.is_none_or(|window| (i as isize - j as isize) < window as isize);
        let together = segment_of(spec, row, i).max(1) == segment_of(spec, row, j);
        *visible = f32::from(u8::from(inside && together && (!spec.causal || j <= i)));
    }
    let visible = Tensor::from_data(TensorData::new(visible, [b, 1, t, s]), &q.device());
    let scores = q.matmul(keys.swap_dims(2, 3)) * spec.scale;
    let hidden = (visible.clone() - 1.0) * 1e9;
    let p = activation::softmax(scores + hidden, 3) * visible;
    p.matmul(values).swap_dims(1, 2).reshape([b, t, spec.heads * k])
}

fn spec(heads: usize, kv_heads: usize, head_dim: usize) -> AttentionSpec {
    let scale = (head_dim as f32).powf(-0.5);
    let starts = Starts::default();
    AttentionSpec { heads, kv_heads, head_dim, causal: true, starts, past: 0, window: None, scale }
}

fn check_attention(name: &str, b: usize, t: usize, spec: &AttentionSpec, rotate: bool) {
    let s = spec.past + t;
    let (q_width, kv_width) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
    let qkv = [values([b, t, q_width], 1) * 2.0, values([b, s, kv_width], 2) * 2.0, values([b, s, kv_width], 3)];
    let angles = values([s.max(1), spec.head_dim / 2], 4) * 3.0;
    let rope = rotate.then(|| Tensor::cat(vec![angles.clone().cos(), angles.sin()], 1));
    super::check(
        name,
        &qkv,
        |x| attention(x[0].clone(), x[1].clone(), x[2].clone(), rope.clone(), spec.clone()),
        |x| composed(x, rope.as_ref(), spec),
    );
}

#[test]
fn causal_attention_matches_the_composed_form() {
    for (b, t, heads, kv_heads, head_dim) in
        [(1, 1, 1, 1, 4), (2, 17, 3, 3, 6), (1, 65, 4, 2, 80), (3, 130, 6, 2, 16), (1, 64, 2, 1, 32)]
    {
        for rotate in [false, true] {
            let name = format!("b {b} t {t} h {heads}/{kv_heads} k {head_dim} rope {rotate}");
            check_attention(&name, b, t, &spec(heads, kv_heads, head_dim), rotate);
        }
    }
}

#[test]
fn attention_obeys_padding_window_past_and_direction() {
    let padded = AttentionSpec { starts: Starts::from([0, 3, 70, 99]), ..spec(4, 2, 6) };
    check_attention("left padding", 4, 99, &padded, true);
    check_attention("left padding, no rope", 4, 99, &padded, false);
    let window = AttentionSpec { window: Some(5), ..padded.clone() };
    check_attention("window and padding", 4, 99, &window, true);
    let wide = AttentionSpec { starts: Starts::from([0, 3, 70, 129]), ..spec(4, 2, 20) };
    check_attention("left padding, wide heads", 4, 130, &wide, true);
    let wide = AttentionSpec { window: Some(45), causal: false, ..wide };
    check_attention("window and padding, wide heads", 4, 130, &wide, false);
    let past = AttentionSpec { past: 100, ..spec(2, 1, 32) };
    check_attention("many queries after a cache", 2, 70, &past, false);
    let window = AttentionSpec { window: Some(70), ..spec(2, 1, 8) };
    check_attention("window over a block", 1, 150, &window, true);
    for past in [1, 40, 100] {
        let past = AttentionSpec { past, ..spec(4, 2, 8) };
        check_attention("one query after a cache", 2, 1, &past, false);
        check_attention("several queries after a cache", 2, 66, &past, false);
    }
    let past = AttentionSpec { past: 90, window: Some(7), starts: Starts::from([4, 88]), ..spec(2, 2, 4) };
    check_attention("cache, window and padding", 2, 3, &past, false);
    for t in [1, 17, 65] {
        let both = AttentionSpec { causal: false, ..spec(3, 3, 10) };
        check_attention("not causal", 2, t, &both, false);
        let padded = AttentionSpec { starts: Starts::from([0, 1]), ..both };
        check_attention("not causal, padded", 2, t, &padded, true);
    }
}

#[test]
fn rows_of_several_segments_match_a_mask() {
    let rows = [vec![0, 5, 6, 70, 140], vec![], vec![3, 64, 128], vec![0, 149]];
    let packed = AttentionSpec { starts: Starts::of_rows(rows), ..spec(4, 2, 6) };
    check_attention("packed", 4, 150, &packed, true);
    check_attention("packed, no rope", 4, 150, &packed, false);
    let window = AttentionSpec { window: Some(7), ..packed.clone() };
    check_attention("packed, window", 4, 150, &window, true);
    let both = AttentionSpec { causal: false, ..packed };
    check_attention("packed, not causal", 4, 150, &both, true);
    let past = AttentionSpec { past: 20, starts: Starts::of_rows([vec![0, 33], vec![2, 60]]), ..spec(2, 1, 4) };
    check_attention("keys in front, padding behind", 2, 45, &past, false);
}

#[test]
fn any_row_matches_a_mask() {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for case in 0..40 {
        let (b, t) = (rng.random_range(1..4), rng.random_range(1..200));
        let kv_heads = rng.random_range(1..4);
        let heads = kv_heads * rng.random_range(1..4);
        let mut row = || {
            let mut starts: Vec<usize> = (0..rng.random_range(1..8)).map(|_| rng.random_range(0..t)).collect();
            starts.sort_unstable();
            starts.dedup();
            starts
        };
        let starts = Starts::of_rows((0..b).map(|_| row()).collect::<Vec<_>>());
        let window = rng.random_bool(0.5).then(|| rng.random_range(1..t + 2));
        let causal = rng.random_bool(0.7);
        let head_dim = 2 * rng.random_range(1..9);
        let spec = AttentionSpec { starts, window, causal, ..spec(heads, kv_heads, head_dim) };
        check_attention(&format!("case {case}, t {t}, {spec:?}"), b, t, &spec, rng.random_bool(0.5));
    }
}

#[test]
fn a_segment_has_the_same_bits_alone_and_among_others() {
    let (lengths, head_dim) = ([3, 90, 64, 1, 37], 8);
    let (t, own) = (lengths.iter().sum::<usize>(), spec(4, 2, head_dim));
    let qkv = [values([1, t, 32], 1), values([1, t, 16], 2), values([1, t, 16], 3)];
    let rope = values([t, head_dim], 4);
    let mut starts = vec![0];
    lengths[..4].iter().for_each(|n| starts.push(starts[starts.len() - 1] + n));
    let packed = AttentionSpec { starts: Starts::of_rows([starts.clone()]), ..own.clone() };
    let run = |qkv: &[Tensor<3>], spec: &AttentionSpec| {
        let inputs: Vec<_> = qkv.iter().map(tracked).collect();
        let [q, k, v] = [0, 1, 2].map(|i| inputs[i].clone());
        let y = attention(q, k, v, Some(rope.clone()), spec.clone());
        let gradients = y.clone().powi_scalar(2).sum().backward();
        let gradients = inputs.iter().map(|x| vec(x.grad(&gradients).unwrap())).collect::<Vec<_>>();
        (vec(y.inner()), gradients)
    };
    let (value, gradients) = run(&qkv, &packed);
    for (&start, n) in starts.iter().zip(lengths) {
        let alone = qkv.clone().map(|x| x.narrow(1, start, n));
        let (own_value, own_gradients) = run(&alone, &own);
        let part = |all: &[f32], width: usize| all[start * width..(start + n) * width].to_vec();
        assert!(part(&value, 32) == own_value, "the segment at {start}");
        for (i, width) in [32, 16, 16].into_iter().enumerate() {
            assert!(part(&gradients[i], width) == own_gradients[i], "gradient {i} of the segment at {start}");
        }
    }
}

#[test]
fn a_query_without_keys_gives_zeros_and_takes_no_gradient() {
    let spec = AttentionSpec { starts: Starts::from([3]), ..spec(1, 1, 4) };
    let [q, k, v] = [1, 2, 3].map(|seed| tracked(&values([1, 5, 4], seed)));
    let y = attention(q.clone(), k.clone(), v.clone(), None, spec);
    assert_eq!(vec(y.clone().inner())[..12], [0.0; 12]);
    let gradients = y.sum().backward();
    for x in [q, k, v] {
        let gradient = vec(x.grad(&gradients).unwrap());
        assert_eq!(gradient[..12], [0.0; 12]);
        assert!(gradient.iter().all(|g| g.is_finite()));
    }
}

#[test]
fn attention_reads_slices_of_a_cache_and_of_a_joint_projection() {
    let cache = values([2, 50, 8], 1);
    let spec = AttentionSpec { past: 29, ..spec(4, 2, 4) };
    let joint = values([2, 1, 24], 2);
    let q = joint.narrow(2, 5, 16);
    let (k, v) = (cache.clone().narrow(1, 3, 30), cache.narrow(1, 7, 30));
    let copies = [&q, &k, &v].map(|x| Tensor::<3>::from_data(x.to_data(), &device()));
    let expected = vec(composed(&copies, None, &spec));
    assert_close("cache", &vec(attention(q, k, v, None, spec)), &expected, TOLERANCE);
}

fn targets(n: usize, v: usize, device: &Device) -> Tensor<1, Int> {
    let data: Vec<i32> = (0..n).map(|i| ((i * 7 + 3) % v) as i32).collect();
    Tensor::from_data(TensorData::new(data, [n]), device)
}

fn composed_nll(hidden: Tensor<2>, head: Tensor<2>, targets: Tensor<1, Int>) -> Tensor<1> {
    let [n, _] = hidden.dims();
    let logprobs = activation::log_softmax(hidden.matmul(head.transpose()), 1);
    logprobs.gather(1, targets.reshape([n, 1])).neg().reshape([n])
}

#[test]
fn token_nll_matches_the_composed_form() {
    // The last one spans several chunks: 131,073 classes leave 64 rows to a chunk.
    for (n, d, v) in [(1, 3, 2), (70, 20, 77), (300, 33, 1000), (66, 3, 131_073)] {
        let inputs = [values([n, d], 1) * 2.0, values([v, d], 2)];
        let device = |x: &Tensor<2>| targets(n, v, &x.device());
        // Rows of unequal weight: the head's gradient is made anew.
        super::check(
            &format!("token_nll {n}x{d}x{v}"),
            &inputs,
            |x| token_nll(x[0].clone(), x[1].clone(), device(&x[0])),
            |x| composed_nll(x[0].clone(), x[1].clone(), device(&x[0])),
        );
        // A mean, as in training: the gradient of the forward pass is scaled.
        super::check(
            &format!("mean token_nll {n}x{d}x{v}"),
            &inputs,
            |x| token_nll(x[0].clone(), x[1].clone(), device(&x[0])).mean() * 3.0,
            |x| composed_nll(x[0].clone(), x[1].clone(), device(&x[0])).mean() * 3.0,
        );
    }
}

#[test]
fn token_nll_of_nothing_is_empty_and_extreme_logits_stay_finite() {
    let head = values([9, 4], 1);
    let none = Tensor::<2>::zeros([1, 4], &device()).slice([0..0, 0..4]);
    assert_eq!(token_nll(none, head.clone(), targets(0, 9, &device())).dims(), [0]);
    let hidden = values([3, 4], 2) * 1e6;
    let nll = vec(token_nll(hidden, head, targets(3, 9, &device())));
    assert!(nll.iter().all(|nll| nll.is_finite() && *nll >= 0.0), "{nll:?}");
}

#[test]
#[should_panic(expected = "target 9 is outside the 9 classes")]
fn token_nll_names_a_target_that_the_head_does_not_know() {
    let target = Tensor::<1, Int>::from_ints([9], &device());
    token_nll(values([1, 4], 1), values([9, 4], 2), target);
}

#[test]
fn token_stats_match_the_composed_form() {
    let (n, d, v) = (70, 20, 333);
    let (hidden, head, targets) = (values([n, d], 1), values([v, d], 2), targets(n, v, &device()));
    let on_autodiff = Tensor::from_data(targets.to_data(), &device().autodiff());
    let stats = crate::nn::token_stats(tracked(&hidden), head.clone(), on_autodiff);
    let argmax = hidden.clone().matmul(head.clone().transpose()).argmax(1).reshape([n]);
    assert!(stats.argmax.equal(argmax).all().into_scalar::<bool>());
    let expected = vec(composed_nll(hidden, head, targets).neg());
    assert_close("logprobs", &vec(stats.log_probs), &expected, TOLERANCE);
}
