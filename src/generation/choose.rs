//! The choice of one lane's next token, and the log-probabilities that are reported with it.

use super::decoding::{DecodeError, Decoding, Lane, Method, Want};
use super::math::{self, better_first};
use super::processors::RowContext;
use super::sample::{self, Draws};

/// A token's log-probability under the model, before processors and filters.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub id: u32,
    /// In nats.
    pub logprob: f32,
    /// The likeliest tokens at this step, as many as were asked for, the likeliest first.
    pub top: Vec<(u32, f32)>,
}

/// A chosen token.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Choice {
    pub(super) id: u32,
    /// Where log-probabilities are returned.
    pub(super) logprob: Option<TokenLogprob>,
}

impl Decoding {
    /// The next token of a sequence, the likeliest or a drawn one.
    pub(super) fn choose(&self, row: &RowContext<'_>, lane: Lane<'_>, draws: &Draws) -> Result<Choice, DecodeError> {
        match lane {
            Lane::Logits(scores) => self.choose_of_all(row, scores, draws),
            Lane::Best { ids, logits, log_sum } => self.choose_of_best(row, (ids, logits, log_sum), draws),
            Lane::Token(id) => match self.want(row, Some(0.0)) {
                Want::Likeliest | Want::Draw { .. } => Ok(Choice { id, logprob: None }),
                _ => Err(DecodeError::TooLittle { what: "a token", needed: "logits" }),
            },
        }
    }

    fn choose_of_all(&self, row: &RowContext<'_>, scores: &mut [f32], draws: &Draws) -> Result<Choice, DecodeError> {
        let reported = match self.logprobs {
            None => None,
            Some(n) => Some(Reported::of_all(scores, n).ok_or(DecodeError::NotFinite { step: row.step() })?),
        };
        self.process(row, scores);
        let place = self.pick(row, scores, draws)?;
        let id = place as u32;
        Ok(Choice { id, logprob: reported.map(|reported| reported.about(id)) })
    }

    fn choose_of_best(
        &self,
        row: &RowContext<'_>,
        (ids, logits, log_sum): (&[u32], &[f32], f32),
        draws: &Draws,
    ) -> Result<Choice, DecodeError> {
        if !matches!(self.want(row, None), Want::Likeliest | Want::Best(_)) {
            return Err(DecodeError::TooLittle { what: "the best logits", needed: "all of them" });
        }
        // By id, as in the whole vocabulary: a draw adds up probabilities in this order.
        let mut best: Vec<(u32, f32)> = ids.iter().copied().zip(logits.iter().copied()).collect();
        best.sort_unstable_by_key(|&(id, _)| id);
        let mut scores: Vec<f32> = best.iter().map(|&(_, logit)| logit).collect();
        let place = self.pick(row, &mut scores, draws)?;
        let (id, logit) = best[place];
        let logprob = self.logprobs.map(|n| {
            best.sort_unstable_by(better_first);
            let top = best.iter().take(n).map(|&(id, logit)| (id, logit - log_sum)).collect();
            TokenLogprob { id, logprob: logit - log_sum, top }
        });
        Ok(Choice { id, logprob })
    }

    /// The place of the chosen score.
    fn pick(&self, row: &RowContext<'_>, scores: &mut [f32], draws: &Draws) -> Result<usize, DecodeError> {
        let place = match self.method {
            Method::Sample { .. } => {
                self.filter(row, scores);
                sample::draw(scores, draws.uniform(row.step()))
            }
            _ => sample::argmax(scores),
        };
        place.ok_or_else(|| unusable(scores, row.step()))
    }
}

/// Why nothing can be chosen from `scores`.
pub(super) fn unusable(scores: &[f32], step: usize) -> DecodeError {
    match scores.iter().all(|&score| score == f32::NEG_INFINITY) {
        true => DecodeError::NothingLeft { step },
        false => DecodeError::NotFinite { step },
    }
}

/// What log-probabilities are made of: scores as the model gave them.
#[derive(Debug)]
pub(super) struct Reported {
    logits: Vec<f32>,
    log_sum: f64,
    top: Vec<(u32, f32)>,
}

impl Reported {
    /// Of all logits, with the `n` likeliest tokens; `None` where one is NaN or `+∞`.
    pub(super) fn of_all(logits: &[f32], n: usize) -> Option<Self> {
        let log_sum = math::log_sum_exp(logits)?;
        let top =
            math::top(logits, n).into_iter().map(|(id, logit)| (id, (f64::from(logit) - log_sum) as f32)).collect();
        Some(Self { logits: logits.to_vec(), log_sum, top })
    }

    /// About the token that was chosen.
    pub(super) fn about(&self, id: u32) -> TokenLogprob {
        let logit = self.logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
        TokenLogprob { id, logprob: (f64::from(logit) - self.log_sum) as f32, top: self.top.clone() }
    }
}
