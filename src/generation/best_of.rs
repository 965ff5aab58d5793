//! Best of several answers, by rewards from outside.

use super::sequence::Sequence;

/// Rewards that do not fit the answers.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BestOfError {
    /// There must be one reward for each answer.
    #[error("{rewards} rewards are given for {answers} answers; give one for each")]
    Count {
        /// How many answers there are.
        answers: usize,
        /// How many rewards.
        rewards: usize,
    },
    /// NaN has no rank.
    #[error("the reward of answer {answer} is no number; check the reward model")]
    NotANumber {
        /// Number of the answer, from 0.
        answer: usize,
    },
}

/// The `n` answers with the highest rewards, the best first and equally good ones in the order in which they were made.
///
/// # Errors
/// [`BestOfError`]
pub fn best_of(answers: Vec<Sequence>, rewards: &[f64], n: usize) -> Result<Vec<(f64, Sequence)>, BestOfError> {
    if answers.len() != rewards.len() {
        return Err(BestOfError::Count { answers: answers.len(), rewards: rewards.len() });
    }
    if let Some(answer) = rewards.iter().position(|reward| reward.is_nan()) {
        return Err(BestOfError::NotANumber { answer });
    }
    let mut ranked: Vec<(f64, Sequence)> = rewards.iter().copied().zip(answers).collect();
    ranked.sort_by(|a, b| b.0.total_cmp(&a.0));
    ranked.truncate(n);
    Ok(ranked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generation::stop::FinishReason;

    fn answer(id: u32) -> Sequence {
        let finish = FinishReason::Length;
        Sequence { ids: vec![id], text: String::new(), finish, score: None, logprobs: Vec::new() }
    }

    #[test]
    fn the_highest_rewards_come_first() {
        let best = best_of(vec![answer(0), answer(1), answer(2), answer(3)], &[0.5, -1.0, 2.0, 0.5], 3).unwrap();
        let order: Vec<(f64, u32)> = best.iter().map(|(reward, answer)| (*reward, answer.ids[0])).collect();
        assert_eq!(order, [(2.0, 2), (0.5, 0), (0.5, 3)]);
    }

    #[test]
    fn rewards_must_fit() {
        let message = |rewards: &[f64]| best_of(vec![answer(0), answer(1)], rewards, 1).unwrap_err().to_string();
        assert_eq!(message(&[1.0]), "1 rewards are given for 2 answers; give one for each");
        assert_eq!(message(&[1.0, f64::NAN]), "the reward of answer 1 is no number; check the reward model");
    }
}
