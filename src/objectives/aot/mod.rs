//! Alignment by optimal transport over pairs.

use super::{Compared, PairLoss, State, Terms, pair_component, smoothed, sorted};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::Tensor;

pair_component! {
    /// `−(1−ε)·log σ(β·δ) − ε·log σ(−β·δ)`, `δ` the difference of `π_w − π_l` and `ρ_w − ρ_l`, each sorted over the batch.
    ///
    /// It sorts within the micro-batch: with gradient accumulation the loss is not that of one large batch.
    ///
    /// # Source
    /// Melnyk et al. 2024, paired; TRL's `aot`, which takes no weights of pairs either: after sorting there are no pairs.
    pub struct Aot, AotBuilder {
        /// How dearly a distance from the reference is paid.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
        /// ε: the share of pairs that are taken to be judged the wrong way round.
        pub label_smoothing: f64 = 0.0 => Kind::number().at_least(0.0).below(0.5),
    } Pairs, Compared, whole
}

impl PairLoss for Aot {
    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let delta = sorted(terms.policy().difference()) - sorted(terms.compared().difference());
        smoothed(delta * self.beta, self.label_smoothing)
    }

    fn mixes_pairs(&self) -> bool {
        true
    }

    fn reward_scale(&self) -> Option<f64> {
        Some(self.beta)
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::pair_testing::{Pair, close, held_to, logistic, of, pair};
    use super::*;

    fn ascending(pairs: &[Pair], f: impl Fn(&Pair) -> f64) -> Vec<f64> {
        let mut values: Vec<f64> = pairs.iter().map(f).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    fn formula(pairs: &[Pair], beta: f64, epsilon: f64) -> f64 {
        let (policy, reference) = (ascending(pairs, |p| p.pw - p.pl), ascending(pairs, |p| p.rw - p.rl));
        let losses = policy.iter().zip(reference).map(|(x, y)| {
            let x = beta * (x - y);
            (1.0 - epsilon) * logistic(x) + epsilon * logistic(-x)
        });
        losses.sum::<f64>() / pairs.len() as f64
    }

    #[test]
    fn value_gradient_and_extremes() {
        held_to(&Aot::default(), |pairs| formula(pairs, 0.1, 0.0));
        let smooth = Aot { beta: 0.5, label_smoothing: 0.25, ..Aot::default() };
        held_to(&smooth, |pairs| formula(pairs, 0.5, 0.25));
        close(of(&Aot::default(), pair(-1.0, -21.0, -1.0, -1.0)), 0.126_928_01, 1e-6, "one pair: plain DPO");
    }
}
