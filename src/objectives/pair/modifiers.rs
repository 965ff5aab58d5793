//! What changes a whole family of losses: divergences, and which tokens and pairs count how much.

use crate::objectives::TokenLogProbs;
use crate::settings::SettingError;
use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

/// The largest exponent that is taken: e⁸⁰ is a number in f32, and no log-ratio that a training survives comes near.
const MAX_EXPONENT: f64 = 80.0;

/// α of the α-divergence where none is given.
const ALPHA: f64 = 0.5;

/// The divergence from the reference that is held small, by the score `f'(π/ρ)` that stands for a log-ratio.
///
/// # Source
/// Wang et al. 2023, "Beyond Reverse KL"; `f_divergence_type` of TRL's `DPOConfig`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// `log t`: plain preference optimisation.
    #[default]
    ReverseKl,
    /// `1 − 1/t`.
    ForwardKl,
    /// `log 2t/(t + 1)`: Jensen and Shannon's.
    JsDivergence,
    /// `(t^(α−1) − 1)/(α − 1)`.
    AlphaDivergence,
}

impl Divergence {
    /// The score of a log-ratio, `coefficient` being α.
    pub(super) fn score(self, ratio: Tensor<1>, coefficient: Option<f64>) -> Tensor<1> {
        let order = coefficient.unwrap_or(ALPHA) - 1.0;
        match self {
            Self::ForwardKl => ratio.neg().clamp_max(MAX_EXPONENT).exp().neg() + 1.0,
            Self::JsDivergence => activation::log_sigmoid(ratio) + std::f64::consts::LN_2,
            // At α = 1 the score is the log-ratio.
            Self::AlphaDivergence if order.abs() >= 1e-6 => {
                ((ratio * order).clamp_max(MAX_EXPONENT).exp() - 1.0) * (1.0 / order)
            }
            Self::ReverseKl | Self::AlphaDivergence => ratio,
        }
    }
}

/// Which tokens and pairs count how much, and what stands for a log-ratio.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Modifiers {
    /// What stands for a log-ratio in losses of the scores' difference.
    pub f_divergence_type: Divergence,
    /// α of the α-divergence.
    pub f_alpha_divergence_coef: Option<f64>,
    /// Weight of the tokens beyond the shorter answer's length.
    pub ld_alpha: Option<f64>,
    /// Whether pairs are weighted by their likelihood.
    pub use_weighting: bool,
    /// Whether sums become means.
    pub average_log_prob: bool,
}

impl Modifiers {
    /// A coefficient without its divergence would be ignored.
    pub fn check(&self) -> Result<(), SettingError> {
        match (self.f_divergence_type, self.f_alpha_divergence_coef) {
            (Divergence::AlphaDivergence, _) | (_, None) => Ok(()),
            (_, Some(coefficient)) => Err(SettingError::rule(format!(
                "`f_alpha_divergence_coef` is {coefficient}, but only the divergence `alpha_divergence` reads it; leave \
                 it out or set `f_divergence_type` to alpha_divergence"
            ))),
        }
    }

    /// Each row's log-probability: its tokens' sum or mean, those beyond the shorter answer weighted. # Shapes: `[rows]`.
    pub(super) fn rows(&self, tokens: &TokenLogProbs) -> Tensor<1> {
        let sums = match self.ld_alpha {
            Some(alpha) => tokens.weighted_sums(&beyond_the_shorter(&tokens.per_row, alpha as f32)),
            None => tokens.sums(),
        };
        if !self.average_log_prob {
            return sums;
        }
        let share: Vec<f32> = tokens.per_row.iter().map(|&n| 1.0 / n.max(1) as f32).collect();
        sums * Tensor::from_data(share.as_slice(), &tokens.values.device())
    }
}

/// 1 for the tokens that have one beside them in the pair's other answer, `alpha` for the rest.
fn beyond_the_shorter(per_row: &[usize], alpha: f32) -> Vec<f32> {
    let mut weights = Vec::with_capacity(per_row.iter().sum());
    for pair in per_row.chunks(2) {
        let shared = pair.iter().copied().min().unwrap_or(0);
        for &n in pair {
            weights.extend(std::iter::repeat_n(1.0, shared));
            weights.extend(std::iter::repeat_n(alpha, n - shared));
        }
    }
    weights
}
