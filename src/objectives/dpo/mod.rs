//! Direct preference optimisation, as it was published and with label smoothing.

use super::{Compared, PairLoss, State, Terms, pair_component, smoothed};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::Tensor;

pair_component! {
    /// `−(1−ε)·log σ(β·h) − ε·log σ(−β·h)`, `h` the difference of the answers' log-ratios.
    ///
    /// # Source
    /// Rafailov et al. 2023, eq. 7; ε after Mitchell 2023 (conservative DPO), as in turbo-alignment. TRL's `sigmoid` takes
    /// ε and ignores it.
    pub struct Dpo, DpoBuilder {
        /// How dearly a distance from the reference is paid.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
        /// ε: the share of pairs that are taken to be judged the wrong way round.
        pub label_smoothing: f64 = 0.0 => Kind::number().at_least(0.0).below(0.5),
    } Pairs, Compared, scores
}

impl PairLoss for Dpo {
    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        smoothed(terms.h() * self.beta, self.label_smoothing)
    }

    fn reward_scale(&self) -> Option<f64> {
        Some(self.beta)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests;
