//! From settings to what the search works with.

use super::{Generation, TokenIds};
use crate::generation::beams::BeamRules;
use crate::generation::decoding::{Decoding, Method};
use crate::generation::processors::{
    AllowedTokens, BadWords, BeginSuppressTokens, EpsilonCutoff, EtaCutoff, FrequencyPenalty, LogitsProcessor,
    MinLength, MinNewTokens, MinP, NoRepeatNgram, PresencePenalty, RemoveInvalid, Renormalize, RepetitionPenalty,
    SequenceBias, SuppressTokens, Temperature, TopH, TopK, TopP, TypicalP,
};
use crate::generation::stop::StopRules;
use crate::settings::SettingError;
use std::sync::Arc;

/// What generation needs to know of a tokenizer.
pub trait Vocabulary {
    /// The ids of a text, without special tokens around it.
    fn encode(&self, text: &str) -> Vec<u32>;

    /// The id of the special token that is written like this, which leaves no text behind.
    fn special_id(&self, text: &str) -> Option<u32>;
}

impl Generation {
    /// What the search works with.
    ///
    /// A stop string that is a special token becomes a stop token: it would never show up in the text.
    ///
    /// # Errors
    /// [`SettingError::Rule`]: settings that do not fit together, and a bad word without tokens.
    pub fn resolve(&self, vocabulary: &dyn Vocabulary) -> Result<Decoding, SettingError> {
        self.check_together()?;
        let (tokens, strings) = self.stops(vocabulary);
        let stop = StopRules {
            ids: tokens,
            strings,
            max_new_tokens: self.max_new_tokens,
            max_length: self.max_length.filter(|_| self.max_new_tokens.is_none()),
        };
        let processors = self.processors(vocabulary, &stop.ids)?;
        Ok(Decoding {
            method: self.method(),
            processors,
            filters: self.filters(stop.ids.len()),
            stop,
            logprobs: self.logprobs.then_some(self.top_logprobs),
            seed: self.seed,
        })
    }

    fn stops(&self, vocabulary: &dyn Vocabulary) -> (Vec<u32>, Vec<String>) {
        let mut ids = TokenIds::all(&self.eos_token_id);
        let mut strings = Vec::new();
        for stop in &self.stop_strings {
            match vocabulary.special_id(stop) {
                Some(id) => ids.push(id),
                None => strings.push(stop.clone()),
            }
        }
        ids.sort_unstable();
        ids.dedup();
        (ids, strings)
    }

    fn method(&self) -> Method {
        if let Some(alpha) = self.penalty_alpha {
            return Method::Contrastive { candidates: self.top_k, alpha: alpha as f32 };
        }
        if self.num_beams > 1 {
            let rules = BeamRules {
                beams: self.num_beams,
                length_penalty: self.length_penalty,
                early_stopping: self.early_stopping,
                returned: self.num_return_sequences,
                sample: self.do_sample,
            };
            let (groups, penalty) = (self.num_beam_groups, self.diversity_penalty as f32);
            return if groups > 1 { Method::DiverseBeams { rules, groups, penalty } } else { Method::Beams(rules) };
        }
        match self.do_sample {
            true => Method::Sample { sequences: self.best_of.unwrap_or(self.num_return_sequences) },
            false => Method::Greedy,
        }
    }

