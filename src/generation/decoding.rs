//! What a search works with: the method, the processors, when to stop; what it asks of a model, and what a model
//! answers.

use super::beams::BeamRules;
use super::processors::{LogitsProcessor, Needs, RowContext};
use super::stop::StopRules;
use std::sync::Arc;

/// How a row's answer is made; [`Generation::resolve`](super::settings::Generation::resolve) makes it of settings.
#[derive(Clone, Debug)]
pub struct Decoding {
    /// The search.
    pub method: Method,
    /// What changes the scores, in this order; those of other crates go to the end.
    pub processors: Vec<Arc<dyn LogitsProcessor>>,
    /// What filters the distribution afterwards, where tokens are drawn and in beam search.
    pub filters: Vec<Arc<dyn LogitsProcessor>>,
    /// When an answer ends.
    pub stop: StopRules,
    /// Whether log-probabilities are returned, and how many of the likeliest tokens beside the chosen one.
    pub logprobs: Option<usize>,
    /// Seeds the draws.
    pub seed: u64,
}

/// The search.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Method {
    /// The likeliest token at each step, the lowest id of equal ones.
    Greedy,
    /// A token drawn at each step, for so many answers.
    Sample {
        /// Answers to each prompt, each with draws of its own.
        sequences: usize,
    },
    /// Beam search.
    Beams(BeamRules),
    /// Beam search in groups that keep off one another's tokens.
    DiverseBeams {
        /// The beams are those of all groups together.
        rules: BeamRules,
        /// How many groups there are.
        groups: usize,
        /// What a token loses for each beam of an earlier group that takes it at the same step.
        penalty: f32,
    },
    /// Contrastive search.
    Contrastive {
        /// Tokens among which it chooses at each step.
        candidates: usize,
        /// What likeness to the text before costs: the score is `(1 - alpha)·probability - alpha·similarity`.
        alpha: f32,
    },
}

impl Decoding {
    /// The likeliest token at each step.
    pub fn greedy(stop: StopRules) -> Self {
        let (processors, filters) = (Vec::new(), Vec::new());
        Self { method: Method::Greedy, processors, filters, stop, logprobs: None, seed: 0 }
    }

    /// The least that one lane's next token can be chosen from.
    ///
    /// `uniform` is the step's draw, for a device to draw with; without one the lane serves several sequences.
    pub(super) fn want(&self, row: &RowContext<'_>, uniform: Option<f64>) -> Want {
        if self.processors.iter().any(|processor| processor.active(row)) {
            return Want::Logits;
        }
        let reported = self.logprobs.map(|n| n.max(1));
        match self.method {
            Method::Greedy => reported.map_or(Want::Likeliest, Want::Best),
            Method::Sample { .. } => self.want_of_draw(reported, uniform),
            _ => Want::Logits,
        }
    }

    fn want_of_draw(&self, reported: Option<usize>, uniform: Option<f64>) -> Want {
        let mut temperature = 1.0;
        for filter in &self.filters {
            match filter.needs() {
                Needs::Temperature(by) => temperature *= by,
                Needs::Best(n) => return Want::Best(n.max(reported.unwrap_or(0))),
                Needs::Everything | Needs::Survivors => return Want::Logits,
            }
        }
        match (reported, uniform) {
            (None, Some(uniform)) => Want::Draw { temperature, uniform },
            _ => Want::Logits,
        }
    }

    /// Every processor in order.
    pub(super) fn process(&self, row: &RowContext<'_>, scores: &mut [f32]) {
        for processor in &self.processors {
            processor.process(row, scores);
        }
    }

    /// Every filter in order.
    pub(super) fn filter(&self, row: &RowContext<'_>, scores: &mut [f32]) {
        for filter in &self.filters {
            filter.process(row, scores);
        }
    }
}

/// What is asked of a model about one lane's next token.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ask {
    /// The least that is needed; a model may always answer with [`Lane::Logits`] instead.
    pub want: Want,
    /// Whether the likeness of the lane's last token to those before it is needed, and will be at the steps after.
    pub similarity: bool,
}

/// The least that is needed of a lane's distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Want {
    /// The id of the best logit, the lowest of equally good ones.
    Likeliest,
    /// So many of the best logits; all of them where the vocabulary has fewer.
    Best(usize),
    /// The token at which the cumulated probabilities of `logits / temperature`, in the order of ids, pass `uniform`.
    Draw {
        /// Divides the logits.
        temperature: f32,
        /// From 0 up to but not including 1.
        uniform: f64,
    },
    /// Every logit.
    Logits,
}

/// A model's answer about one lane.
#[derive(Debug)]
pub enum Lane<'a> {
    /// Every logit, in the order of ids; the search changes them in place.
    Logits(&'a mut [f32]),
    /// The best of them. An answer to [`Want::Best`].
    Best {
        /// Ids, the best first; of equally good ones at the border the lower ids.
        ids: &'a [u32],
        /// Their logits.
        logits: &'a [f32],
        /// `ln Σ e^logit` over the whole vocabulary.
        log_sum: f32,
    },
    /// The token itself. An answer to [`Want::Likeliest`] and [`Want::Draw`].
    Token(u32),
}

