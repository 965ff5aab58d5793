//! The likelihood of the chosen answers alone.

use super::{Alone, PairLoss, State, Terms, pair_component};
use crate::example::Pairs;
use burn::tensor::Tensor;

pair_component! {
    /// `−Σ log p(token) / N` over the chosen answers, `N` their tokens in the whole optimizer step.
    ///
    /// A part of weighted lists ([`PairObjective`](super::PairObjective)'s `sft`). Under `use_weighting` each answer's
    /// tokens have the pair's weight; TRL multiplies the mean over the batch by the mean of the weights.
    ///
    /// # Source
    /// TRL's `sft` of `DPOTrainer`; the regularisation of RPO (Pang et al. 2024).
    pub struct ChosenSft, ChosenSftBuilder {} Pairs, Alone, weights
}

impl PairLoss for ChosenSft {
    fn with_reference(&self) -> bool {
        false
    }

    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        terms.chosen_sums().neg()
    }

    fn share(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        terms.chosen_nll()
    }

    fn reward_scale(&self) -> Option<f64> {
        None
    }

    fn weight(&self, terms: &Terms<'_>) -> f64 {
        terms.lengths.chosen.iter().sum::<usize>() as f64
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::pair_testing::{Pair, close, held_to, of, pair};
    use super::*;

    #[test]
    fn value_gradient_and_extremes() {
        held_to(&ChosenSft::default(), |pairs| {
            -pairs.iter().map(|p| p.pw).sum::<f64>() / pairs.iter().map(|p| p.nw as f64).sum::<f64>()
        });
        close(of(&ChosenSft::default(), Pair { nw: 4, ..pair(-6.0, -1.0, 0.0, 0.0) }), 1.5, 1e-6, "six nats in four");
    }
}
