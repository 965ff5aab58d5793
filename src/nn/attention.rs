//! Grouped-query attention over padded batches, with and without a key-value cache.

// b batch, t queries, s keys, h heads, g heads per key-value head, v key-value heads, k head width
use super::rope::Rope;
use super::virtual_tokens::put_in_front;
use burn::tensor::Tensor;
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
    #[cfg(feature = "cuda")]
    if super::flash::serves(&q, spec) {
        return super::flash::attention(q, k, v, spec);
    }
    super::composed::attention(q, k, v, spec.clone())
}

impl AttentionSpec {
    /// The first key that query `i` of batch row `row` sees, were there any.
    pub(crate) fn first_visible(&self, row: usize, i: usize) -> usize {
        let oldest = self.window.map_or(0, |window| (self.past + i + 1).saturating_sub(window));
        self.starts.get(row).copied().unwrap_or(0).max(oldest)
    }

    /// One past the last key that query `i` sees, of `keys` in all.
    pub(crate) fn visible_end(&self, i: usize, keys: usize) -> usize {
        if self.causal { keys.min(self.past + i + 1) } else { keys }
    }
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
