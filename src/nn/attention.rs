//! Grouped-query attention over padded and packed batches, with and without a key-value cache.

// b batch, t queries, s keys, h heads, g heads per key-value head, v key-value heads, k head width
use super::rope::Rope;
use super::starts::Starts;
use burn::tensor::Tensor;
use std::ops::Range;

/// Where the segments of each row of a batch begin, and how many tokens a cache already holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceLayout {
    /// Absolute indices at which segments begin.
    pub starts: Starts,
    /// Tokens before the first query, held by a cache.
    pub past: usize,
}

impl SequenceLayout {
    /// Rows that begin at index 0 (right padding or none): causality alone hides the padding from every real token.
    pub fn right_padded(rows: usize) -> Self {
        Self { starts: vec![0; rows].into(), past: 0 }
    }

    /// Rows whose segments begin at `starts`; a list of numbers is one segment for each row.
    pub fn with_starts(starts: impl Into<Starts>) -> Self {
        Self { starts: starts.into(), past: 0 }
    }

    /// The same rows behind `n` tokens that belong to each one's first segment.
    pub fn behind(&self, n: usize) -> Self {
        Self { starts: self.starts.lengthened(n), past: self.past }
    }

    /// Number of positions that `t` tokens behind those of the cache reach: the tokens of the longest segment.
    pub fn positions_of(&self, t: usize) -> usize {
        self.starts.longest(self.past + t)
    }

    /// Position of tokens `first .. first + t` of every row, row-major: the distance from the beginning of its segment.
    pub(crate) fn positions(&self, rows: usize, first: usize, t: usize) -> Vec<i32> {
        let position = |b: usize, j: usize| j.saturating_sub(self.starts.segment(b, j, usize::MAX).start) as i32;
        (0..rows).flat_map(|b| (first..first + t).map(move |j| position(b, j))).collect()
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
    /// Where the segments of each row begin, among the keys.
    pub starts: Starts,
    /// Keys before the first query.
    pub past: usize,
    /// Sliding window: key `j` is visible to query `i` only where `i - j < window`.
    pub window: Option<usize>,
    /// Factor on the scores.
    pub scale: f32,
}

impl AttentionSpec {
    /// The keys that query `i` of a row sees, of `keys` in all: those of its segment, up to itself where that is causal, that
    /// its window reaches. Empty for left padding under causality.
    pub fn visible(&self, row: usize, i: usize, keys: usize) -> Range<usize> {
        self.visible_of(self.starts.segment(row, self.past + i, keys), i)
    }

    /// The keys of its segment that query `i` sees.
    pub(super) fn visible_of(&self, segment: Range<usize>, i: usize) -> Range<usize> {
        let index = self.past + i;
        let end = if self.causal { segment.end.min(index + 1) } else { segment.end };
        let oldest = self.window.map_or(0, |window| (index + 1).saturating_sub(window));
        let start = segment.start.max(oldest);
        start..end.max(start)
    }
}

/// `softmax(scale · QKᵀ) V` per head, softmax in f32.
///
/// With `rope`, queries and keys are rotated first (then `spec.past` must be 0). Outputs of queries before a row's
/// first segment are finite and meaningless.
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
    super::composed::attention(q, k, v, spec.clone())
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::{RopeConfig, RopeScaling};
    use super::*;
    use burn::tensor::{Device, TensorData};

    /// Both forms sum in f32 in different orders.
    const TOLERANCE: f32 = 2e-6;

    #[test]
    fn the_composed_form_reads_the_same_description() {
        let device = Device::flex();
        let values = |seed: usize, width: usize| {
            let value = |i: usize| ((i * 7 + seed) * 2_654_435_761 % 1_000_003) as f32 / 500_001.0 - 1.0;
            let data: Vec<f32> = (0..3 * 90 * width).map(value).collect();
            Tensor::<3>::from_data(TensorData::new(data, [3, 90, width]), &device)
        };
        let starts = Starts::of_rows([vec![0, 7, 8, 71], vec![4, 50], vec![0]]);
        let layout = SequenceLayout::with_starts(starts.clone());
        let config = RopeConfig { head_dim: 6, theta: 100.0, scaling: RopeScaling::Default };
        let rope = config.table(layout.positions_of(90), &device);
        for (causal, window) in [(true, None), (true, Some(9)), (false, None)] {
            let starts = starts.clone();
            let spec =
                AttentionSpec { heads: 4, kv_heads: 2, head_dim: 6, causal, starts, past: 0, window, scale: 0.4 };
            let [q, k, v] = [(1, 24), (2, 12), (3, 12)].map(|(seed, width)| values(seed, width));
            let fused = attention(q.clone(), k.clone(), v.clone(), Some(&rope), &spec);
            let (q, k) = (rope.rotate(q, 4, &layout, 0), rope.rotate(k, 2, &layout, 0));
            let difference = crate::nn::composed::attention(q, k, v, spec) - fused;
            // A query of the padding in front sees nothing; what it yields is not defined.
            let real = [0, 2].map(|row| difference.clone().narrow(0, row, 1));
            let padded = difference.slice([1..2, 4..90]);
            for part in real.into_iter().chain([padded]) {
                assert!(part.abs().max().into_scalar::<f32>() < TOLERANCE, "{causal} {window:?}");
            }
        }
    }
}
