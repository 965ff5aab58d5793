//! The quantities that losses over pairs are made of.

// s tokens, p pairs; rows are two a pair, chosen first
use super::Modifiers;
use crate::example::Facts;
use crate::objectives::signal::sum_rows;
use crate::objectives::{Inputs, StepTotals, TokenLogProbs};
use burn::tensor::{Device, Tensor};

/// Something of the chosen answers and of the rejected ones.
#[derive(Clone, Debug)]
pub(crate) struct Sides<T> {
    pub chosen: T,
    pub rejected: T,
}

impl<T> Sides<T> {
    pub fn map<U>(self, mut f: impl FnMut(T) -> U) -> Sides<U> {
        Sides { chosen: f(self.chosen), rejected: f(self.rejected) }
    }

    pub fn zip<U>(self, other: Sides<U>) -> Sides<(T, U)> {
        Sides { chosen: (self.chosen, other.chosen), rejected: (self.rejected, other.rejected) }
    }
}

impl<T: Copy> Sides<Vec<T>> {
    /// Of values that follow one another: chosen, rejected, chosen, …
    pub fn of_values(rows: &[T]) -> Self {
        let every_other = |start: usize| rows[start..].iter().step_by(2).copied().collect();
        Sides { chosen: every_other(0), rejected: every_other(1) }
    }
}

impl Sides<Tensor<1>> {
    /// Of `[rows]`, which follow one another: chosen, rejected, chosen, …
    pub fn of_rows(rows: Tensor<1>) -> Self {
        let pairs = rows.dims()[0] / 2;
        let rows = rows.reshape([pairs, 2]);
        let side = |column| rows.clone().narrow(1, column, 1).reshape([pairs]);
        Sides { chosen: side(0), rejected: side(1) }
    }

    /// Chosen less rejected.
    pub fn difference(self) -> Tensor<1> {
        self.chosen - self.rejected
    }
}

/// What one micro-batch of pairs says.
pub(crate) struct Terms<'a> {
    policy: TokenLogProbs,
    reference: Option<TokenLogProbs>,
    /// What the records say besides.
    pub facts: &'a [Facts],
    /// The whole step.
    pub step: &'a StepTotals,
    /// Numbers of tokens of the answers.
    pub lengths: Sides<Vec<usize>>,
    modifiers: Modifiers,
    pi_rows: Tensor<1>,
    rho_rows: Option<Tensor<1>>,
    pair_weights: Option<Tensor<1>>,
}

impl<'a> Terms<'a> {
    pub fn new(inputs: Inputs<'a, TokenLogProbs>, step: &'a StepTotals, modifiers: Modifiers) -> Self {
        let Inputs { policy, reference, facts, .. } = inputs;
        assert!(policy.per_row.len().is_multiple_of(2), "pairs come as two rows each, not {}", policy.per_row.len());
        let pair_weights = modifiers.use_weighting.then(|| pair_weights(&policy));
        Self {
            lengths: Sides::of_values(&policy.per_row),
            pi_rows: modifiers.rows(&policy),
            rho_rows: reference.as_ref().map(|tokens| modifiers.rows(tokens)),
            pair_weights,
            policy,
            reference,
            facts,
            step,
            modifiers,
        }
    }

    /// Number of pairs.
    pub fn pairs(&self) -> usize {
        self.lengths.chosen.len()
    }

    pub fn device(&self) -> Device {
        self.pi_rows.device()
    }

    /// The tokens' values of the policy.
    pub fn tokens(&self) -> &TokenLogProbs {
        &self.policy
    }

    /// π_w and π_l: the policy's log-probabilities of whole answers. # Shapes: `[p]`.
    pub fn policy(&self) -> Sides<Tensor<1>> {
        Sides::of_rows(self.pi_rows.clone())
    }

    /// ρ_w and ρ_l: the reference's, where there is one. # Shapes: `[p]`.
    pub fn reference(&self) -> Option<Sides<Tensor<1>>> {
        self.rho_rows.clone().map(Sides::of_rows)
    }

    /// ρ_w and ρ_l, for a loss that compares. # Shapes: `[p]`.
    pub fn compared(&self) -> Sides<Tensor<1>> {
        self.reference().expect(REFERENCE)
    }

    /// a and b: the log-ratios of policy and reference. # Shapes: `[p]`.
    pub fn ratios(&self) -> Sides<Tensor<1>> {
        Sides::of_rows(self.pi_rows.clone() - self.rho_rows.clone().expect(REFERENCE))
    }

