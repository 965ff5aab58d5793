//! Sums of exponentials over a vocabulary, and its few best scores.
//!
//! Everything works in passes over `f32` that the compiler vectorizes; sums are collected in `f64`.

/// `e^x` to about two units in the last place; 0 below -87, where `f32` has only subnormal numbers left.
///
/// `f32::exp` is a call for every element; this is straight code, which is turned into vector instructions.
///
/// # Source
/// Cephes' `expf`: the polynomial and the two-part `ln 2`.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// 1.5 · 2²³: adding it leaves a number's nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    const LOWEST: f32 = -87.0;
    let clamped = x.clamp(LOWEST, 88.0);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let whole = shifted - ROUND;
    let rest = (clamped - whole * 0.693_359_4) + whole * 2.121_944_4e-4;
    let mut p = 1.987_569_1e-4_f32;
    for coefficient in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 0.166_666_66, 0.5] {
        p = p * rest + coefficient;
    }
    let fraction = p * rest * rest + rest + 1.0;
    let power = f32::from_bits((shifted.to_bits().wrapping_sub(ROUND.to_bits()) << 23).wrapping_add(1.0_f32.to_bits()));
    if x < LOWEST { 0.0 } else { fraction * power }
}

/// The greatest score; `None` where one is NaN or `+∞`, or where all are `-∞`.
pub(crate) fn peak(scores: &[f32]) -> Option<f32> {
    let mut greatest = [f32::NEG_INFINITY; LANES];
    let mut broken = [false; LANES];
    let (chunks, rest) = scores.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            // The comparison is false for NaN, so that the second line is what finds it.
            greatest[lane] = if chunk[lane] > greatest[lane] { chunk[lane] } else { greatest[lane] };
            broken[lane] |= chunk[lane].is_nan();
        }
    }
    let most = greatest.iter().chain(rest).fold(f32::NEG_INFINITY, |most, &score| most.max(score));
    let broken = broken.contains(&true) || rest.iter().any(|score| score.is_nan());
    (!broken && most.is_finite()).then_some(most)
}

/// Sum of `e^(score - peak)`.
pub(crate) fn sum_exp(scores: &[f32], peak: f32) -> f64 {
    scores.chunks(BLOCK).map(|block| block_sum(block, peak)).sum()
}

/// Scores whose sum is taken in `f32` before it goes into the `f64`.
pub(crate) const BLOCK: usize = 256;
const LANES: usize = 8;

/// Sum of `e^(score - peak)` of one block.
pub(crate) fn block_sum(block: &[f32], peak: f32) -> f64 {
    let mut sums = [0.0_f32; LANES];
    let (chunks, rest) = block.as_chunks::<LANES>();
    for chunk in chunks {
        for lane in 0..LANES {
            sums[lane] += exp(chunk[lane] - peak);
        }
    }
    sums.iter().map(|&sum| f64::from(sum)).sum::<f64>()
        + rest.iter().map(|&score| f64::from(exp(score - peak))).sum::<f64>()
}

/// Sum of `e^(score - peak)` over the scores that are no more than `most`.
pub(crate) fn sum_exp_up_to(scores: &[f32], peak: f32, most: f32) -> f64 {
    let mut total = 0.0;
    for block in scores.chunks(BLOCK) {
        let mut sums = [0.0_f32; LANES];
        let (chunks, rest) = block.as_chunks::<LANES>();
        for chunk in chunks {
            for lane in 0..LANES {
                let weight = exp(chunk[lane] - peak);
                sums[lane] += if chunk[lane] > most { 0.0 } else { weight };
            }
        }
        total += sums.iter().map(|&sum| f64::from(sum)).sum::<f64>();
        total += rest.iter().filter(|score| **score <= most).map(|&score| f64::from(exp(score - peak))).sum::<f64>();
    }
    total
}

/// `ln Σ e^score`; `None` as for [`peak`].
pub(crate) fn log_sum_exp(scores: &[f32]) -> Option<f64> {
    let peak = peak(scores)?;
    Some(f64::from(peak) + sum_exp(scores, peak).ln())
}

