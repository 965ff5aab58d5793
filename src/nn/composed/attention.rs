//! Softmax attention in blocks of queries, forward and backward.
//!
//! A block holds the scores of its queries against the keys that at least one of them sees; the keys that none sees are
//! not touched, which under causality is almost half of them. Between the passes only the arguments, the output and the
//! log-sum-exp of each query stay. Query heads that share keys are rows of one product, so that keys and values are
//! never repeated. What is hidden inside a block is found from the indices of its first and last visible keys; a block
//! that sees all its keys has no mask.
//!
//! Not burn's own kernels: in 0.23.0-pre.1 what runs without a gradient multiplies f16 tiles whatever its arguments are, and
//! what autodiff records gave another gradient of the keys than the formula has, where it was tried (grouped queries, 40
//! causal tokens, f32, through wgpu on Mesa's CPU driver; output and gradient of the queries agreed).

// b batch, t queries, s keys, h heads, g heads per key-value head, v key-value heads, k head width, n keys of a block
use super::ops::{along, cast, part, shaped, wide};
use crate::nn::AttentionSpec;
use burn::backend::{
    Backend, TensorMetadata, get_or_init_device_settings,
    tensor::{BoolTensor, FloatTensor, IntTensor},
};
use burn::tensor::{DType, Shape, TensorData};
use std::{ops::Range, sync::Arc};

/// Queries in a causal block: shorter ones skip little more and cost launches.
const ROWS: usize = 256;

/// Blocks of a long causal sequence, beyond which skipping saves little (one of eight has 56% of the scores, one of
/// infinitely many 50%).
const BLOCKS: usize = 8;

/// Scores that a block may hold: 128 MiB of f32, beside two or three times as much in the backward pass.
const HELD: usize = 1 << 25;

/// Hides a score; finite, so that a difference of two is not NaN.
const HIDDEN: f32 = -1e30;

/// Below every sum that has a visible key, where the largest term is 1.
const NOTHING: f32 = 1e-30;

/// What the backward pass needs.
#[derive(Clone, Debug)]
pub(super) struct AttentionKept<B: Backend> {
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    /// The output.
    pub(super) o: FloatTensor<B>,
    /// Of the scaled scores, by block: `[b, v, g, rows, 1]`, f32.
    lse: Vec<FloatTensor<B>>,
    plan: Plan<B>,
}

/// Which gradients are asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) q: bool,
    pub(super) k: bool,
    pub(super) v: bool,
}

/// Gradients of the arguments, those that were asked for.
pub(super) struct AttentionGradients<B: Backend> {
    pub(super) q: Option<FloatTensor<B>>,
    pub(super) k: Option<FloatTensor<B>>,
    pub(super) v: Option<FloatTensor<B>>,
}

/// Queries that are computed together.
#[derive(Clone, Debug, PartialEq)]
struct Block {
    queries: Range<usize>,
    /// What at least one of them sees.
    keys: Range<usize>,
    /// Whether each of them sees all of it.
    clear: bool,
}

/// The blocks, and what hides keys inside them.
#[derive(Clone, Debug)]
struct Plan<B: Backend> {
    spec: Arc<AttentionSpec>,
    size: Size,
    blocks: Vec<Block>,
    /// First visible key of every query, `[b, t]`; none where it is 0 everywhere.
    first_bt: Option<IntTensor<B>>,
    /// Last visible key of every query where not causality sets it; none where it is the last of all.
    last_bt: Option<IntTensor<B>>,
}

#[derive(Clone, Copy, Debug)]
struct Size {
    b: usize,
    t: usize,
    s: usize,
}

fn blocks(spec: &AttentionSpec, size: Size) -> Vec<Block> {
    let Size { b, t, s } = size;
    let budget = (HELD / (b * spec.heads * s).max(1)).max(1);
    let skips = spec.causal || spec.window.is_some();
    let rows = if skips { budget.min(ROWS.max(t.div_ceil(BLOCKS))) } else { budget };
    let block = |start: usize| {
        let queries = start..(start + rows).min(t);
        let each = || (0..b).flat_map(|row| queries.clone().map(move |i| (row, i)));
        let seen = || each().map(|(row, i)| spec.visible(row, i, s)).filter(|keys| !keys.is_empty());
        let end = seen().map(|keys| keys.end).max().unwrap_or(1);
        let first = seen().map(|keys| keys.start).min().unwrap_or(0);
        let clear = each().all(|(row, i)| spec.visible(row, i, s) == (first..end));
        Block { queries: queries.clone(), keys: first..end, clear }
    };
    (0..t).step_by(rows).map(block).collect()
}

