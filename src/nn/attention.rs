//! Grouped-query attention over padded batches, with and without a key-value cache.

// b batch, t queries, s keys, h heads, g heads per key-value head, v key-value heads, k head width
use super::norm::{cast_to, to_f32};
use super::rope::Rope;
use super::virtual_tokens::put_in_front;
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Tensor, TensorData};
use std::sync::Arc;

/// Where each row of a batch begins, and how many tokens a cache already holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceLayout {
    /// Absolute index of each row's first real token: above 0 under left padding.
    pub starts: Arc<[usize]>,
    /// Tokens before the first query, held by a cache.
    pub past: usize,
}

impl SequenceLayout {
    /// Rows that begin at index 0 (right padding or none): causality alone hides the padding from every real token.
    pub fn right_padded(rows: usize) -> Self {
        Self { starts: vec![0; rows].into(), past: 0 }
    }

    /// Rows that begin at `starts`.
    pub fn with_starts(starts: impl Into<Arc<[usize]>>) -> Self {
        Self { starts: starts.into(), past: 0 }
    }

    /// Position of tokens `first .. first + t` of every row, row-major: the distance from the row's first real token.
    pub(crate) fn positions(&self, rows: usize, first: usize, t: usize) -> Vec<i32> {
        let start = |b: usize| self.starts.get(b).copied().unwrap_or(0);
        (0..rows).flat_map(|b| (first..first + t).map(move |j| j.saturating_sub(start(b)) as i32)).collect()
    }
}

/// Shape and visibility of one attention operation.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionSpec {
    /// Query heads.
    pub heads: usize,
    /// Key-value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Whether a query sees only keys up to its own index.
    pub causal: bool,
    /// Index of each row's first visible key.
    pub starts: Arc<[usize]>,
    /// Keys before the first query.
    pub past: usize,
    /// Sliding window: key `j` is visible to query `i` only where `i - j < window`.
    pub window: Option<usize>,
    /// Factor on the scores.
    pub scale: f32,
}

/// `softmax(scale · QKᵀ) V` per head, softmax in f32.
///
/// With `rope`, queries and keys are rotated first (then `spec.past` must be 0). Outputs of queries before a row's
/// start are finite and meaningless.
///
/// # Shapes
/// `q`: `[b, t, h·k]`; `k`, `v`: `[b, s, kv_heads·k]`, `s = past + t` where causal; to `[b, t, h·k]`.
pub fn attention(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, rope: Option<&Rope>, spec: &AttentionSpec) -> Tensor<3> {
    #[cfg(feature = "cpu")]
    if super::fused(&q) {
        return super::flex::attention(q, k, v, rope.map(|r| r.table_pk.clone()), spec.clone());
    }
    let (q, k) = match rope {
        None => (q, k),
        Some(rope) => {
            let layout = SequenceLayout { starts: spec.starts.clone(), past: spec.past };
            (rope.rotate(q, spec.heads, &layout, spec.past), rope.rotate(k, spec.kv_heads, &layout, 0))
        }
    };
    composed(q, k, v, spec)
}

fn composed(q: Tensor<3>, k: Tensor<3>, v: Tensor<3>, spec: &AttentionSpec) -> Tensor<3> {
    let [b, t, _] = q.dims();
    let s = k.dims()[1];
    let (kv, hd) = (spec.kv_heads, spec.head_dim);
    let g = spec.heads / kv;
    let dtype = q.dtype();
    // Heads that share keys are stacked along the query axis, so that keys and values are never repeated.
    let q = q.reshape([b, t, kv, g, hd]).permute([0, 2, 3, 1, 4]).reshape([b, kv, g * t, hd]);
    let k = k.reshape([b, s, kv, hd]).swap_dims(1, 2);
    let v = v.reshape([b, s, kv, hd]).swap_dims(1, 2);
    let mut scores = to_f32(q.matmul(k.swap_dims(2, 3))) * spec.scale;
    if let Some(mask) = additive_mask(b, t, s, spec, &scores.device()) {
        let mask: Tensor<5> = mask.reshape([b, 1, 1, t, s]);
        scores = (scores.reshape([b, kv, g, t, s]) + mask).reshape([b, kv, g * t, s]);
    }
    let weights = cast_to(softmax(scores, 3), dtype);
    weights.matmul(v).reshape([b, kv, g, t, hd]).permute([0, 3, 1, 2, 4]).reshape([b, t, spec.heads * hd])
}

/// Large enough to vanish under softmax, small enough that a fully masked row stays finite.
const HIDDEN: f32 = -1e30;

