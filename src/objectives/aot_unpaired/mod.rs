//! Alignment by optimal transport over the chosen answers and the rejected ones, whichever belong together.

use super::{Compared, PairLoss, State, Terms, pair_component, smoothed, sorted};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::Tensor;

pair_component! {
    /// `−(1−ε)·log σ(β·δ) − ε·log σ(−β·δ)`, `δ` the difference of the log-ratios `a` and `b`, each sorted over the batch.
    ///
    /// It sorts within the micro-batch: with gradient accumulation the loss is not that of one large batch.
    ///
    /// # Source
    /// Melnyk et al. 2024, unpaired; TRL's `aot_unpaired`.
    pub struct AotUnpaired, AotUnpairedBuilder {
        /// How dearly a distance from the reference is paid.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
        /// ε: the share of answers that are taken to be judged the wrong way round.
        pub label_smoothing: f64 = 0.0 => Kind::number().at_least(0.0).below(0.5),
    } Pairs, Compared, whole
}

impl PairLoss for AotUnpaired {
    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        smoothed(terms.ratios().map(sorted).difference() * self.beta, self.label_smoothing)
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

    #[test]
    fn value_gradient_and_extremes() {
        let formula = |pairs: &[Pair], beta: f64, epsilon: f64| {
            let both = ascending(pairs, Pair::a).into_iter().zip(ascending(pairs, Pair::b));
            let losses = both.map(|(a, b)| {
                let x = beta * (a - b);
                (1.0 - epsilon) * logistic(x) + epsilon * logistic(-x)
            });
            losses.sum::<f64>() / pairs.len() as f64
        };
        held_to(&AotUnpaired::default(), |pairs| formula(pairs, 0.1, 0.0));
        let smooth = AotUnpaired { beta: 0.5, label_smoothing: 0.25, ..AotUnpaired::default() };
        held_to(&smooth, |pairs| formula(pairs, 0.5, 0.25));
        close(of(&AotUnpaired::default(), pair(-1.0, -21.0, -1.0, -1.0)), 0.126_928_01, 1e-6, "one pair: plain DPO");
    }
}