impl<B: Backend> Plan<B> {
    fn new(spec: AttentionSpec, size: Size, device: &B::Device) -> Self {
        let Size { b, t, s } = size;
        let seen: Vec<Range<usize>> =
            (0..b).flat_map(|row| (0..t).map(move |i| (row, i))).map(|(row, i)| spec.visible(row, i, s)).collect();
        let dtype = get_or_init_device_settings::<B>(device).int_dtype;
        let upload = |index: &dyn Fn(&Range<usize>) -> usize| {
            let values: Vec<i32> = seen.iter().map(|keys| index(keys) as i32).collect();
            B::int_from_data(TensorData::new(values, [b, t]).convert_dtype(dtype.into()), device)
        };
        let first_bt = seen.iter().any(|keys| keys.start > 0).then(|| upload(&|keys| keys.start));
        // Causality needs none: what ends before a query itself is empty, and begins behind it.
        let ends = !spec.causal && seen.iter().any(|keys| keys.end < s);
        let last_bt = ends.then(|| upload(&|keys| keys.end.saturating_sub(1)));
        Self { blocks: blocks(&spec, size), spec: Arc::new(spec), size, first_bt, last_bt }
    }

    fn groups(&self) -> usize {
        self.spec.heads / self.spec.kv_heads
    }

    /// Where a block's scores are hidden, `[b, v, g, rows, n]`.
    fn hidden(&self, block: &Block, device: &B::Device) -> Option<BoolTensor<B>> {
        if block.clear {
            return None;
        }
        let settings = get_or_init_device_settings::<B>(device);
        let (rows, n) = (block.queries.len(), block.keys.len());
        // Uploaded: burn's range is two kernels, a constant and its running sum.
        let indices = |range: Range<usize>| {
            let values: Vec<i32> = range.map(|index| index as i32).collect();
            let shape = [values.len()];
            B::int_from_data(TensorData::new(values, shape).convert_dtype(settings.int_dtype.into()), device)
        };
        let keys = B::int_reshape(indices(block.keys.clone()), Shape::new([1, 1, n]));
        let of_queries = |index_bt: IntTensor<B>| {
            let index_bt = match along(&index_bt.shape(), 1, block.queries.clone()) {
                None => index_bt,
                Some(slices) => B::int_slice(index_bt, &slices),
            };
            B::int_reshape(index_bt, Shape::new([self.size.b, rows, 1]))
        };
        let last = if self.spec.causal {
            let past = self.spec.past;
            let last = indices(past + block.queries.start..past + block.queries.end);
            Some(B::int_reshape(last, Shape::new([1, rows, 1])))
        } else {
            self.last_bt.clone().map(of_queries)
        };
        let later = last.map(|last| B::int_greater(keys.clone(), last, settings.bool_dtype));
        let first = self.first_bt.clone().map(of_queries);
        let earlier = first.map(|first| B::int_lower(keys, first, settings.bool_dtype));
        let hidden = match (later, earlier) {
            (Some(later), Some(earlier)) => {
                let wide = Shape::new([self.size.b, rows, n]);
                B::bool_or(B::bool_expand(later, wide), earlier)
            }
            (later, earlier) => later.or(earlier)?,
        };
        let like = hidden.shape()[0];
        let hidden = B::bool_reshape(hidden, Shape::new([like, 1, 1, rows, n]));
        Some(B::bool_expand(hidden, Shape::new([self.size.b, self.spec.kv_heads, self.groups(), rows, n])))
    }

    /// A block of queries, heads that share keys stacked: `[b, rows, h·k]` to `[b, v, g·rows, k]`.
    fn stacked(&self, x: FloatTensor<B>, block: &Block) -> FloatTensor<B> {
        let (b, v, g, k) = (self.size.b, self.spec.kv_heads, self.groups(), self.spec.head_dim);
        let rows = block.queries.len();
        let x = shaped::<B, 5>(part::<B>(x, 1, block.queries.clone()), [b, rows, v, g, k]);
        shaped::<B, 4>(B::float_permute(x, &[0, 2, 3, 1, 4]), [b, v, g * rows, k])
    }

    /// The way back.
    fn unstacked(&self, x: FloatTensor<B>, block: &Block) -> FloatTensor<B> {
        let (b, v, g, k) = (self.size.b, self.spec.kv_heads, self.groups(), self.spec.head_dim);
        let rows = block.queries.len();
        let x = B::float_permute(shaped::<B, 5>(x, [b, v, g, rows, k]), &[0, 3, 1, 2, 4]);
        shaped::<B, 3>(x, [b, rows, self.spec.heads * k])
    }

    /// Keys or values by head: `[b, s, v·k]` to `[b, v, s, k]`, a view.
    fn by_head(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let x = shaped::<B, 4>(x, [self.size.b, self.size.s, self.spec.kv_heads, self.spec.head_dim]);
        B::float_swap_dims(x, 1, 2)
    }

