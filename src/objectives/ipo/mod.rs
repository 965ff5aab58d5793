//! Identity preference optimisation.

use super::{Compared, PairLoss, State, Terms, pair_component, square};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::Tensor;

pair_component! {
    /// `(h − 1/(2β))²`, `h` per token: each answer's log-ratio is divided by its length.
    ///
    /// # Source
    /// Azar et al. 2023, eq. 17; per token as TRL's `ipo`, by the authors' advice to it. Sums, `sums`, in turbo-alignment
    /// and VL-RLHF.
    pub struct Ipo, IpoBuilder {
        /// τ of the paper.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
        /// Sums over the answers' tokens instead of means.
        pub sums: bool = false => Kind::bool(),
    } Pairs, Compared, averages
}

impl PairLoss for Ipo {
    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let scores = terms.scores();
        let scores = if self.sums { scores } else { terms.per_token(scores) };
        square(scores.difference() - 0.5 / self.beta)
    }

    fn reward_scale(&self) -> Option<f64> {
        Some(self.beta)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::pair_testing::{close, held_to, mean, of, pair};
    use super::*;

    #[test]
    fn value_gradient_and_extremes() {
        held_to(&Ipo::default(), |pairs| mean(pairs, |p| (p.a() / p.nw as f64 - p.b() / p.nl as f64 - 5.0).powi(2)));
        let sums = Ipo { sums: true, beta: 0.5, ..Ipo::default() };
        held_to(&sums, |pairs| mean(pairs, |p| (p.h() - 1.0).powi(2)));
        close(of(&Ipo::default(), pair(-1.0, -3.0, -2.0, -1.0)), 4.0, 1e-6, "(3 − 5)²");
    }
}
