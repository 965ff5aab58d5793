//! How answers are made, under the names of transformers' `GenerationConfig`.

mod checkpoint;
mod ids;
mod resolve;
#[cfg(test)]
mod tests;

pub use checkpoint::CheckpointDefaults;
pub use ids::{BiasedIds, TokenIds};
pub use resolve::Vocabulary;

use crate::settings::{Kind, SettingError};
use serde::{Deserialize, Serialize};

/// When beam search stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EarlyStopping {
    /// As soon as there are as many complete answers as beams.
    #[serde(rename = "true")]
    WhenFull,
    /// When the best open beam, at its present length, is no better than the worst complete answer.
    #[default]
    #[serde(rename = "false")]
    Heuristic,
    /// When no open beam can become better than the worst complete answer.
    #[serde(rename = "never")]
    Never,
}

crate::component! {
    /// How answers are made. Names, meanings and defaults are those of transformers' `GenerationConfig`, where it has
    /// them.
    pub struct Generation, GenerationBuilder {
        /// Draws each token from the model's distribution; otherwise the likeliest is taken.
        pub do_sample: bool = false => Kind::bool(),
        /// Divides the logits before a token is drawn: less than 1 makes the likely likelier.
        pub temperature: f64 = 1.0 => Kind::number().above(0.0),
        /// Draws only from so many of the likeliest tokens; 0 from all. In contrastive search the number of candidates.
        pub top_k: usize = 50 => Kind::integer(0, i64::MAX),
        /// Draws only from the fewest likeliest tokens whose probabilities sum to this.
        pub top_p: f64 = 1.0 => Kind::number().at_least(0.0).at_most(1.0),
        /// Draws no token less likely than this share of the likeliest one.
        pub min_p: Option<f64> = None => Kind::number().at_least(0.0).at_most(1.0).or_none(),
        /// Draws only from the likeliest tokens that hold this share of the entropy.
        pub top_h: Option<f64> = None => Kind::number().above(0.0).at_most(1.0).or_none(),
        /// Draws only from the most typical tokens whose probabilities sum to this.
        pub typical_p: f64 = 1.0 => Kind::number().above(0.0).at_most(1.0),
        /// Draws no token less likely than this.
        pub epsilon_cutoff: f64 = 0.0 => Kind::number().at_least(0.0).below(1.0),
        /// Draws no token less likely than this, or than its root times e to the minus entropy.
        pub eta_cutoff: f64 = 0.0 => Kind::number().at_least(0.0).below(1.0),
        /// Divides positive logits of tokens in the prompt and the answer, and multiplies negative ones; 1 changes
        /// nothing.
        pub repetition_penalty: f64 = 1.0 => Kind::number().above(0.0),
        /// Taken off a token's logit for every time that the answer (not the prompt) holds it, as OpenAI's API has it.
        pub frequency_penalty: f64 = 0.0 => Kind::number(),
        /// Taken off the logit of every token that the answer (not the prompt) holds, as OpenAI's API has it.
        pub presence_penalty: f64 = 0.0 => Kind::number(),
        /// No sequence of so many tokens comes twice, the prompt's included; 0 does not look.
        pub no_repeat_ngram_size: usize = 0 => Kind::integer(0, i64::MAX),
        /// Texts that no answer holds, at the beginning of a word or after a space.
        pub bad_words: Vec<String> = Vec::new() => Kind::list(),
        /// Token sequences that no answer holds, each as ids with spaces between: `12 7`.
        pub bad_words_ids: Vec<TokenIds> = Vec::new() => Kind::list(),
        /// The only tokens of answers; left empty, all. Stop tokens must be among them.
        pub allowed_token_ids: Vec<TokenIds> = Vec::new() => Kind::list(),
        /// Tokens that never come.
        pub suppress_tokens: Vec<TokenIds> = Vec::new() => Kind::list(),
        /// Tokens that do not come first.
        pub begin_suppress_tokens: Vec<TokenIds> = Vec::new() => Kind::list(),
        /// What is added to the logit of a sequence's last token where the others have just come: `12 7=-2.5`.
        pub sequence_bias: Vec<BiasedIds> = Vec::new() => Kind::list(),
        /// Normalizes the scores again after all of the above.
        pub renormalize_logits: bool = false => Kind::bool(),
        /// Replaces NaN and infinities that a model yields, instead of saying so and ending.
        pub remove_invalid_values: bool = false => Kind::bool(),
        /// Beams of beam search; 1 does not search.
        pub num_beams: usize = 1 => Kind::count(),
        /// Groups of beams that keep off one another's tokens.
        pub num_beam_groups: usize = 1 => Kind::count(),
        /// How much a group's beam loses for a token that an earlier group takes at the same step.
        pub diversity_penalty: f64 = 0.0 => Kind::number().at_least(0.0),
        /// An answer's score is divided by its length to this power: above 0 favours long ones.
        pub length_penalty: f64 = 1.0 => Kind::number(),
        /// When beam search stops: `true` with as many complete answers as beams, `false` when better ones are
        /// unlikely, `never` when they are impossible.
        pub early_stopping: EarlyStopping = EarlyStopping::Heuristic => Kind::choice(&["true", "false", "never"]),
        /// Answers to each prompt.
        pub num_return_sequences: usize = 1 => Kind::count(),
        /// Contrastive search: how much a candidate loses for being like what came before.
        pub penalty_alpha: Option<f64> = None => Kind::number().above(0.0).at_most(1.0).or_none(),
        /// Draws so many answers, of which a reward chooses those that are returned.
        pub best_of: Option<usize> = None => Kind::count().or_none(),
        /// Texts that end an answer and are no part of it.
        pub stop_strings: Vec<String> = Vec::new() => Kind::list(),
        /// Tokens that end an answer; left empty, those of the checkpoint.
        pub eos_token_id: Vec<TokenIds> = Vec::new() => Kind::list(),
        /// Most tokens of an answer; left open, what `max_length` leaves, or else 20.
        pub max_new_tokens: Option<usize> = None => Kind::count().or_none(),
        /// Most tokens of prompt and answer together.
        pub max_length: Option<usize> = None => Kind::count().or_none(),
        /// No stop token before the answer has so many tokens.
        pub min_new_tokens: usize = 0 => Kind::integer(0, i64::MAX),
        /// No stop token before prompt and answer have so many tokens together.
        pub min_length: usize = 0 => Kind::integer(0, i64::MAX),
        /// Seeds the draws; a row draws the same whatever rows are beside it.
        pub seed: u64 = 42 => Kind::integer(0, i64::MAX),
        /// Returns each token's log-probability under the model, before penalties and filters.
        pub logprobs: bool = false => Kind::bool(),
        /// Returns so many of the likeliest tokens at each step as well.
        pub top_logprobs: usize = 0 => Kind::integer(0, 1000),
    }
    check = Generation::check_together;
}

