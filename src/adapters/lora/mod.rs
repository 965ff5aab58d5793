//! Low-rank adaptation in activation space, and its kinds DoRA and PiSSA, file-compatible with PEFT.

mod combine;
mod init;
mod lists;
mod peft;
mod rule;
mod svd;

use super::target::attach_to;
use super::{Adapter, AdapterError, PROJECTOR, PeftContext, Removable, Targets, check_modules, check_whole};
use crate::models::CausalLm;
use crate::nn::{AdapterSlot, Linear, PutRows, params};
use crate::settings::{Kind, SettingError};
use burn::tensor::Device;
pub use combine::{CombinationType, Combine, CombineError, Factors, MajoritySign, Mask, Matrix};
pub use init::Init;
pub use lists::{Layers, Pattern, TokenIndices};
use rand_chacha::ChaCha8Rng;
use rule::LoraRule;
use std::sync::Arc;
pub use svd::{Svd, truncated_svd};

crate::component! {
    /// `y = xWᵀ + b + s·(xAᵀ)Bᵀ` with `A: [r, in]`, `B: [out, r]`, `s = lora_alpha / r` (or `/ √r`).
    ///
    /// With `use_dora`, `y = b + g ⊙ (xWᵀ + s·(xAᵀ)Bᵀ)` with `g = m / ‖W + s·BA‖` per output, the norm without gradient.
    ///
    /// # Source
    /// Hu et al. 2021; `peft.LoraConfig`, whose names and initialisation it has; rank-stabilised scaling after
    /// Kalajdzievski 2023; DoRA after Liu et al. 2024; PiSSA after Meng et al. 2024.
    pub struct Lora, LoraBuilder {
        /// Rank of the update.
        pub r: usize = 8 => Kind::integer(1, 65_536),
        /// Numerator of the update's scale.
        pub lora_alpha: f64 = 16.0 => Kind::number().above(0.0),
        /// Share of the adapter's inputs that is zeroed in training.
        pub lora_dropout: f64 = 0.0 => Kind::number().at_least(0.0).below(1.0),
        /// Divides the scale by the square root of r instead of r.
        pub use_rslora: bool = false => Kind::bool(),
        /// Trains the norm of each output's weights apart from their direction.
        pub use_dora: bool = false => Kind::bool(),
        /// How A and B start: `default` (A uniform, B zero), `gaussian` (A normal, B zero), or `pissa`, from the weight's
        /// largest singular values, which then leave the base; such an adapter is saved as a plain LoRA of twice the rank.
        pub init_lora_weights: Init = Init::Default => Kind::choice(&["default", "gaussian", "pissa"]),
        /// `all-linear`, names of layers, or one regular expression over full module paths.
        pub target_modules: Targets = Targets::AllLinear => Kind::list_or_text(),
        /// Layers that stay without an adapter, named as in target_modules.
        pub exclude_modules: Targets = lists::nothing() => Kind::list_or_text(),
        /// Numbers of the blocks that carry an adapter; all where there are none.
        pub layers_to_transform: Layers = Layers::default() => Kind::list(),
        /// Ranks of their own, as `layer=rank`; a layer is the end of a path, or an expression for it.
        pub rank_pattern: Pattern = Pattern::default() => Kind::list(),
        /// Numerators of their own, as `layer=alpha`.
        pub alpha_pattern: Pattern = Pattern::default() => Kind::list(),
        /// Tokens whose rows of the token table are trained; `lm_head=ID` for rows of a head of its own.
        pub trainable_token_indices: TokenIndices = TokenIndices::default() => Kind::list(),
        /// Modules that are trained whole and saved with the adapter.
        pub modules_to_save: Vec<String> = vec![PROJECTOR.to_owned()] => Kind::list(),
    }
    check = Lora::check_settings;
}

impl Lora {
    fn check_settings(&self) -> Result<(), SettingError> {
        check_modules(&self.modules_to_save)?;
        if let Some((layer, rank)) = self.rank_pattern.0.iter().find(|(_, r)| r.fract() != 0.0 || *r > 65_536.0) {
            return Err(SettingError::rule(format!(
                "`rank_pattern` gives {layer} the rank {rank}, but a rank is a whole number from 1 to 65536"
            )));
        }
        if !self.layers_to_transform.0.is_empty() && matches!(self.target_modules, Targets::Regex(_)) {
            return Err(SettingError::rule(
                "`layers_to_transform` picks among layers that `target_modules` lists by name, but it is a regular \
                 expression; name the blocks in the expression"
                    .to_owned(),
            ));
        }
        for (module, indices) in [
            ("embed_tokens", &self.trainable_token_indices.embed_tokens),
            ("lm_head", &self.trainable_token_indices.lm_head),
        ] {
            if !indices.is_empty() && self.modules_to_save.iter().any(|whole| whole == module) {
                return Err(SettingError::rule(format!(
                    "`modules_to_save` trains all of {module}, and `trainable_token_indices` some rows of it; leave one out"
                )));
            }
        }
        Ok(())
    }

