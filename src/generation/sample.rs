//! Seeded draws and the choice of one token.
//!
//! A row's draws come from a ChaCha stream of its own, whose key is made of the seed, the row and the sequence, and
//! whose position is the step: neither the rows beside it nor their order change what a row draws.

use super::math;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// The draws of one sequence of one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draws {
    key: [u8; 32],
}

impl Draws {
    /// The draws of sequence number `sequence` of the row that is called `row`: its number in a file, or a request's
    /// own seed.
    pub fn new(seed: u64, row: u64, sequence: u64) -> Self {
        let mut key = *b"________________________decoding";
        for (part, number) in key.chunks_exact_mut(8).zip([seed, row, sequence]) {
            part.copy_from_slice(&number.to_le_bytes());
        }
        Self { key }
    }

    /// The draw of a step: from 0 up to but not including 1, in steps of 2⁻⁵³.
    pub fn uniform(&self, step: usize) -> f64 {
        unit(self.stream(step).next_u64())
    }

    /// As many draws of one step as are taken from it; the first is [`uniform`](Self::uniform).
    pub(crate) fn uniforms(&self, step: usize) -> impl Iterator<Item = f64> {
        let mut stream = self.stream(step);
        std::iter::repeat_with(move || unit(stream.next_u64()))
    }

    fn stream(&self, step: usize) -> ChaCha8Rng {
        let mut stream = ChaCha8Rng::from_seed(self.key);
        stream.set_stream(step as u64);
        stream
    }
}

fn unit(bits: u64) -> f64 {
    /// 2⁻⁵³: what an `f64`'s mantissa holds of 64 bits.
    const STEP: f64 = 1.0 / (1_u64 << 53) as f64;
    (bits >> 11) as f64 * STEP
}

/// Place of the greatest score, the lowest of equal ones; `None` where one is NaN or `+∞`, or all are `-∞`.
pub fn argmax(scores: &[f32]) -> Option<usize> {
    let peak = math::peak(scores)?;
    scores.iter().position(|&score| score == peak)
}

/// The place at which the cumulated probabilities of `scores`, in the order of their places, pass `uniform`; `None` as
/// for [`argmax`].
///
/// One number per draw suffices, wherever it is made: a device that adds up probabilities in the same order draws the
/// same token, but for rounding at a border.
pub fn draw(scores: &[f32], uniform: f64) -> Option<usize> {
    let peak = math::peak(scores)?;
    let sums: Vec<f64> = scores.chunks(math::BLOCK).map(|block| math::block_sum(block, peak)).collect();
    let mut left = uniform * sums.iter().sum::<f64>();
    let mut chosen = None;
    for (block, &sum) in sums.iter().enumerate() {
        // A block's sum is rounded otherwise than its walk below, which may pass its end: the next block takes over.
        if left >= sum {
            left -= sum;
            continue;
        }
        let start = block * math::BLOCK;
        for (place, &score) in scores[start..].iter().take(math::BLOCK).enumerate() {
            let weight = f64::from(math::exp(score - peak));
            if weight > 0.0 {
                chosen = Some(start + place);
                if left < weight {
                    return chosen;
                }
            }
            left -= weight;
        }
        left = 0.0;
    }
    // Rounding at the very end: the last one that can come.
    chosen.or_else(|| scores.iter().rposition(|&score| math::exp(score - peak) > 0.0))
}