    /// The way back.
    fn by_token(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let width = self.spec.kv_heads * self.spec.head_dim;
        shaped::<B, 3>(B::float_swap_dims(x, 1, 2), [self.size.b, self.size.s, width])
    }

    /// `[b, v, g·rows, n]` to `[b, v, g, rows, n]` and the other way: rows of one product, and rows of heads.
    fn rows_of_heads(&self, x: FloatTensor<B>, block: &Block) -> FloatTensor<B> {
        let n = x.shape()[3];
        shaped::<B, 5>(x, [self.size.b, self.spec.kv_heads, self.groups(), block.queries.len(), n])
    }

    fn rows_of_product(&self, x: FloatTensor<B>) -> FloatTensor<B> {
        let [b, v, g, rows, n] = x.shape().dims::<5>();
        shaped::<B, 4>(x, [b, v, g * rows, n])
    }

    /// Scaled scores of a block, `[b, v, g, rows, n]`, f32.
    fn scores(&self, q: FloatTensor<B>, k: FloatTensor<B>, block: &Block) -> FloatTensor<B> {
        let k = part::<B>(k, 2, block.keys.clone());
        let scores = wide::<B>(B::float_matmul(q, B::float_swap_dims(k, 2, 3)));
        B::float_mul_scalar(self.rows_of_heads(scores, block), self.spec.scale.into())
    }
}

fn filled<B: Backend>(x: FloatTensor<B>, hidden: &Option<BoolTensor<B>>, value: f32) -> FloatTensor<B> {
    match hidden {
        None => x,
        Some(hidden) => B::float_mask_fill(x, hidden.clone(), value.into()),
    }
}

/// `softmax(scale·q·kᵀ)·v` per head.
pub(super) fn forward<B: Backend>(
    q: FloatTensor<B>,
    k: FloatTensor<B>,
    v: FloatTensor<B>,
    spec: AttentionSpec,
) -> AttentionKept<B> {
    let ([b, t, _], s, device, dtype) = (q.shape().dims::<3>(), k.shape()[1], q.device(), q.dtype());
    let plan = Plan::<B>::new(spec, Size { b, t, s }, &device);
    let (k_heads, v_heads) = (plan.by_head(k.clone()), plan.by_head(v.clone()));
    let (mut parts, mut lse) = (Vec::new(), Vec::new());
    for block in &plan.blocks {
        let hidden = plan.hidden(block, &device);
        let scores = plan.scores(plan.stacked(q.clone(), block), k_heads.clone(), block);
        let scores = filled::<B>(scores, &hidden, HIDDEN);
        let top = B::float_max_dim(scores.clone(), 4);
        // Where a query sees nothing, the largest score is a hidden one.
        let p = filled::<B>(B::float_exp(B::float_sub(scores, top.clone())), &hidden, 0.0);
        let sum = B::float_clamp_min(B::float_sum_dim(p.clone(), 4), NOTHING.into());
        let p = plan.rows_of_product(cast::<B>(p, dtype));
        let values = B::float_matmul(p, part::<B>(v_heads.clone(), 2, block.keys.clone()));
        // Divided after the product: it has k columns, the weights have n.
        let o = B::float_div(plan.rows_of_heads(wide::<B>(values), block), sum.clone());
        parts.push(plan.unstacked(cast::<B>(plan.rows_of_product(o), dtype), block));
        lse.push(B::float_add(top, B::float_log(sum)));
    }
    let o = if parts.len() == 1 { parts.remove(0) } else { B::float_cat(parts, 1) };
    AttentionKept { q, k, v, o, lse, plan }
}

/// The sum of the parts of a gradient that blocks of queries have of all keys.
struct Sum<B: Backend> {
    /// `[b, v, s, k]`, f32.
    whole: Option<FloatTensor<B>>,
    shape: Shape,
}

impl<B: Backend> Sum<B> {
    fn new(shape: Shape) -> Self {
        Self { whole: None, shape }
    }

    fn add(&mut self, x: FloatTensor<B>, keys: &Range<usize>, device: &B::Device) {
        let x = wide::<B>(x);
        let slices = along(&self.shape, 2, keys.clone());
        self.whole = Some(match (self.whole.take(), slices) {
            (None, None) => x,
            (Some(sum), None) => B::float_add(sum, x),
            (None, Some(slices)) => {
                let zeros = B::float_zeros(self.shape.clone(), device, burn::tensor::FloatDType::F32);
                B::float_slice_assign(zeros, &slices, x)
            }
            (Some(sum), Some(slices)) => {
                let part = B::float_add(B::float_slice(sum.clone(), &slices), x);
                B::float_slice_assign(sum, &slices, part)
            }
        });
    }

