//! Prefix tuning: trained keys and values in front of every layer's own, file-compatible with PEFT.

mod rule;

use super::prompt_learning::{self, Drawing, MOST, Reader};
use super::{Adapter, AdapterError, PeftContext, Start};
use crate::models::CausalLm;
use crate::nn::{PlainTable, VirtualPlace, VirtualTokens};
use crate::settings::{Component, Kind, SettingError};
use burn::tensor::Device;
use rand_chacha::ChaCha8Rng;
use rule::Projection;
use serde_json::Value;

crate::component! {
    /// Keys and values of `num_virtual_tokens` tokens in every layer, which every token sees; they are not rotated.
    ///
    /// What is saved are the keys and values: a saved folder is trained on without the projection that made them.
    ///
    /// # Source
    /// Li and Liang 2021; `peft.PrefixTuningConfig`, whose names and initialisation it has.
    pub struct PrefixTuning, PrefixTuningBuilder {
        /// How many virtual tokens stand in front of a row.
        pub num_virtual_tokens: usize = 20 => Kind::integer(1, MOST),
        /// Whether the keys and values are made from a smaller table by two layers with a tanh between them.
        pub prefix_projection: bool = false => Kind::bool(),
        /// Width between these two layers; left open, that of a layer's keys.
        pub encoder_hidden_size: Option<usize> = None => Kind::count().or_none(),
        /// `zero` starts with keys and values of 0, which is not the base model: they share in every softmax.
        pub init_weights: Option<String> = None => Kind::choice(&["zero"]).or_none(),
        /// Modules that are trained whole and saved with the adapter: `multi_modal_projector`.
        pub modules_to_save: Vec<String> = Vec::new() => Kind::list(),
    }
    check = PrefixTuning::check_settings;
}

const TYPE: &str = "PREFIX_TUNING";

impl PrefixTuning {
    fn check_settings(&self) -> Result<(), SettingError> {
        super::check_modules(&self.modules_to_save)?;
        match self.encoder_hidden_size {
            Some(width) if !self.prefix_projection => Err(SettingError::rule(format!(
                "`encoder_hidden_size` is {width}, but without `prefix_projection` nothing has this width; leave it out, or set \
                 `prefix_projection` to true"
            ))),
            _ => Ok(()),
        }
    }
}

impl crate::adapters::Removable for PrefixTuning {}

impl Adapter for PrefixTuning {
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
        let n = self.num_virtual_tokens;
        let width = model.num_key_value_heads() * model.head_dim();
        let all = 2 * model.num_layers() * width;
        let place = VirtualPlace::KeysAndValues;
        if matches!(start, Start::Saved) {
            return Ok(Some(VirtualTokens::plain([n, all], place, device)));
        }
        let zero = self.init_weights.is_some();
        let mut drawing = Drawing::new(rng, device);
        if !self.prefix_projection {
            if zero {
                drawing.given(vec![0.0; n * all], [n, all])
            } else {
                drawing.table([n, all])
            }
            return Ok(Some(drawing.finish(PlainTable, place)));
        }
        let hidden = self.encoder_hidden_size.unwrap_or(width);
        drawing.table([n, width]);
        drawing.linear(width, hidden);
        match zero {
            false => drawing.linear(hidden, all),
            true => drawing.zero_linear(hidden, all),
        }
        Ok(Some(drawing.finish(Projection, place)))
    }

    fn peft_config(&self, context: &PeftContext) -> Option<Value> {
        let sizes = &context.sizes;
        let (heads, width) = (sizes.num_key_value_heads, sizes.num_key_value_heads * sizes.head_dim);
        let mut config = prompt_learning::write(TYPE, self.num_virtual_tokens, width, heads, context);
        config["prefix_projection"] = self.prefix_projection.into();
        config["encoder_hidden_size"] = self.encoder_hidden_size.unwrap_or(width).into();
        config["init_weights"] = self.init_weights.clone().into();
        Some(config)
    }

    fn modules_to_save(&self) -> Option<&[String]> {
        Some(&self.modules_to_save)
    }

    fn from_peft_config(config: &Value) -> Result<Self, AdapterError> {
        let file = Reader::new(config, TYPE, Self::NAME)?;
        let prefix_projection = file.bool("prefix_projection")?;
        // PEFT writes a width where there is no layer of it, too.
        let hidden = file.opt_count("encoder_hidden_size")?.filter(|_| prefix_projection);
        let zero = file.choice("init_weights", &["", "zero"], "null or \"zero\"")?;
        Ok(Self {
            num_virtual_tokens: file.count()?,
            prefix_projection,
            encoder_hidden_size: hidden,
            init_weights: Some(zero).filter(|zero| !zero.is_empty()),
            modules_to_save: file.modules()?,
        })
    }
}
