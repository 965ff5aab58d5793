//! Which of the chosen answers are set against each other.

use super::best_first;
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Pairs among some answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pairing {
    /// The best against the worst, the second best against the second worst, and so on.
    Opposite,
    /// By chance, each answer in one pair; of an odd number one is left over. Liu et al.'s first-round ranking.
    #[default]
    FirstRound,
    /// The same, and the better ones of a round meet in the next, until one is left; who is left over in a round goes on. Liu et
    /// al.'s tournament ranking.
    Tournament,
    /// Each against each, best first.
    All,
}

impl Pairing {
    /// The pairs, each with the answer of the higher reward first.
    pub(super) fn pairs(self, rewards: &[f64], rng: &mut ChaCha8Rng) -> Vec<(usize, usize)> {
        let n = rewards.len();
        match self {
            Self::Opposite => {
                let sorted = best_first(rewards);
                (0..n / 2).map(|i| (sorted[i], sorted[n - 1 - i])).collect()
            }
            Self::All => {
                let sorted = best_first(rewards);
                (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j))).map(|(i, j)| (sorted[i], sorted[j])).collect()
            }
            Self::FirstRound => round(&shuffled(n, rng), rewards),
            Self::Tournament => {
                let mut players = shuffled(n, rng);
                let mut pairs = Vec::new();
                while players.len() > 1 {
                    let met = round(&players, rewards);
                    let over = players.chunks_exact(2).remainder().to_vec();
                    players = met.iter().map(|(won, _)| *won).chain(over).collect();
                    pairs.extend(met);
                }
                pairs
            }
        }
    }
}

fn shuffled(n: usize, rng: &mut ChaCha8Rng) -> Vec<usize> {
    let mut players: Vec<usize> = (0..n).collect();
    (1..n).rev().for_each(|i| players.swap(i, rng.random_range(0..=i)));
    players
}

/// Neighbours meet. Of equal rewards the first one goes on.
fn round(players: &[usize], rewards: &[f64]) -> Vec<(usize, usize)> {
    let met = |two: &[usize]| if rewards[two[1]] > rewards[two[0]] { (two[1], two[0]) } else { (two[0], two[1]) };
    players.chunks_exact(2).map(met).collect()
}
