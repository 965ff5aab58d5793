//! Prompt tuning: trained embeddings in front of every row, file-compatible with PEFT.

use super::prompt_learning::{self, Drawing, MOST, Reader};
use super::{Adapter, AdapterError, PeftContext, Start};
use crate::models::CausalLm;
use crate::nn::{PlainTable, VirtualPlace, VirtualTokens};
use crate::settings::{Component, Kind, SettingError};
use crate::text::Tokenizer;
use burn::module::{Param, ParamId};
use burn::tensor::{Device, FloatDType};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

crate::component! {
    /// Embeddings of `num_virtual_tokens` tokens that stand in front of every row and are rotated like any token's.
    ///
    /// # Source
    /// Lester et al. 2021; `peft.PromptTuningConfig`, whose names and initialisation it has. Virtual tokens stand behind
    /// the padding of a left-padded row, where PEFT puts them before it and computes other numbers than for the row alone.
    pub struct PromptTuning, PromptTuningBuilder {
        /// How many virtual tokens stand in front of a row.
        pub num_virtual_tokens: usize = 20 => Kind::integer(1, MOST),
        /// `RANDOM` starts from a normal distribution, `SAMPLE_VOCAB` from the embeddings of random tokens, `TEXT` from those
        /// of `prompt_tuning_init_text`.
        pub prompt_tuning_init: String = "RANDOM".to_owned() => Kind::choice(&["RANDOM", "SAMPLE_VOCAB", "TEXT"]),
        /// The text to start from: repeated where it has fewer tokens than are asked for, cut where it has more.
        pub prompt_tuning_init_text: Option<String> = None => Kind::text().or_none(),
        /// Whether this text begins with the token that the tokenizer puts in front of every text, as it does in PEFT.
        pub add_special_tokens: bool = true => Kind::bool(),
        /// Modules that are trained whole and saved with the adapter: `multi_modal_projector`.
        pub modules_to_save: Vec<String> = Vec::new() => Kind::list(),
    }
    check = PromptTuning::check_settings;
}

const TYPE: &str = "PROMPT_TUNING";
const INITS: &[&str] = &["RANDOM", "SAMPLE_VOCAB", "TEXT"];