impl Generation {
    /// Whether this is contrastive search.
    pub fn is_contrastive(&self) -> bool {
        self.penalty_alpha.is_some() && !self.do_sample && self.num_beams == 1
    }

    fn check_together(&self) -> Result<(), SettingError> {
        if self.stop_strings.iter().any(String::is_empty) {
            let text = "`stop_strings` holds an empty text, which would end every answer before it begins; take it out";
            return Err(SettingError::rule(text));
        }
        match self.contradictions().into_iter().next() {
            None => Ok(()),
            Some(found) => Err(SettingError::rule(found.message)),
        }
    }

    /// Every setting that another one contradicts or leaves without effect.
    fn contradictions(&self) -> Vec<Contradiction> {
        let mut found = Vec::new();
        self.idle_without_sampling(&mut found);
        self.idle_without_beams(&mut found);
        self.unfit_methods(&mut found);
        self.unfit_counts(&mut found);
        self.unfit_lengths(&mut found);
        found
    }

    fn idle_without_sampling(&self, found: &mut Vec<Contradiction>) {
        if self.do_sample {
            return;
        }
        let idle = [
            ("temperature", self.temperature != 1.0),
            ("top_k", self.top_k != 50 && self.penalty_alpha.is_none()),
            ("top_p", self.top_p != 1.0),
            ("min_p", self.min_p.is_some()),
            ("top_h", self.top_h.is_some()),
            ("typical_p", self.typical_p != 1.0),
            ("epsilon_cutoff", self.epsilon_cutoff != 0.0),
            ("eta_cutoff", self.eta_cutoff != 0.0),
            ("best_of", self.best_of.is_some()),
        ];
        for (name, _) in idle.into_iter().filter(|(_, set)| *set) {
            let message = format!(
                "`{name}` is given, but `do_sample` is false, so that nothing is drawn; set `do_sample` to true, or leave \
                 `{name}` out"
            );
            found.push(Contradiction::new(name, "do_sample", message));
        }
    }

    fn idle_without_beams(&self, found: &mut Vec<Contradiction>) {
        let (groups, penalty) = (self.num_beam_groups, self.diversity_penalty);
        if self.num_beams == 1 {
            let idle = [
                ("early_stopping", self.early_stopping != EarlyStopping::Heuristic),
                ("length_penalty", self.length_penalty != 1.0),
                ("num_beam_groups", groups != 1),
                ("diversity_penalty", penalty != 0.0),
            ];
            for (name, _) in idle.into_iter().filter(|(_, set)| *set) {
                let message = format!(
                    "`{name}` is given, but `num_beams` is 1, so that there is no beam search; raise `num_beams`, or leave \
                     `{name}` out"
                );
                found.push(Contradiction::new(name, "num_beams", message));
            }
        } else if groups > 1 && penalty == 0.0 {
            let message = format!(
                "`num_beam_groups` is {groups}, but `diversity_penalty` is 0, so that all groups would be alike; raise \
                 `diversity_penalty`"
            );
            found.push(Contradiction::new("num_beam_groups", "diversity_penalty", message));
        } else if groups == 1 && penalty > 0.0 {
            let message = format!(
                "`diversity_penalty` is {penalty}, but `num_beam_groups` is 1, so that there is no other group; raise \
                 `num_beam_groups`"
            );
            found.push(Contradiction::new("diversity_penalty", "num_beam_groups", message));
        }
    }

