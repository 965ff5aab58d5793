//! What an objective reads of a policy.

// s supervised tokens, r rows, d model width, v vocabulary, k outputs of a head
use crate::nn::{Predictor, Weights};
use burn::tensor::{Int, Tensor, TensorData};

/// What an objective over tokens needs besides their log-probabilities. What is not asked for is not computed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Wants {
    /// [`TokenLogProbs::normalizers`].
    pub normalizers: bool,
    /// [`TokenLogProbs::mean_logits`].
    pub mean_logits: bool,
    /// [`TokenLogProbs::entropies`].
    pub entropies: bool,
    /// [`TokenLogProbs::collisions`].
    pub collisions: bool,
    /// [`TokenLogProbs::correct`].
    pub correct: bool,
    /// [`TokenLogProbs::prompt`].
    pub prompt: bool,
    /// How the loss weighs the log-probabilities. [`Weights::Equal`] is a promise, which saves time where the head is
    /// trained.
    pub weights: Weights,
    /// NEFTune's α: in training, uniform noise in ±α/√(tokens·width) is added to the embeddings. 0 adds none.
    pub embedding_noise: f64,
}

/// Log-probabilities of the supervised tokens of a batch, in nats.
#[derive(Clone, Debug)]
pub struct TokenLogProbs {
    /// All rows' values one after another, `[s]`.
    pub values: Tensor<1>,
    /// Number of values of each row, `r` of them.
    pub per_row: Vec<usize>,
    /// The tokens, `s` of them.
    pub ids: Vec<u32>,
    /// Per token, the logarithm of the sum of the exponentials of all logits; differentiable, `[s]`.
    pub normalizers: Option<Tensor<1>>,
    /// Per token, the mean of all logits; differentiable, `[s]`.
    pub mean_logits: Option<Tensor<1>>,
    /// Per token, the entropy in nats of what the model expected there; without gradient, `[s]`.
    pub entropies: Option<Tensor<1>>,
    /// Per token, the logarithm of the sum of the squared probabilities; without gradient, `[s]`.
    pub collisions: Option<Tensor<1>>,
    /// Per token, whether it is the likeliest one.
    pub correct: Option<Vec<bool>>,
    /// Log-probabilities of the tokens before the answer, and how many each row has; differentiable.
    pub prompt: Option<(Tensor<1>, Vec<usize>)>,
}

impl TokenLogProbs {
    /// Log-probabilities and nothing else.
    pub fn new(values: Tensor<1>, per_row: Vec<usize>, ids: Vec<u32>) -> Self {
        Self {
            values,
            per_row,
            ids,
            normalizers: None,
            mean_logits: None,
            entropies: None,
            collisions: None,
            correct: None,
            prompt: None,
        }
    }

    /// Sums over each row's tokens, differentiable. # Shapes: `[r]`.
    pub fn sums(&self) -> Tensor<1> {
        sum_rows(self.values.clone(), &self.per_row)
    }

    /// Means over each row's tokens, differentiable; 0 for a row without any. # Shapes: `[r]`.
    pub fn means(&self) -> Tensor<1> {
        let share: Vec<f32> = self.per_row.iter().map(|&n| 1.0 / n.max(1) as f32).collect();
        self.sums() * Tensor::from_data(share.as_slice(), &self.values.device())
    }

    /// Sums over each row's tokens, each with a factor of its own, differentiable. # Shapes: `[r]`.
    pub fn weighted_sums(&self, weights: &[f32]) -> Tensor<1> {
        let weights = Tensor::from_data(weights, &self.values.device());
        sum_rows(self.values.clone() * weights, &self.per_row)
    }

    /// The tokens of one row.
    pub fn row_ids(&self, row: usize) -> &[u32] {
        let start: usize = self.per_row[..row].iter().sum();
        &self.ids[start..start + self.per_row[row]]
    }
}

/// Sums of consecutive runs of `values`. # Shapes: `[s]` to `[r]`.
pub fn sum_rows(values: Tensor<1>, per_row: &[usize]) -> Tensor<1> {
    let (rows, total) = (per_row.len(), per_row.iter().sum::<usize>());
    if total == 0 {
        return Tensor::zeros([rows], &values.device());
    }
    // One lookup in the values and a zero brings the rows to one length, whose sum does not depend on other rows.
    let longest = per_row.iter().copied().max().unwrap_or(0);
    let mut index = Vec::with_capacity(rows * longest);
    let mut start = 0;
    for &n in per_row {
        index.extend((start..start + n).map(|i| i as i32));
        index.resize(index.len() + longest - n, total as i32);
        start += n;
    }
    let device = values.device();
    let zero = Tensor::<1>::zeros([1], &device);
    let index = Tensor::<1, Int>::from_data(TensorData::new(index, [rows * longest]), &device);
    Tensor::cat(vec![values, zero], 0).select(0, index).reshape([rows, longest]).sum_dim(1).reshape([rows])
}

/// The scores of a sequence head, read at each row's last token.
#[derive(Clone, Debug)]
pub struct SequenceScores {
    /// `[r, k]`, f32, differentiable.
    pub values: Tensor<2>,
}

impl SequenceScores {
    /// The one score of each chosen and of each rejected row, differentiable. # Shapes: `[pairs]` each.
    pub fn pairs(&self) -> [Tensor<1>; 2] {
        let pairs = self.values.dims()[0] / 2;
        let sides = self.values.clone().reshape([pairs, 2]);
        [0, 1].map(|side| sides.clone().narrow(1, side, 1).reshape([pairs]))
    }
}

/// The scores of a token head, read at the last token of each step.
#[derive(Clone, Debug)]
pub struct TokenScores {
    /// All rows' values one after another, `[n, k]`, f32, differentiable.
    pub values: Tensor<2>,
    /// Number of steps of each row.
    pub per_row: Vec<usize>,
}

/// What a model expects at each supervised token, for distillation: the whole distribution, which is never held for all
/// tokens at once ([`divergence`](crate::nn::divergence)).
#[derive(Clone, Debug)]
pub struct Distributions {
    /// Hidden states, `[s, d]`, and the head that reads them, `[v, d]`; differentiable.
    pub predictor: Predictor,
    /// The tokens that stand there, `[s]`.
    pub ids: Tensor<1, Int>,
    /// Number of supervised tokens of each row.
    pub per_row: Vec<usize>,
}