/// A model's answer about every lane of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Answers {
    /// About the distributions.
    pub tokens: Tokens,
    /// For each lane the greatest cosine similarity of its newest last hidden state to an earlier one, the prompt's
    /// included; empty unless it was asked for.
    pub similarities: Vec<f32>,
}

/// A model's answer about the distributions of a batch.
#[derive(Clone, Debug, PartialEq)]
pub enum Tokens {
    /// `[lanes, vocabulary]`
    Logits {
        /// Size of the vocabulary, that of the model's head.
        vocabulary: usize,
        /// Row after row.
        logits: Vec<f32>,
    },
    /// `[lanes, width]`, see [`Lane::Best`].
    Best {
        /// The most that a lane asked for, or the size of the vocabulary.
        width: usize,
        /// Row after row.
        ids: Vec<u32>,
        /// Row after row.
        logits: Vec<f32>,
        /// One for each row.
        log_sums: Vec<f32>,
    },
    /// `[lanes]`, see [`Lane::Token`].
    Chosen(Vec<u32>),
}

impl Answers {
    /// Every logit of every lane.
    pub fn logits(vocabulary: usize, logits: Vec<f32>) -> Self {
        Self { tokens: Tokens::Logits { vocabulary, logits }, similarities: Vec::new() }
    }

    /// The tokens themselves.
    pub fn chosen(ids: Vec<u32>) -> Self {
        Self { tokens: Tokens::Chosen(ids), similarities: Vec::new() }
    }

    /// The answer about each lane; `None` where sizes contradict one another.
    pub fn lanes(&mut self) -> Option<Vec<Lane<'_>>> {
        match &mut self.tokens {
            Tokens::Logits { vocabulary, logits } => {
                let whole = *vocabulary > 0 && logits.len().is_multiple_of(*vocabulary);
                whole.then(|| logits.chunks_exact_mut(*vocabulary).map(Lane::Logits).collect())
            }
            Tokens::Best { width, ids, logits, log_sums } => {
                let width = *width;
                let fits = width > 0 && ids.len() == log_sums.len() * width && logits.len() == ids.len();
                let rows = ids.chunks_exact(width.max(1)).zip(logits.chunks_exact(width.max(1))).zip(log_sums.iter());
                fits.then(|| rows.map(|((ids, logits), &log_sum)| Lane::Best { ids, logits, log_sum }).collect())
            }
            Tokens::Chosen(ids) => Some(ids.iter().map(|&id| Lane::Token(id)).collect()),
        }
    }
}

/// Asks of many lanes as one, for a model that answers all lanes alike.
#[derive(Clone, Debug, PartialEq)]
pub enum Common {
    /// The id of the best logit of each.
    Likeliest,
    /// So many of the best logits of each.
    Best(usize),
    /// A token of each: drawn with this temperature and this number, see [`Want::Draw`]; `None` takes the likeliest.
    Draw(Vec<Option<(f32, f64)>>),
    /// Every logit.
    Logits,
}

impl Common {
    /// The least that serves all of `asks`.
    pub fn of(asks: &[Ask]) -> Self {
        let mut best = 0;
        let mut lanes = Vec::with_capacity(asks.len());
        for ask in asks {
            lanes.push(match ask.want {
                Want::Logits => return Self::Logits,
                Want::Draw { temperature, uniform } => Some((temperature, uniform)),
                Want::Likeliest => None,
                Want::Best(n) => {
                    best = best.max(n);
                    None
                }
            });
        }
        match (best, lanes.iter().any(Option::is_some)) {
            (0, false) => Self::Likeliest,
            (0, true) => Self::Draw(lanes),
            (best, false) => Self::Best(best),
            _ => Self::Logits,
        }
    }
}

/// What is wrong with a row, or with what a model says of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// NaN or `+∞` among the scores.
    #[error(
        "the model's scores for token {step} of the answer are not finite; check the checkpoint and its precision, or set \
         `remove_invalid_values` to true"
    )]
    NotFinite {
        /// Number of the token, from 0.
        step: usize,
    },
    /// Every token has `-∞`.
    #[error(
        "no token is left for place {step} of the answer: processors forbid all of them; loosen `bad_words`, \
         `allowed_token_ids`, `suppress_tokens` or `no_repeat_ngram_size`"
    )]
    NothingLeft {
        /// Number of the token, from 0.
        step: usize,
    },
    /// The model answered with less than was asked for.
    #[error("the model answered {what} where the search needs {needed}")]
    TooLittle {
        /// What it answered.
        what: &'static str,
        /// What was asked.
        needed: &'static str,
    },
    /// The model answered about another number of lanes.
    #[error("the model answered about {found} lanes of {expected}")]
    Lanes {
        /// Lanes that it answered about.
        found: usize,
        /// Lanes that there are.
        expected: usize,
    },
    /// Stop strings are given, and nothing turns ids into text.
    #[error("`stop_strings` are given, but the row has no detokenizer; give it one")]
    NoDetokenizer,
}