    /// Factor on the update, where no pattern says otherwise.
    pub fn scale(&self) -> f32 {
        self.scale_of(self.lora_alpha, self.r)
    }

    fn scale_of(&self, alpha: f64, rank: usize) -> f32 {
        let r = rank as f64;
        (alpha / if self.use_rslora { r.sqrt() } else { r }) as f32
    }

    /// Rank and scale on the layer at `path` in transformers' class.
    ///
    /// # Errors
    /// [`AdapterError::Pattern`].
    pub fn rank_and_scale(&self, path: &str) -> Result<(usize, f32), AdapterError> {
        let rank = self.rank_pattern.of(path)?.map_or(self.r, |rank| rank as usize);
        let alpha = self.alpha_pattern.of(path)?.unwrap_or(self.lora_alpha);
        Ok((rank, self.scale_of(alpha, rank)))
    }

    fn slot(
        &self,
        path: &str,
        linear: &Linear,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Result<AdapterSlot, AdapterError> {
        let (rank, scale) = self.rank_and_scale(path)?;
        let [outputs, inputs] = linear.shape();
        if let (Init::Pissa, Some(weight)) = (self.init_lora_weights, linear.weight.quantized()) {
            return Err(AdapterError::Quantized { layer: path.to_owned(), format: weight.format() });
        }
        if self.init_lora_weights == Init::Pissa && rank > outputs.min(inputs) {
            return Err(AdapterError::Rank { layer: path.to_owned(), rank, outputs, inputs });
        }
        let start = self.init_lora_weights.draw(linear, rank, scale, rng, device);
        let mut params = vec![start.a, start.b];
        if self.use_dora {
            let weight = linear.weight.clone();
            // At the start the update is nothing, so that the weight's own norms are those of the sum.
            params.push(params::derived([outputs, 1], device, move |_| crate::nn::row_squares(weight.dense()).sqrt()));
        }
        let rule = LoraRule { scale, dropout: self.lora_dropout, dora: self.use_dora };
        Ok(AdapterSlot { params, fixed: start.fixed, rule: Arc::new(rule) })
    }

    /// Trains the rows of single tokens.
    fn attach_rows<M: CausalLm>(&self, model: &mut M) -> Result<(), AdapterError> {
        let TokenIndices { embed_tokens, lm_head } = &self.trainable_token_indices;
        let rows = model.vocab_size();
        if let Some(id) = embed_tokens.iter().chain(lm_head).find(|id| **id as usize >= rows) {
            return Err(AdapterError::Token { id: *id, rows });
        }
        if !embed_tokens.is_empty() {
            model.token_table_mut().train_rows(embed_tokens);
        }
        match model.head_mut() {
            _ if lm_head.is_empty() => Ok(()),
            Some(head) => {
                head.adapter = Some(PutRows::on(head, lm_head));
                Ok(())
            }
            None => Err(AdapterError::Tied { key: "trainable_token_indices", module: "lm_head".to_owned() }),
        }
    }
}

impl Removable for Lora {}

impl Adapter for Lora {
    const FREEZES_LANGUAGE_MODEL: bool = true;

    fn attach<M: CausalLm>(
        &self,
        mut model: M,
        prefix: &str,
        rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Result<M, AdapterError> {
        check_whole(&mut model, &self.modules_to_save)?;
        let excluded = self.exclude_modules.matcher(prefix)?;
        let wanted = |path: &str| self.layers_to_transform.hold(path) && !excluded.matches(path);
        attach_to(&mut model, &self.target_modules, prefix, &wanted, &mut |path, linear| {
            linear.adapter = Some(self.slot(&format!("{prefix}{path}"), linear, rng, device)?);
            Ok(())
        })?;
        self.attach_rows(&mut model)?;
        Ok(model)
    }

    fn peft_config(&self, context: &PeftContext) -> Option<serde_json::Value> {
        Some(peft::write(self, context))
    }

    fn modules_to_save(&self) -> Option<&[String]> {
        Some(&self.modules_to_save)
    }

    fn from_peft_config(config: &serde_json::Value) -> Result<Self, AdapterError> {
        peft::read(config)
    }
}