    /// a and b as the divergence scores them. # Shapes: `[p]`.
    pub fn scores(&self) -> Sides<Tensor<1>> {
        let Modifiers { f_divergence_type, f_alpha_divergence_coef, .. } = self.modifiers;
        self.ratios().map(|ratio| f_divergence_type.score(ratio, f_alpha_divergence_coef))
    }

    /// h: the difference of the scores. # Shapes: `[p]`.
    pub fn h(&self) -> Tensor<1> {
        self.scores().difference()
    }

    /// Per token of the answer. # Shapes: `[p]`.
    pub fn per_token(&self, sides: Sides<Tensor<1>>) -> Sides<Tensor<1>> {
        sides.zip(self.lengths.clone()).map(|(values, lengths)| {
            let share: Vec<f32> = lengths.iter().map(|&n| 1.0 / n.max(1) as f32).collect();
            values * self.host(&share)
        })
    }

    /// The policy's mean log-probability of an answer's tokens. # Shapes: `[p]`.
    pub fn means(&self) -> Sides<Tensor<1>> {
        self.per_token(Sides::of_rows(self.policy.sums()))
    }

    /// Log-ratios over some tokens only, which `weights` picks; policy and reference have the same ones. # Shapes: `[p]`.
    pub fn weighted_ratios(&self, weights: &[f32]) -> Sides<Tensor<1>> {
        let reference = self.reference.as_ref().expect(REFERENCE);
        Sides::of_rows(self.policy.weighted_sums(weights) - reference.weighted_sums(weights))
    }

    /// Sums over the tokens of the chosen answers, whatever the modifiers say. # Shapes: `[p]`.
    pub fn chosen_sums(&self) -> Tensor<1> {
        Sides::of_rows(self.policy.sums()).chosen
    }

    /// Negative log-likelihood of the chosen answers' tokens as its share of the step's mean over them. # Shapes: `[1]`.
    pub fn chosen_nll(&self) -> Tensor<1> {
        let tokens = self.step.tokens.first().copied().unwrap_or_default();
        self.weighted(self.chosen_sums()).sum() * (-1.0 / tokens.max(1) as f64)
    }

    /// Negative log-likelihood of the tokens of the chosen rows, those before the answer included: the mean over this
    /// micro-batch's. # Shapes: `[1]`.
    pub fn chosen_rows_nll(&self) -> Tensor<1> {
        let (prompt, counts) = self.policy.prompt.clone().expect("the prompt was asked for");
        let before = Sides::of_values(&counts).chosen;
        let tokens: usize = before.iter().chain(&self.lengths.chosen).sum();
        let sums = Sides::of_rows(sum_rows(prompt, &counts)).chosen + self.chosen_sums();
        sums.sum() * (-1.0 / tokens.max(1) as f64)
    }

    /// Losses of pairs as their share of the step's mean over pairs. # Shapes: `[p]` to `[1]`.
    pub fn over_pairs(&self, losses: Tensor<1>) -> Tensor<1> {
        self.weighted(losses).sum() * (1.0 / self.step.examples.max(1) as f64)
    }

    /// A mean over this micro-batch's pairs as its share of the step's. # Shapes: `[1]`.
    pub fn by_pairs(&self, mean: Tensor<1>) -> Tensor<1> {
        mean * (self.pairs() as f64 / self.step.examples.max(1) as f64)
    }

    /// One number of the host for each pair. # Shapes: `[p]`.
    pub fn host(&self, values: &[f32]) -> Tensor<1> {
        Tensor::from_data(values, &self.device())
    }

    fn weighted(&self, values: Tensor<1>) -> Tensor<1> {
        match &self.pair_weights {
            Some(weights) => values * weights.clone(),
            None => values,
        }
    }
}

/// What [`crate::objectives::Objective::compares`] promises.
const REFERENCE: &str = "a loss that compares is given the reference's log-probabilities";

/// WPO's weights: how likely both answers are under the policy, each token against what it gives on average; without
/// gradient. # Shapes: `[p]`.
fn pair_weights(policy: &TokenLogProbs) -> Tensor<1> {
    let collisions = policy.collisions.clone().expect("the collisions were asked for").inner();
    let aligned = TokenLogProbs::new(policy.values.clone().inner() - collisions, policy.per_row.clone(), Vec::new());
    let means = Sides::of_rows(aligned.means());
    (means.chosen + means.rejected).exp()
}
