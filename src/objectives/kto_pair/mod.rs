//! KTO's loss over the two answers of a pair.

use super::{Compared, Host, Metric, PairLoss, State, Terms, pair_component};
use crate::example::Pairs;
use crate::settings::Kind;
use burn::tensor::{Tensor, activation};

pair_component! {
    /// Half of `[1 − σ(β(a − KL_l))] + [1 − σ(β(KL_w − b))]`, `KL = max(0, mean log-ratio of that side)` without gradient.
    ///
    /// The means are those of the micro-batch: with gradient accumulation the loss is not that of one large batch.
    ///
    /// # Source
    /// Ethayarajh et al. 2023 (HALOs), turbo-alignment's `kto`, which lets gradients through the means.
    pub struct KtoPair, KtoPairBuilder {
        /// How dearly a distance from the reference is paid.
        pub beta: f64 = 0.1 => Kind::number().above(0.0),
    } Pairs, Compared, sums
}

impl PairLoss for KtoPair {
    fn per_pair(&self, terms: &Terms<'_>, _state: &mut State) -> Tensor<1> {
        let ratios = terms.ratios();
        let kl = ratios.clone().map(|ratio| ratio.detach().mean().clamp_min(0.0));
        let chosen = activation::sigmoid((kl.rejected - ratios.chosen) * self.beta);
        let rejected = activation::sigmoid((ratios.rejected - kl.chosen) * self.beta);
        (chosen + rejected) * 0.5
    }

    fn reward_scale(&self) -> Option<f64> {
        Some(self.beta)
    }

    /// The estimates of the divergence, and the factors σ(z)·σ(−z) of the gradient.
    fn metrics(&self, host: &Host<'_>) -> Vec<Metric> {
        let Some(reference) = host.reference.clone() else { return Vec::new() };
        let ratios = host.policy.clone().zip(reference).map(|(policy, reference)| -> Vec<f64> {
            policy.into_iter().zip(reference).map(|(policy, reference)| policy - reference).collect()
        });
        let pairs = ratios.chosen.len() as f64;
        let kl = ratios.clone().map(|ratios| (ratios.iter().sum::<f64>() / pairs).max(0.0));
        let slope = |x: f64| 1.0 / (1.0 + (-x).exp()) / (1.0 + x.exp());
        let chosen: f64 = ratios.chosen.iter().map(|a| -slope(self.beta * (a - kl.rejected))).sum();
        let rejected: f64 = ratios.rejected.iter().map(|b| slope(self.beta * (kl.chosen - b))).sum();
        let metric = |name: &'static str, sum| Metric { name: name.into(), sum, weight: pairs };
        vec![
            metric("kto/kl_chosen", kl.chosen * pairs),
            metric("kto/kl_rejected", kl.rejected * pairs),
            metric("kto/grad_term", chosen + rejected),
            metric("kto/grad_term_chosen", chosen),
            metric("kto/grad_term_rejected", rejected),
        ]
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::super::pair_testing::{
        Pair, close, metric, of, pair, run, sigmoid, some_pairs, stays_finite, totals, value,
    };
    use super::*;

    #[test]
    fn value_and_extremes() {
        crate::settings::audit::<KtoPair>().unwrap();
        stays_finite(&KtoPair::default());
        // a = 2, b = −3: KL_w = 2, KL_l = 0; half of σ(−0.2) + σ(−0.5) = 0.450166 + 0.377541.
        let one = pair(-1.0, -5.0, -3.0, -2.0);
        close(of(&KtoPair::default(), one), 0.413_853_4, 1e-6, "one pair");
        let (loss, _) = run(&KtoPair::default(), &[one], &totals(&[one]), &mut State::default());
        close(metric(&loss.metrics, "kto/kl_chosen"), 2.0, 1e-6, "chosen KL");
        close(metric(&loss.metrics, "kto/kl_rejected"), 0.0, 0.0, "clamped KL");
        // −σ(0.2)·σ(−0.2) and σ(0.5)·σ(−0.5).
        close(metric(&loss.metrics, "kto/grad_term_chosen"), -0.247_516_6, 1e-6, "gradient of the chosen");
        close(metric(&loss.metrics, "kto/grad_term_rejected"), 0.235_003_7, 1e-6, "gradient of the rejected");
    }

    #[test]
    fn the_divergence_lets_no_gradient_through() {
        let pairs = some_pairs();
        let (loss, gradient) = run(&KtoPair::default(), &pairs, &totals(&pairs), &mut State::default());
        let n = pairs.len() as f64;
        let kl = |side: fn(&Pair) -> f64| (pairs.iter().map(side).sum::<f64>() / n).max(0.0);
        let (kl_w, kl_l) = (kl(Pair::a), kl(Pair::b));
        let terms = |p: &Pair| (sigmoid(0.1 * (kl_l - p.a())), sigmoid(0.1 * (p.b() - kl_w)));
        let expected: f64 = pairs.iter().map(|p| terms(p).0 + terms(p).1).sum::<f64>() / (2.0 * n);
        close(value(&loss), expected, 1e-6, "the loss");
        assert!(kl_l > 0.0, "the mean of the rejected must not be clamped for this to say anything");
        for (p, rows) in pairs.iter().zip(gradient.chunks(2)) {
            let (chosen, rejected) = terms(p);
            close(rows[0], -0.1 * chosen * (1.0 - chosen) / (2.0 * n), 1e-6, "chosen");
            close(rows[1], 0.1 * rejected * (1.0 - rejected) / (2.0 * n), 1e-6, "rejected");
        }
    }
}