/// Places in the order in which they are drawn without replacement, each as likely as its score says, `n` at most.
///
/// # Source
/// Gumbel-top-k (Kool et al. 2019): the distribution of drawing one by one.
pub(crate) fn draw_several(scores: &[f32], n: usize, mut uniforms: impl Iterator<Item = f64>) -> Vec<u32> {
    let perturbed: Vec<f32> = scores
        .iter()
        .map(|&score| match uniforms.next() {
            Some(u) if score > f32::NEG_INFINITY => (f64::from(score) - (-(u.max(f64::MIN_POSITIVE)).ln()).ln()) as f32,
            _ => f32::NEG_INFINITY,
        })
        .collect();
    math::top(&perturbed, n).into_iter().map(|(place, _)| place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_go_to_the_lowest_id() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0, -1.0]), Some(1));
        assert_eq!(argmax(&[f32::NEG_INFINITY, -2.0]), Some(1));
        assert_eq!(argmax(&[f32::NEG_INFINITY; 3]), None);
        assert_eq!(argmax(&[0.0, f32::NAN]), None);
    }

    #[test]
    fn a_draw_depends_on_seed_row_sequence_and_step_alone() {
        let draws = Draws::new(7, 3, 1);
        assert_eq!(draws.uniform(5), Draws::new(7, 3, 1).uniform(5));
        assert_eq!(draws.uniforms(5).next(), Some(draws.uniform(5)));
        let others = [Draws::new(8, 3, 1), Draws::new(7, 4, 1), Draws::new(7, 3, 2)];
        assert!(others.iter().all(|other| other.uniform(5) != draws.uniform(5)));
        assert_ne!(draws.uniform(5), draws.uniform(6));
    }

    #[test]
    fn a_draw_never_takes_what_is_forbidden() {
        let mut scores = vec![f32::NEG_INFINITY; 700];
        scores[300] = 0.0;
        scores[650] = 0.0;
        for (uniform, place) in [(0.0, 300), (0.499, 300), (0.501, 650), (1.0 - f64::EPSILON / 2.0, 650)] {
            assert_eq!(draw(&scores, uniform), Some(place), "{uniform}");
        }
    }

    /// Counts of 4000 draws against their expectation. Seeds are fixed, so that it cannot fail by chance; a wrong
    /// distribution moves χ² by hundreds.
    #[test]
    fn draws_follow_the_distribution() {
        const DRAWS: usize = 4000;
        // 99.99% of χ² with 19 degrees of freedom lies below.
        const LIMIT: f64 = 52.4;
        let scores: Vec<f32> = (0..20).map(|i| ((i * 7) % 20) as f32 / 8.0).collect();
        let probabilities = math::softmax(&scores).unwrap();
        let mut counts = vec![0_usize; scores.len()];
        for row in 0..DRAWS as u64 {
            let step = row as usize % 3;
            counts[draw(&scores, Draws::new(11, row, 0).uniform(step)).unwrap()] += 1;
        }
        let chi: f64 = counts.iter().zip(&probabilities).map(|(&n, &p)| chi_term(n, p, DRAWS)).sum();
        assert!(chi < LIMIT, "χ² {chi}");
    }

    #[test]
    fn several_draws_are_distinct_and_the_first_follows_the_distribution() {
        const DRAWS: usize = 4000;
        // 99.99% of χ² with 3 degrees of freedom lies below.
        const LIMIT: f64 = 21.2;
        let scores = [0.0, 1.0, f32::NEG_INFINITY, 2.0, 0.5];
        let probabilities = math::softmax(&scores).unwrap();
        let (mut first, mut second) = ([0_usize; 5], [0_usize; 5]);
        for row in 0..DRAWS as u64 {
            let drawn = draw_several(&scores, 3, Draws::new(5, row, 0).uniforms(0));
            assert_eq!(drawn.len(), 3);
            assert!(drawn[0] != drawn[1] && drawn[1] != drawn[2] && drawn[0] != drawn[2]);
            first[drawn[0] as usize] += 1;
            second[drawn[1] as usize] += 1;
        }
        // P(second = j) = Σ_i p_i · p_j / (1 - p_i), over the others.
        let after = |j: usize| -> f32 {
            (0..5).filter(|&i| i != j).map(|i| probabilities[i] * probabilities[j] / (1.0 - probabilities[i])).sum()
        };
        let chi = |counts: [usize; 5], p: &dyn Fn(usize) -> f32| -> f64 {
            (0..5).filter(|&j| j != 2).map(|j| chi_term(counts[j], p(j), DRAWS)).sum()
        };
        assert_eq!((first[2], second[2]), (0, 0));
        assert!(chi(first, &|j| probabilities[j]) < LIMIT);
        assert!(chi(second, &after) < LIMIT);
    }

    fn chi_term(count: usize, probability: f32, draws: usize) -> f64 {
        let expected = f64::from(probability) * draws as f64;
        (count as f64 - expected).powi(2) / expected
    }
}