/// Turns scores into log-probabilities; `None`, with nothing changed, as for [`peak`].
pub(crate) fn log_softmax(scores: &mut [f32]) -> Option<()> {
    let peak = peak(scores)?;
    // Two subtractions, as the reference has them: the peak is exact, the logarithm is small.
    let log_sum = sum_exp(scores, peak).ln() as f32;
    for score in scores {
        *score = (*score - peak) - log_sum;
    }
    Some(())
}

/// Probabilities of `scores`; `None` as for [`peak`].
#[cfg(test)]
pub(crate) fn softmax(scores: &[f32]) -> Option<Vec<f32>> {
    let peak = peak(scores)?;
    let sum = sum_exp(scores, peak) as f32;
    Some(scores.iter().map(|&score| exp(score - peak) / sum).collect())
}

/// The `n` best scores with their places, the best first and equal ones by place. `-∞` and NaN are no candidates.
pub(crate) fn top(scores: &[f32], n: usize) -> Vec<(u32, f32)> {
    if n == 0 {
        return Vec::new();
    }
    let mut best: Vec<(u32, f32)> = Vec::with_capacity(n.min(scores.len()) + ROOM);
    let limit = n + n.max(ROOM);
    let mut bar = f32::NEG_INFINITY;
    for (block, chunk) in scores.chunks(SKIP).enumerate() {
        // Nearly every chunk of a large vocabulary lies below the bar.
        if !chunk.iter().any(|&score| score > bar) {
            continue;
        }
        for (place, &score) in chunk.iter().enumerate() {
            if score > bar {
                best.push(((block * SKIP + place) as u32, score));
            }
        }
        if best.len() >= limit {
            best.select_nth_unstable_by(n - 1, better_first);
            best.truncate(n);
            bar = best[n - 1].1;
        }
    }
    best.sort_unstable_by(better_first);
    best.truncate(n);
    best
}

const SKIP: usize = 32;
const ROOM: usize = 64;

/// The better score first, the lower place where they are equal.
pub(crate) fn better_first(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_that_of_the_standard_library() {
        // Two units in the last place of `f32`, relative.
        const CLOSE: f32 = 2.5e-7;
        for step in -870..=880 {
            let x = step as f32 / 10.0;
            let (ours, theirs) = (exp(x), x.exp());
            assert!((ours - theirs).abs() <= CLOSE * theirs, "{x}: {ours} {theirs}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn a_peak_is_finite_or_none() {
        let mut scores = vec![-1.0; 21];
        scores[19] = 3.0;
        assert_eq!(peak(&scores), Some(3.0));
        for (place, bad) in [(3, f32::NAN), (20, f32::NAN), (4, f32::INFINITY)] {
            let mut broken = scores.clone();
            broken[place] = bad;
            assert_eq!(peak(&broken), None, "{bad} at {place}");
        }
        assert_eq!(peak(&[f32::NEG_INFINITY; 9]), None);
        assert_eq!(peak(&[]), None);
    }

    #[test]
    fn log_probabilities_sum_to_one() {
        let mut scores: Vec<f32> = (0..1000).map(|i| ((i * 37) % 101) as f32 / 10.0 - 300.0).collect();
        let sum = log_sum_exp(&scores).unwrap();
        let exact: f64 = scores.iter().map(|&s| f64::from(s + 300.0).exp()).sum::<f64>().ln() - 300.0;
        assert!((sum - exact).abs() < 1e-6, "{sum} {exact}");
        log_softmax(&mut scores).unwrap();
        let total: f64 = scores.iter().map(|&s| f64::from(s).exp()).sum();
        assert!((total - 1.0).abs() < 1e-5, "{total}");
    }

    #[test]
    fn the_best_are_sorted_and_ties_go_by_place() {
        let scores = [1.0, 5.0, f32::NEG_INFINITY, 5.0, f32::NAN, 2.0];
        assert_eq!(top(&scores, 3), [(1, 5.0), (3, 5.0), (5, 2.0)]);
        assert_eq!(top(&scores, 9).len(), 4);
        assert!(top(&scores, 0).is_empty());
        let many: Vec<f32> = (0..5000).map(|i| ((i * 7919) % 1009) as f32).collect();
        let mut sorted: Vec<(u32, f32)> = many.iter().enumerate().map(|(i, &s)| (i as u32, s)).collect();
        sorted.sort_by(better_first);
        for n in [1, 7, 64, 500] {
            assert_eq!(top(&many, n), sorted[..n]);
        }
    }
}
