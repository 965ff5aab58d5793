//! Noise contrastive alignment over pairs.

use super::{Compared, PairLoss, State, Terms, logistic, pair_component};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::Tensor;

pair_component! {
    /// `−log σ(β·a) − ½·log σ(−β·a) − ½·log σ(−β·b)`.
    ///
    /// # Source
    /// Chen et al. 2024, eq. 12; TRL's `nca_pair`.
    pub struct NcaPair, NcaPairBuilder {
        /// How dearly a distance from the reference is paid.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
    } Pairs, Compared, sums
}

impl PairLoss for NcaPair {
    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let rewards = terms.ratios().map(|ratio| ratio * self.beta);
        let down = logistic(rewards.chosen.clone().neg()) + logistic(rewards.rejected.neg());
        logistic(rewards.chosen) + down * 0.5
    }

    fn reward_scale(&self) -> Option<f64> {
        Some(self.beta)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::pair_testing::{close, held_to, logistic, mean, of, pair};
    use super::*;

    #[test]
    fn value_gradient_and_extremes() {
        held_to(&NcaPair::default(), |pairs| {
            mean(pairs, |p| logistic(0.1 * p.a()) + 0.5 * logistic(-0.1 * p.a()) + 0.5 * logistic(-0.1 * p.b()))
        });
        close(of(&NcaPair::default(), pair(-1.0, -1.0, -1.0, -1.0)), 1.386_294_4, 1e-6, "2·log 2");
    }
}
