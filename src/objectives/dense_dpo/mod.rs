//! Direct preference optimisation of the tokens in which the answers differ.

mod spans;

use super::{Compared, PairLoss, Sides, State, Terms, logistic, pair_component};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::Tensor;

pair_component! {
    /// `−log σ(β·h)`, all log-probabilities summed over the spans that differ between the two answers.
    ///
    /// Spans are what the longest common runs of at least `min_match` tokens leave over, insertions and deletions included
    /// (VL-RLHF drops those). The logged rewards are of the same tokens, `logps/*` of whole answers.
    ///
    /// # Source
    /// Yu et al. 2023 (RLHF-V), eq. 4 with no weight on what is equal; `ddpo` of VL-RLHF.
    pub struct DenseDpo, DenseDpoBuilder {
        /// How dearly a distance from the reference is paid.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
        /// Shorter common runs count as different.
        pub min_match: usize = 3 => Kind::count(),
    } Pairs, Compared, weights
}

impl PairLoss for DenseDpo {
    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        logistic(self.rewarded(terms).difference() * self.beta)
    }

    fn reward_scale(&self) -> Option<f64> {
        Some(self.beta)
    }

    fn rewarded(&self, terms: &Terms<'_>) -> Sides<Tensor<1>> {
        let tokens = terms.tokens();
        let mut weights = Vec::with_capacity(tokens.ids.len());
        for pair in 0..terms.pairs() {
            let (chosen, rejected) = (tokens.row_ids(2 * pair), tokens.row_ids(2 * pair + 1));
            let differs = spans::differing(chosen, rejected, self.min_match);
            weights.extend(differs.concat().into_iter().map(|differs| if differs { 1.0 } else { 0.0 }));
        }
        terms.weighted_ratios(&weights)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::pair_testing::{close, held_to, log_probs, logistic, mean, metric, of, pair, totals, value};
    use super::super::{Inputs, Objective};
    use super::*;
    use burn::tensor::Device;

    #[test]
    fn value_gradient_and_extremes() {
        // No token of these pairs is like another: it is plain DPO.
        held_to(&DenseDpo::default(), |pairs| mean(pairs, |p| logistic(0.1 * p.h())));
        close(of(&DenseDpo::default(), pair(-1.0, -21.0, -1.0, -1.0)), 0.126_928_01, 1e-6, "twenty nats apart");
    }

    #[test]
    fn what_the_answers_share_does_not_count() {
        let pairs = [super::super::pair_testing::Pair { nw: 5, nl: 4, ..pair(0.0, 0.0, 0.0, 0.0) }];
        let device = Device::flex();
        let tokens = |values: [f32; 9]| {
            let mut tokens = log_probs(&pairs, false, &device).0;
            tokens.values = Tensor::from_floats(values, &device);
            // `a b c X d` and `a b c Y`.
            tokens.ids = vec![1, 2, 3, 10, 4, 1, 2, 3, 20];
            tokens
        };
        let policy = tokens([-9.0, -9.0, -9.0, -1.0, -2.0, -7.0, -7.0, -7.0, -4.0]);
        let reference = Some(tokens([-1.0, -1.0, -1.0, -2.0, -2.0, -3.0, -3.0, -3.0, -1.5]));
        let inputs = Inputs { policy, reference, mismatched: None, facts: &[] };
        let loss = DenseDpo::default().loss(inputs, &totals(&pairs), &mut State::default());
        // a = −3 + 4, b = −4 + 1.5.
        close(value(&loss), logistic(0.1 * 3.5), 1e-6, "the loss");
        close(metric(&loss.metrics, "rewards/margins"), 0.35, 1e-6, "the margin");
        close(metric(&loss.metrics, "logps/chosen"), -30.0, 1e-6, "whole answers");
    }
}
