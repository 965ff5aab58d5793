//! The hinge on the difference of log-ratios, or of log-probabilities.

use super::{BySetting, Divergence, PairLoss, State, Terms, pair_component};
use crate::example::Pairs;
use crate::settings::{Kind, SettingError};
use burn::tensor::{Tensor, activation};

pair_component! {
    /// `max(0, 1 − β·h)`; without `norm`, `max(0, 1 − β·(π_w − π_l))`, which needs no reference.
    ///
    /// # Source
    /// Zhao et al. 2023 (SLiC) as Liu et al. 2023 (RSO) normalise it; TRL's `hinge`, turbo-alignment's with its `norm`.
    pub struct Hinge, HingeBuilder {
        /// The slope: differences beyond 1/β cost nothing.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
        /// Whether log-probabilities are compared with the reference's.
        pub norm: bool = true => Kind::bool(),
    } Pairs, BySetting, scores
}

impl PairLoss for Hinge {
    fn rules(&self) -> Result<(), SettingError> {
        match self.norm || self.f_divergence_type == Divergence::ReverseKl {
            true => Ok(()),
            false => Err(SettingError::rule(
                "`f_divergence_type` is a distance from a reference, but with `norm` false there is none; set `norm` or \
                 leave the divergence out",
            )),
        }
    }

    fn with_reference(&self) -> bool {
        self.norm
    }

    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let difference = if self.norm { terms.h() } else { terms.policy().difference() };
        activation::relu(difference * -self.beta + 1.0)
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
        let alone = Hinge { norm: false, beta: 0.5, ..Hinge::default() };
        held_to(&Hinge::default(), |pairs| mean(pairs, |p| (1.0 - 0.1 * p.h()).max(0.0)));
        held_to(&alone, |pairs| mean(pairs, |p| (1.0 - 0.5 * (p.pw - p.pl)).max(0.0)));
        close(of(&Hinge::default(), pair(-1.0, -3.0, -2.0, -1.0)), 0.7, 1e-6, "three nats apart");
        close(of(&alone, pair(-1.0, -4.0, -9.0, 0.0)), 0.0, 0.0, "beyond 1/β");
    }

    #[test]
    fn a_divergence_needs_the_reference() {
        let error = Hinge::builder().norm(false).f_divergence_type(Divergence::ForwardKl).build().unwrap_err();
        assert!(error.to_string().contains("set `norm`"), "{error}");
    }
}