fn additive_mask(b: usize, t: usize, s: usize, spec: &AttentionSpec, device: &Device) -> Option<Tensor<3>> {
    let starts = |row: usize| spec.starts.get(row).copied().unwrap_or(0);
    if !spec.causal && spec.window.is_none() && (0..b).all(|row| starts(row) == 0) {
        return None;
    }
    let mut mask = vec![0f32; b * t * s];
    for row in 0..b {
        for i in 0..t {
            let query = spec.past + i;
            let end = if spec.causal { query + 1 } else { s };
            let first = spec.window.map_or(0, |w| (query + 1).saturating_sub(w)).max(starts(row));
            let line = &mut mask[(row * t + i) * s..][..s];
            for (j, value) in line.iter_mut().enumerate() {
                if j < first || j >= end {
                    *value = HIDDEN;
                }
            }
        }
    }
    Some(Tensor::from_data(TensorData::new(mask, [b, t, s]), device))
}

/// Keys and values of one layer, rotated already.
#[derive(Clone, Debug, Default)]
pub struct LayerCache {
    held: Option<(Tensor<3>, Tensor<3>)>,
    front: Option<VirtualKeys>,
}

/// Trained keys and values that every row begins with, until the first tokens come.
#[derive(Clone, Debug)]
struct VirtualKeys {
    k_nw: Tensor<2>,
    v_nw: Tensor<2>,
    starts: Arc<[usize]>,
}

impl LayerCache {
    /// Whether no token has come yet.
    pub(crate) fn is_fresh(&self) -> bool {
        self.held.is_none()
    }

    /// Takes out what every row begins with: keys and values, `[n, kv_heads·k]` each, or nothing; and where rows begin.
    pub(crate) fn take_front(&mut self) -> (Vec<Tensor<2>>, Arc<[usize]>) {
        match self.front.take() {
            Some(VirtualKeys { k_nw, v_nw, starts }) => (vec![k_nw, v_nw], starts),
            None => (Vec::new(), Vec::new().into()),
        }
    }

    /// A cache before its first tokens that begins with what [`take_front`](Self::take_front) gave.
    pub(crate) fn beginning_with(front: &[Tensor<2>], starts: &Arc<[usize]>) -> Self {
        let front = match front {
            [k_nw, v_nw] => {
                Some(VirtualKeys { k_nw: k_nw.clone(), v_nw: v_nw.clone(), starts: starts.clone() })
            }
            _ => None,
        };
        Self { held: None, front }
    }

    /// Appends the keys and values of new tokens and returns everything held.
    ///
    /// # Shapes
    /// `[b, t, kv_heads·k]` each.
    pub fn append(&mut self, k: Tensor<3>, v: Tensor<3>) -> (Tensor<3>, Tensor<3>) {
        // Only now is it known which keys are padding, behind which the virtual ones go.
        let (k, v) = match self.front.take() {
            None => (k, v),
            Some(VirtualKeys { k_nw, v_nw, starts }) => {
                (put_in_front(k, k_nw, &starts), put_in_front(v, v_nw, &starts))
            }
        };
        let both = match self.held.take() {
            None => (k, v),
            Some((past_k, past_v)) => (Tensor::cat(vec![past_k, k], 1), Tensor::cat(vec![past_v, v], 1)),
        };
        self.held = Some(both.clone());
        both
    }
}

/// One [`LayerCache`] per layer of a decoder.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    /// The layers, first to last.
    pub layers: Vec<LayerCache>,
    /// Tokens held.
    pub length: usize,
}

impl KvCache {
    /// An empty cache for `layers` layers.
    pub fn new(layers: usize) -> Self {
        Self { layers: vec![LayerCache::default(); layers], length: 0 }
    }
    /// Begins every row with `n` virtual tokens. The first tokens that come after are given the layout
    /// `SequenceLayout { starts, past: n }`, those after them `past: n + t`.
    ///
    /// # Shapes
    /// `table_nw`: `[n, 2·layers·kv_heads·k]`, a layer's keys before its values; not rotated. `starts`: where the rows of
    /// the first tokens begin.
    pub fn prefill(&mut self, table_nw: Tensor<2>, starts: &Arc<[usize]>) {
        let [n, width] = table_nw.dims();
        let w = width / (2 * self.layers.len()).max(1);
        for (layer, cache) in self.layers.iter_mut().enumerate() {
            let part = |index: usize| table_nw.clone().narrow(1, (2 * layer + index) * w, w);
            cache.front = Some(VirtualKeys { k_nw: part(0), v_nw: part(1), starts: starts.clone() });
        }
        self.length += n;
    }
}