    fn finish(self, plan: &Plan<B>, dtype: DType) -> Option<FloatTensor<B>> {
        self.whole.map(|whole| plan.by_token(cast::<B>(whole, dtype)))
    }
}

/// The gradients of `q`, `k` and `v`; scores are computed again, block by block.
pub(super) fn backward<B: Backend>(
    kept: AttentionKept<B>,
    upstream: FloatTensor<B>,
    wanted: Wanted,
) -> AttentionGradients<B> {
    let AttentionKept { q, k, v, o, lse, plan } = kept;
    let (device, dtype, scale) = (q.device(), q.dtype(), plan.spec.scale);
    let Size { b, t, s } = plan.size;
    let (heads, width) = (plan.spec.heads, plan.spec.head_dim);
    let (k_heads, v_heads) = (plan.by_head(k), plan.by_head(v));
    let shape = Shape::new([b, plan.spec.kv_heads, s, width]);
    // Each query's upstream gradient along its output.
    let delta = B::float_mul(wide::<B>(upstream.clone()), wide::<B>(o));
    let delta = B::float_sum_dim(shaped::<B, 4>(delta, [b, t, heads, width]), 3);
    let delta = B::float_permute(shaped::<B, 5>(delta, [b, t, plan.spec.kv_heads, plan.groups(), 1]), &[0, 2, 3, 1, 4]);
    let (mut dq, mut dk, mut dv) = (Vec::new(), Sum::<B>::new(shape.clone()), Sum::<B>::new(shape));
    // The last block first: under causality it sees every key, and the sums begin whole.
    for (block, lse) in plan.blocks.iter().zip(lse).rev() {
        let hidden = plan.hidden(block, &device);
        let (rows_q, rows_do) = (plan.stacked(q.clone(), block), plan.stacked(upstream.clone(), block));
        let scores = plan.scores(rows_q.clone(), k_heads.clone(), block);
        let p = filled::<B>(B::float_exp(B::float_sub(scores, lse)), &hidden, 0.0);
        if wanted.v {
            let p = plan.rows_of_product(cast::<B>(p.clone(), dtype));
            dv.add(B::float_matmul(B::float_swap_dims(p, 2, 3), rows_do.clone()), &block.keys, &device);
        }
        if !wanted.q && !wanted.k {
            continue;
        }
        let values = part::<B>(v_heads.clone(), 2, block.keys.clone());
        let dp = plan.rows_of_heads(wide::<B>(B::float_matmul(rows_do, B::float_swap_dims(values, 2, 3))), block);
        let ds = B::float_mul(p, B::float_sub(dp, part::<B>(delta.clone(), 3, block.queries.clone())));
        let ds = plan.rows_of_product(cast::<B>(B::float_mul_scalar(ds, scale.into()), dtype));
        if wanted.q {
            let keys = part::<B>(k_heads.clone(), 2, block.keys.clone());
            dq.push(plan.unstacked(B::float_matmul(ds.clone(), keys), block));
        }
        if wanted.k {
            dk.add(B::float_matmul(B::float_swap_dims(ds, 2, 3), rows_q), &block.keys, &device);
        }
    }
    dq.reverse();
    let dq = match dq.len() {
        0 => None,
        1 => dq.pop(),
        _ => Some(B::float_cat(dq, 1)),
    };
    AttentionGradients { q: dq, k: dk.finish(&plan, dtype), v: dv.finish(&plan, dtype) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(causal: bool, starts: Vec<usize>, past: usize) -> AttentionSpec {
        AttentionSpec {
            heads: 2,
            kv_heads: 1,
            head_dim: 4,
            causal,
            starts: starts.into(),
            past,
            window: None,
            scale: 0.5,
        }
    }

    #[test]
    fn blocks_skip_what_causality_and_padding_hide() {
        let size = Size { b: 2, t: 600, s: 600 };
        let found = blocks(&spec(true, vec![300, 310], 0), size);
        let ranges: Vec<_> = found.iter().map(|block| (block.queries.clone(), block.keys.clone())).collect();
        assert_eq!(ranges, [(0..256, 0..1), (256..512, 300..512), (512..600, 300..600)]);
        assert!(found.iter().all(|block| !block.clear));
        let all = blocks(&spec(false, vec![0, 0], 0), Size { b: 2, t: 600, s: 700 });
        assert_eq!(all, [Block { queries: 0..600, keys: 0..700, clear: true }]);
    }

    #[test]
    fn a_block_holds_no_more_scores_than_the_budget() {
        let size = Size { b: 4, t: 8192, s: 8192 };
        let spec = AttentionSpec { heads: 32, ..spec(true, vec![], 0) };
        let most = blocks(&spec, size).iter().map(|block| 4 * 32 * block.queries.len() * block.keys.len()).max();
        assert!(most.unwrap() <= HELD);
    }
}
