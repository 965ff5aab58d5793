//! Direct preference optimisation that does not reward length.

use super::{Compared, PairLoss, State, Terms, logistic, pair_component};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::Tensor;

pair_component! {
    /// `−log σ(β·h − α·(n_l − n_w))`, `n` the answers' numbers of tokens: a longer chosen answer needs no larger margin.
    ///
    /// # Source
    /// Park et al. 2024, eq. 9.
    pub struct RDpo, RDpoBuilder {
        /// How dearly a distance from the reference is paid.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
        /// α: the price of one token, in the units of the implicit reward.
        pub length_penalty: f64 = 0.05 => Kind::number(),
    } Pairs, Compared, sums
}

impl PairLoss for RDpo {
    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let lengths = terms.lengths.chosen.iter().zip(&terms.lengths.rejected);
        let longer: Vec<f32> = lengths.map(|(&w, &l)| (self.length_penalty * (l as f64 - w as f64)) as f32).collect();
        logistic(terms.ratios().difference() * self.beta - terms.host(&longer))
    }

    fn reward_scale(&self) -> Option<f64> {
        Some(self.beta)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::pair_testing::{Pair, close, held_to, logistic, mean, of, pair};
    use super::*;

    #[test]
    fn value_gradient_and_extremes() {
        held_to(&RDpo::default(), |pairs| mean(pairs, |p| logistic(0.1 * p.h() - 0.05 * (p.nl as f64 - p.nw as f64))));
        // β·h = 0.2, and the rejected answer is four tokens longer: 0.
        let longer = Pair { nw: 1, nl: 5, ..pair(-1.0, -3.0, -1.0, -1.0) };
        close(of(&RDpo::default(), longer), std::f64::consts::LN_2, 1e-6, "length makes up for it");
    }
}
