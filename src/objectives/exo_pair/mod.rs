//! Efficient exact optimisation over pairs: the reverse divergence from the judgements.

use super::{Compared, PairLoss, State, Terms, logistic, pair_component};
use crate::example::Pairs;
use crate::settings::{Kind, SettingError};
use burn::tensor::{Tensor, activation};

pair_component! {
    /// `q·(log q − log(1−ε)) + (1−q)·(log(1−q) − log ε)`, `q = σ(β·h)`: infinite at ε = 0, which is refused.
    ///
    /// # Source
    /// Ji et al. 2024, eq. 16 for two answers; TRL's `exo_pair`.
    pub struct ExoPair, ExoPairBuilder {
        /// How dearly a distance from the reference is paid.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
        /// ε: the share of pairs that are taken to be judged the wrong way round; above 0.
        pub label_smoothing: f64 = 1e-3 => Kind::number().at_least(0.0).below(0.5),
    } Pairs, Compared, scores
}

impl PairLoss for ExoPair {
    fn rules(&self) -> Result<(), SettingError> {
        match self.label_smoothing > 0.0 {
            true => Ok(()),
            false => Err(SettingError::rule(
                "`label_smoothing` is 0, where the loss of exo_pair is infinite; give it a small value such as 0.001",
            )),
        }
    }

    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let x = terms.h() * self.beta;
        let (right, wrong) = ((-self.label_smoothing).ln_1p(), self.label_smoothing.ln());
        let term = |x: Tensor<1>, log_target: f64| activation::sigmoid(x.clone()) * (logistic(x) + log_target).neg();
        term(x.clone(), right) + term(x.neg(), wrong)
    }

    fn reward_scale(&self) -> Option<f64> {
        Some(self.beta)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::pair_testing::{close, held_to, mean, of, pair, sigmoid};
    use super::*;

    #[test]
    fn value_gradient_and_extremes() {
        let at = |x: f64, epsilon: f64| {
            let q = sigmoid(x);
            q * (q.ln() - (1.0 - epsilon).ln()) + (1.0 - q) * ((1.0 - q).ln() - epsilon.ln())
        };
        held_to(&ExoPair::default(), |pairs| mean(pairs, |p| at(0.1 * p.h(), 1e-3)));
        let smooth = ExoPair { label_smoothing: 0.25, beta: 0.5, ..ExoPair::default() };
        held_to(&smooth, |pairs| mean(pairs, |p| at(0.5 * p.h(), 0.25)));
        // q = 3/4 is what the judgements say: no divergence.
        close(of(&smooth, pair(0.0, -(3.0_f64.ln() / 0.5), 0.0, 0.0)), 0.0, 1e-6, "as judged");
        let error = ExoPair::builder().label_smoothing(0.0).build().unwrap_err();
        assert!(error.to_string().contains("infinite"), "{error}");
    }
}