    fn processors(
        &self,
        vocabulary: &dyn Vocabulary,
        stop: &[u32],
    ) -> Result<Vec<Arc<dyn LogitsProcessor>>, SettingError> {
        let mut all: Vec<Arc<dyn LogitsProcessor>> = Vec::new();
        if !self.sequence_bias.is_empty() {
            let biases = self.sequence_bias.iter().map(|biased| (biased.ids.0.clone(), biased.bias)).collect();
            all.push(Arc::new(SequenceBias { biases }));
        }
        if self.repetition_penalty != 1.0 {
            all.push(Arc::new(RepetitionPenalty { penalty: self.repetition_penalty as f32 }));
        }
        if self.frequency_penalty != 0.0 {
            all.push(Arc::new(FrequencyPenalty { penalty: self.frequency_penalty as f32 }));
        }
        if self.presence_penalty != 0.0 {
            all.push(Arc::new(PresencePenalty { penalty: self.presence_penalty as f32 }));
        }
        if self.no_repeat_ngram_size > 0 {
            all.push(Arc::new(NoRepeatNgram { size: self.no_repeat_ngram_size }));
        }
        let words = self.words(vocabulary)?;
        if !words.is_empty() {
            all.push(Arc::new(BadWords::new(words, stop)));
        }
        if self.min_length > 0 && !stop.is_empty() {
            all.push(Arc::new(MinLength { length: self.min_length, stop: stop.to_vec() }));
        }
        if self.min_new_tokens > 0 && !stop.is_empty() {
            all.push(Arc::new(MinNewTokens { tokens: self.min_new_tokens, stop: stop.to_vec() }));
        }
        self.lists(&mut all);
        Ok(all)
    }

    fn lists(&self, all: &mut Vec<Arc<dyn LogitsProcessor>>) {
        let allowed = TokenIds::all(&self.allowed_token_ids);
        if !allowed.is_empty() {
            all.push(Arc::new(AllowedTokens::new(allowed)));
        }
        if self.remove_invalid_values {
            all.push(Arc::new(RemoveInvalid));
        }
        if !self.suppress_tokens.is_empty() {
            all.push(Arc::new(SuppressTokens { ids: TokenIds::all(&self.suppress_tokens) }));
        }
        if !self.begin_suppress_tokens.is_empty() {
            all.push(Arc::new(BeginSuppressTokens { ids: TokenIds::all(&self.begin_suppress_tokens) }));
        }
    }

    fn words(&self, vocabulary: &dyn Vocabulary) -> Result<Vec<Vec<u32>>, SettingError> {
        let mut words: Vec<Vec<u32>> = self.bad_words_ids.iter().map(|word| word.0.clone()).collect();
        for word in &self.bad_words {
            // At the beginning of a text and after a space, where tokenizers have other ids for the same word.
            let spelled = [vocabulary.encode(word), vocabulary.encode(&format!(" {}", word.trim_start()))];
            for ids in spelled {
                if ids.is_empty() {
                    return Err(SettingError::rule(format!(
                        "`bad_words` holds \"{word}\", of which the tokenizer makes no token; take it out"
                    )));
                }
                words.push(ids);
            }
        }
        words.sort_unstable();
        words.dedup();
        Ok(words)
    }

    /// Filters of the distribution to draw from; what renormalizes comes last, drawn or not.
    fn filters(&self, stops: usize) -> Vec<Arc<dyn LogitsProcessor>> {
        let mut all: Vec<Arc<dyn LogitsProcessor>> = Vec::new();
        if self.do_sample {
            let keep = if self.num_beams > 1 { if stops == 0 { 2 } else { stops + 1 } } else { 1 };
            if self.temperature != 1.0 {
                all.push(Arc::new(Temperature { temperature: self.temperature as f32 }));
            }
            if let Some(h) = self.top_h {
                all.push(Arc::new(TopH { h: h as f32 }));
            }
            if self.top_k > 0 {
                all.push(Arc::new(TopK { k: self.top_k, keep }));
            }
            if self.top_p < 1.0 {
                all.push(Arc::new(TopP { p: self.top_p as f32, keep }));
            }
            if let Some(p) = self.min_p {
                all.push(Arc::new(MinP { p: p as f32, keep }));
            }
            if self.typical_p < 1.0 {
                all.push(Arc::new(TypicalP { mass: self.typical_p as f32, keep }));
            }
            if self.epsilon_cutoff > 0.0 {
                all.push(Arc::new(EpsilonCutoff { epsilon: self.epsilon_cutoff as f32, keep }));
            }
            if self.eta_cutoff > 0.0 {
                all.push(Arc::new(EtaCutoff { epsilon: self.eta_cutoff as f32, keep }));
            }
        }
        if self.renormalize_logits {
            all.push(Arc::new(Renormalize));
        }
        all
    }
}