impl PromptTuning {
    fn check_settings(&self) -> Result<(), SettingError> {
        super::check_modules(&self.modules_to_save)?;
        let reads = self.prompt_tuning_init == "TEXT";
        match &self.prompt_tuning_init_text {
            None if reads => Err(SettingError::rule(
                "`prompt_tuning_init` is \"TEXT\", but there is no `prompt_tuning_init_text`; give the text".to_owned(),
            )),
            Some(_) if !reads => Err(SettingError::rule(format!(
                "`prompt_tuning_init_text` does nothing while `prompt_tuning_init` is {:?}; set that to \"TEXT\"",
                self.prompt_tuning_init
            ))),
            _ if !reads && !self.add_special_tokens => Err(SettingError::rule(
                "`add_special_tokens` does nothing without `prompt_tuning_init` \"TEXT\"; leave it out".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// The tokens whose embeddings the prompt starts from; `None` for a random start.
    fn init_ids(
        &self,
        tokenizer: &Tokenizer,
        vocabulary: usize,
        rng: &mut ChaCha8Rng,
    ) -> Result<Option<Vec<u32>>, AdapterError> {
        let n = self.num_virtual_tokens;
        match (self.prompt_tuning_init.as_str(), &self.prompt_tuning_init_text) {
            ("TEXT", Some(text)) => {
                let wrong = |reason: String| AdapterError::InitText { text: text.clone(), reason };
                let bos = tokenizer.bos().filter(|_| self.add_special_tokens && tokenizer.adds_bos());
                let tokens = tokenizer.encode(text).map_err(|e| wrong(format!("cannot be tokenized: {e}")))?;
                let ids: Vec<u32> = bos.into_iter().chain(tokens.iter().map(|token| token.id)).collect();
                if ids.is_empty() {
                    return Err(wrong("has no tokens; give a text".to_owned()));
                }
                Ok(Some(ids.into_iter().cycle().take(n).collect()))
            }
            ("SAMPLE_VOCAB", _) => Ok(Some((0..n).map(|_| rng.random_range(0..vocabulary as u32)).collect())),
            _ => Ok(None),
        }
    }
}

impl crate::adapters::Removable for PromptTuning {}

impl Adapter for PromptTuning {
    const FREEZES_LANGUAGE_MODEL: bool = true;
    const MERGES: bool = false;
    const IN_FRONT: bool = true;

    fn attach<M: CausalLm>(&self, model: M, _: &str, _: &mut ChaCha8Rng, _: &Device) -> Result<M, AdapterError> {
        Ok(model)
    }

    fn virtual_tokens<M: CausalLm>(
        &self,
        model: &M,
        start: Start<'_>,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Result<Option<VirtualTokens>, AdapterError> {
        let (shape, place) = ([self.num_virtual_tokens, model.hidden_size()], VirtualPlace::Embeddings);
        let Start::Fresh(tokenizer) = start else {
            return Ok(Some(VirtualTokens::plain(shape, place, device)));
        };
        let Some(ids) = self.init_ids(tokenizer, model.vocab_size(), rng)? else {
            let mut drawing = Drawing::new(rng, device);
            drawing.table(shape);
            return Ok(Some(drawing.finish(PlainTable, place)));
        };
        let mut model = model.clone();
        let table = model.token_table_mut();
        if !table.weight.is_initialized() {
            // A model without its weights, which is only looked at, has no rows to copy.
            return Ok(Some(VirtualTokens::plain(shape, place, device)));
        }
        let rows = table.rows(&ids).detach().cast(FloatDType::F32);
        Ok(Some(VirtualTokens::from_table(Param::initialized(ParamId::new(), rows).set_require_grad(true), place)))
    }

    fn peft_config(&self, context: &PeftContext) -> Option<Value> {
        let (width, heads) = (context.sizes.hidden_size, context.sizes.num_attention_heads);
        let mut config = prompt_learning::write(TYPE, self.num_virtual_tokens, width, heads, context);
        let reads = self.prompt_tuning_init == "TEXT";
        config["prompt_tuning_init"] = self.prompt_tuning_init.clone().into();
        config["prompt_tuning_init_text"] = self.prompt_tuning_init_text.clone().into();
        // PEFT refuses a text without the tokenizer's name, even where it reads neither.
        config["tokenizer_name_or_path"] = reads.then(|| context.base_model.clone()).into();
        config["tokenizer_kwargs"] =
            if self.add_special_tokens { Value::Null } else { json!({"add_bos_token": false}) };
        Some(config)
    }

    fn modules_to_save(&self) -> Option<&[String]> {
        Some(&self.modules_to_save)
    }

    fn from_peft_config(config: &Value) -> Result<Self, AdapterError> {
        let file = Reader::new(config, TYPE, Self::NAME)?;
        let init = file.choice("prompt_tuning_init", INITS, "RANDOM, SAMPLE_VOCAB or TEXT")?;
        // How a saved prompt once started changes nothing any more.
        let reads = init == "TEXT" && config["prompt_tuning_init_text"].is_string();
        let text = config["prompt_tuning_init_text"].as_str().filter(|_| reads).map(str::to_owned);
        Ok(Self {
            num_virtual_tokens: file.count()?,
            prompt_tuning_init: if init == "TEXT" && !reads { "RANDOM".to_owned() } else { init },
            prompt_tuning_init_text: text,
            add_special_tokens: !(reads && config["tokenizer_kwargs"]["add_bos_token"] == false),
            modules_to_save: file.modules()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(builder: PromptTuningBuilder) -> String {
        builder.build().unwrap_err().to_string()
    }

    #[test]
    fn settings_that_would_do_nothing_are_refused() {
        let text = || Some("Answer.".to_owned());
        let start = |init: &str| PromptTuning::builder().prompt_tuning_init(init.to_owned());
        assert!(refused(start("TEXT")).contains("give the text"));
        assert!(refused(start("RANDOM").prompt_tuning_init_text(text())).contains("does nothing"));
        assert!(refused(start("SAMPLE_VOCAB").add_special_tokens(false)).contains("add_special_tokens"));
        let other = PromptTuning::builder().modules_to_save(vec!["layers".to_owned()]);
        assert!(refused(other).contains("`layers`"));
        start("TEXT").prompt_tuning_init_text(text()).add_special_tokens(false).build().unwrap();
    }

    #[test]
    fn what_is_written_is_read_back() {
        let tuner = PromptTuning {
            num_virtual_tokens: 3,
            prompt_tuning_init: "TEXT".to_owned(),
            prompt_tuning_init_text: Some("Answer.".to_owned()),
            add_special_tokens: false,
            modules_to_save: vec!["multi_modal_projector".to_owned()],
        };
        let modules_to_save = tuner.modules_to_save.clone();
        let context = PeftContext { base_model: "base".into(), modules_to_save, ..PeftContext::default() };
        let file = tuner.peft_config(&context).unwrap();
        assert_eq!(file["tokenizer_name_or_path"], "base");
        assert_eq!(PromptTuning::from_peft_config(&file).unwrap(), tuner);
    }
}