    fn unfit_methods(&self, found: &mut Vec<Contradiction>) {
        let (beams, groups) = (self.num_beams, self.num_beam_groups);
        let mut unfit = |idle, other, text: String| found.push(Contradiction::new(idle, other, text));
        if groups > 1 && beams > 1 && !beams.is_multiple_of(groups) {
            let text = format!(
                "`num_beams` is {beams} and `num_beam_groups` is {groups}, but groups are of one size; take a divisor \
                 of {beams}"
            );
            unfit("num_beam_groups", "num_beams", text);
        }
        if groups > 1 && self.do_sample {
            let text = format!(
                "`num_beam_groups` is {groups} and `do_sample` is true, but groups of beams do not draw; leave one of \
                 the two out"
            );
            unfit("num_beam_groups", "do_sample", text);
        }
        let Some(alpha) = self.penalty_alpha else { return };
        if self.do_sample {
            let text = format!(
                "`penalty_alpha` is {alpha} and `do_sample` is true, but contrastive search draws nothing; leave one \
                 of the two out"
            );
            unfit("penalty_alpha", "do_sample", text);
        }
        if beams > 1 {
            let text = format!(
                "`penalty_alpha` is {alpha} and `num_beams` is {beams}, but contrastive search has no beams; leave \
                 one of the two out"
            );
            unfit("penalty_alpha", "num_beams", text);
        }
        if self.top_k < 2 {
            let text = format!(
                "`penalty_alpha` is {alpha}, but `top_k` is {}, and contrastive search chooses among at least 2; \
                 raise `top_k`",
                self.top_k
            );
            unfit("penalty_alpha", "top_k", text);
        }
    }

    fn unfit_counts(&self, found: &mut Vec<Contradiction>) {
        let (returned, beams) = (self.num_return_sequences, self.num_beams);
        let mut unfit = |idle, other, text: String| found.push(Contradiction::new(idle, other, text));
        if returned > 1 && beams == 1 && !self.do_sample {
            let text = format!(
                "`num_return_sequences` is {returned}, but `do_sample` is false and `num_beams` is 1, so that all would be \
                 alike; set `do_sample` to true, or raise `num_beams`"
            );
            unfit("num_return_sequences", "do_sample", text);
        }
        if beams > 1 && returned > beams {
            let text = format!("`num_return_sequences` is {returned}, but `num_beams` is {beams}; raise `num_beams`");
            unfit("num_return_sequences", "num_beams", text);
        }
        if let Some(best_of) = self.best_of {
            if beams > 1 {
                let text = format!(
                    "`best_of` is {best_of} and `num_beams` is {beams}, but a reward chooses among drawn answers; leave one of \
                     the two out"
                );
                unfit("best_of", "num_beams", text);
            }
            if returned > best_of {
                let text = format!("`num_return_sequences` is {returned}, but `best_of` is {best_of}; raise `best_of`");
                unfit("num_return_sequences", "best_of", text);
            }
        }
        if self.top_logprobs > 0 && !self.logprobs {
            let text =
                format!("`top_logprobs` is {}, but `logprobs` is false; set `logprobs` to true", self.top_logprobs);
            unfit("top_logprobs", "logprobs", text);
        }
        let allowed = TokenIds::all(&self.allowed_token_ids);
        let suppressed = TokenIds::all(&self.suppress_tokens);
        if !allowed.is_empty() && allowed.iter().all(|id| suppressed.contains(id)) {
            let text = "every token of `allowed_token_ids` is in `suppress_tokens` too; take some out of one of them";
            unfit("suppress_tokens", "allowed_token_ids", text.to_owned());
        }
    }

    fn unfit_lengths(&self, found: &mut Vec<Contradiction>) {
        let mut unfit = |idle, other, text: String| found.push(Contradiction::new(idle, other, text));
        let (min_tokens, min_length) = (self.min_new_tokens, self.min_length);
        if let (Some(tokens), Some(length)) = (self.max_new_tokens, self.max_length) {
            let text = format!("`max_new_tokens` is {tokens} and `max_length` is {length}; leave one of the two out");
            unfit("max_length", "max_new_tokens", text);
        }
        if let Some(most) = self.max_new_tokens.filter(|&most| min_tokens > most) {
            let text =
                format!("`min_new_tokens` is {min_tokens}, but `max_new_tokens` is {most}; lower `min_new_tokens`");
            unfit("min_new_tokens", "max_new_tokens", text);
        }
        if let Some(most) = self.max_length.filter(|&most| min_length > most) {
            let text = format!("`min_length` is {min_length}, but `max_length` is {most}; lower `min_length`");
            unfit("min_length", "max_length", text);
        }
    }
}

/// Settings that contradict one another.
struct Contradiction {
    /// Any of them can be left out; that first which does nothing beside the others.
    names: [&'static str; 2],
    message: String,
}

impl Contradiction {
    fn new(idle: &'static str, other: &'static str, message: String) -> Self {
        Self { names: [idle, other], message }
    }
}
