//! What is logged of pairs.
//!
//! # Source
//! Names and definitions of TRL's `DPOTrainer` 1.16; `rewards/grad_term`, `logps/ref_*` and `flips/*` of turbo-alignment.

use super::host::Readback;
use super::{Host, PairLoss, Sides, Terms};
use crate::objectives::signal::sum_rows;
use crate::objectives::{Metric, TokenLogProbs};
use burn::tensor::Tensor;

/// The factor of rewards where no loss of a list defines any (the likelihood of the chosen answers alone).
const DEFAULT_BETA: f64 = 0.1;

/// Every metric of a micro-batch, from one readback.
pub(super) fn all(terms: &Terms<'_>, parts: &[(f64, &dyn PairLoss)]) -> Vec<Metric> {
    let leading = parts.iter().map(|(_, part)| part).find(|part| part.reward_scale().is_some());
    let averages = leading.is_some_and(|part| part.averages());
    let logged = |sides| if averages { terms.per_token(sides) } else { sides };
    let rewarded = rewarded(terms, parts);
    let mut readback = Readback::default();
    readback.sides(logged(terms.policy()));
    let reference = terms.reference();
    let compared = reference.is_some();
    reference.into_iter().for_each(|sides| readback.sides(logged(sides)));
    rewarded.iter().for_each(|(_, sides)| readback.sides(sides.clone()));
    let tokens = terms.tokens();
    let per_token = [&tokens.mean_logits, &tokens.entropies];
    for values in per_token.into_iter().flatten() {
        readback.sides(Sides::of_rows(sum_rows(values.clone().inner(), &tokens.per_row)));
    }
    let observed: Vec<Option<Tensor<1>>> = parts.iter().map(|(_, part)| part.observed(terms)).collect();
    observed.iter().flatten().for_each(|values| readback.push(values.clone()));

    let mut values = readback.read();
    let mut host = Host {
        policy: values.sides(),
        reference: compared.then(|| values.sides()),
        lengths: &terms.lengths,
        observed: Vec::new(),
    };
    let mut metrics = Vec::new();
    if let Some((scale, _)) = rewarded {
        rewards(&mut metrics, scale, values.sides());
    }
    log_probs(&mut metrics, &host);
    if tokens.mean_logits.is_some() {
        let sums = values.sides();
        metrics.push(over_tokens("logits/chosen", &sums.chosen, &terms.lengths.chosen));
        metrics.push(over_tokens("logits/rejected", &sums.rejected, &terms.lengths.rejected));
    }
    if tokens.entropies.is_some() {
        let sums = values.sides();
        let (chosen, rejected) = (&terms.lengths.chosen, &terms.lengths.rejected);
        let lengths: Vec<usize> = chosen.iter().chain(rejected).copied().collect();
        metrics.push(over_tokens("entropy", &[sums.chosen, sums.rejected].concat(), &lengths));
    }
    metrics.extend(accuracy(tokens));
    for ((_, part), observed) in parts.iter().zip(observed) {
        host.observed = observed.map(|_| values.take()).unwrap_or_default();
        metrics.extend(part.metrics(&host));
    }
    metrics
}

/// What the logged rewards are multiples of, and their factor: those of the first loss that defines rewards.
fn rewarded(terms: &Terms<'_>, parts: &[(f64, &dyn PairLoss)]) -> Option<(f64, Sides<Tensor<1>>)> {
    let defined = parts.iter().find_map(|(_, part)| Some((part.reward_scale()?, part.rewarded(terms))));
    defined.or_else(|| terms.reference().map(|_| (DEFAULT_BETA, terms.ratios())))
}

fn rewards(metrics: &mut Vec<Metric>, beta: f64, rewarded: Sides<Vec<f64>>) {
    let rewards = rewarded.map(|values| values.into_iter().map(|x| beta * x).collect::<Vec<f64>>());
    let margins = || rewards.chosen.iter().zip(&rewards.rejected).map(|(chosen, rejected)| chosen - rejected);
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    metrics.push(Metric::mean("rewards/chosen", rewards.chosen.iter().copied()));
    metrics.push(Metric::mean("rewards/rejected", rewards.rejected.iter().copied()));
    metrics.push(Metric::mean("rewards/margins", margins()));
    metrics.push(Metric::mean("rewards/accuracies", margins().map(|margin| share(margin > 0.0))));
    metrics.push(Metric::mean("rewards/grad_term", margins().map(|margin| beta * sigmoid(-margin))));
}

fn log_probs(metrics: &mut Vec<Metric>, host: &Host<'_>) {
    metrics.push(Metric::mean("logps/chosen", host.policy.chosen.iter().copied()));
    metrics.push(Metric::mean("logps/rejected", host.policy.rejected.iter().copied()));
    let Some(reference) = &host.reference else { return };
    metrics.push(Metric::mean("logps/ref_chosen", reference.chosen.iter().copied()));
    metrics.push(Metric::mean("logps/ref_rejected", reference.rejected.iter().copied()));
    let right = |sides: &Sides<Vec<f64>>| -> Vec<bool> {
        sides.chosen.iter().zip(&sides.rejected).map(|(chosen, rejected)| chosen > rejected).collect()
    };
    let (before, after) = (right(reference), right(&host.policy));
    for (name, from, to) in [
        ("flips/correct->correct", true, true),
        ("flips/correct->incorrect", true, false),
        ("flips/incorrect->correct", false, true),
        ("flips/incorrect->incorrect", false, false),
    ] {
        let hits = before.iter().zip(&after).map(|(&before, &after)| share(before == from && after == to));
        metrics.push(Metric::mean(name, hits));
    }
}

/// Share of the chosen answers' tokens that are the likeliest ones.
fn accuracy(tokens: &TokenLogProbs) -> Option<Metric> {
    let correct = tokens.correct.as_ref()?;
    let (mut hits, mut seen, mut start) = (0, 0, 0);
    for (row, &n) in tokens.per_row.iter().enumerate() {
        if row.is_multiple_of(2) {
            hits += correct[start..start + n].iter().filter(|&&hit| hit).count();
            seen += n;
        }
        start += n;
    }
    Some(Metric { name: "mean_token_accuracy".into(), sum: hits as f64, weight: seen as f64 })
}

/// A mean over tokens, of each answer's sum.
fn over_tokens(name: &'static str, sums: &[f64], lengths: &[usize]) -> Metric {
    Metric { name: name.into(), sum: sums.iter().sum(), weight: lengths.iter().sum::<usize>() as f64 }
}

fn share(hit: bool) -> f64 {
    if hit { 1.0 } else { 0.0 }
}
