//! Which answers are chosen, by their rewards or by chance.

use super::Choice;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// The numbers of the answers that are chosen; fewer than are wanted where there are fewer.
pub(super) fn choose(choice: Choice, rewards: &[f64], rng: &mut ChaCha8Rng) -> Vec<usize> {
    let all = rewards.len();
    let sorted = best_first(rewards);
    match choice {
        Choice::Random(n) => {
            let mut drawn: Vec<usize> = (0..all).collect();
            let n = n.get().min(all);
            // The first steps of Fisher and Yates' shuffle.
            (0..n).for_each(|i| drawn.swap(i, rng.random_range(i..all)));
            drawn.truncate(n);
            drawn.sort_unstable();
            drawn
        }
        Choice::Best(n) => sorted.into_iter().take(n.get()).collect(),
        Choice::Worst(n) => sorted.into_iter().skip(all.saturating_sub(n.get())).collect(),
        Choice::BestAndWorst(n) => {
            let n = n.get().min(all);
            let (best, worst) = (n - n / 2, all - n / 2);
            sorted.iter().enumerate().filter(|(rank, _)| *rank < best || *rank >= worst).map(|(_, &i)| i).collect()
        }
        Choice::BestAndNth(n) => {
            let nth = n.get().min(all);
            let mut two: Vec<usize> =
                [sorted.first(), sorted.get(nth.wrapping_sub(1))].into_iter().flatten().copied().collect();
            two.dedup();
            two
        }
        Choice::Rejection { count, beta } => rejection(rewards, count.get(), beta, &mut || rng.random::<f64>()),
    }
}

/// The numbers of the answers, best first; of equal rewards the earlier one first.
pub fn best_first(rewards: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..rewards.len()).collect();
    order.sort_by(|&a, &b| rewards[b].total_cmp(&rewards[a]));
    order
}

/// Statistical rejection sampling: `count` of the answers, in the order of their acceptance.
///
/// Round after round, each answer that is left is accepted with probability `exp((reward − max) / beta)`, `max` being the highest
/// reward of those that were left when the round began, until there are enough or none is left. `uniform` draws from `[0, 1)`.
///
/// ```
/// use firebrick::pipelines::sampling::rejection;
///
/// // Drawing 0.5 each time, whatever is at least as likely as that is accepted in the first round.
/// assert_eq!(rejection(&[0.0, 2.0, 1.9], 2, 1.0, &mut || 0.5), [1, 2]);
/// ```
///
/// # Source
/// Liu et al. 2023, "Statistical Rejection Sampling Improves Preference Optimization" (arXiv 2309.06657), algorithm 1.
pub fn rejection(rewards: &[f64], count: usize, beta: f64, uniform: &mut dyn FnMut() -> f64) -> Vec<usize> {
    let mut left: Vec<usize> = (0..rewards.len()).collect();
    let mut accepted = Vec::new();
    while accepted.len() < count && !left.is_empty() {
        let best = left.iter().map(|&i| rewards[i]).fold(f64::NEG_INFINITY, f64::max);
        left.retain(|&i| {
            let taken = accepted.len() < count && uniform() < ((rewards[i] - best) / beta).exp();
            if taken {
                accepted.push(i);
            }
            !taken
        });
    }
    accepted
}
