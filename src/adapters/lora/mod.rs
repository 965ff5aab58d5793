//! Low-rank adaptation in activation space, file-compatible with PEFT.

mod peft;
mod rule;
mod target;

use super::{Adapter, AdapterError, PeftContext, Removable};
use crate::models::CausalLm;
use crate::nn::{AdapterSlot, Linear};
use crate::settings::{Kind, SettingError};
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use rule::LoraRule;
use std::sync::Arc;
pub use target::Targets;

crate::component! {
    /// `y = xWᵀ + s·(xAᵀ)Bᵀ` with `A: [r, in]`, `B: [out, r]`, `s = lora_alpha / r` (or `/ √r`).
    ///
    /// # Source
    /// Hu et al. 2021; `peft.LoraConfig`, whose names and initialisation it has; rank-stabilised scaling after
    /// Kalajdzievski 2023.
    pub struct Lora, LoraBuilder {
        /// Rank of the update.
        pub r: usize = 8 => Kind::integer(1, 65_536),
        /// Numerator of the update's scale.
        pub lora_alpha: f64 = 16.0 => Kind::number().above(0.0),
        /// Share of the adapter's inputs that is zeroed in training.
        pub lora_dropout: f64 = 0.0 => Kind::number().at_least(0.0).below(1.0),
        /// Divides the scale by the square root of r instead of r.
        pub use_rslora: bool = false => Kind::bool(),
        /// `all-linear`, names of layers, or one regular expression over full module paths.
        pub target_modules: Targets = Targets::AllLinear => Kind::list_or_text(),
        /// Modules that are trained whole and saved with the adapter.
        pub modules_to_save: Vec<String> = vec!["multi_modal_projector".to_owned()] => Kind::list(),
    }
    check = Lora::check_modules;
}

impl Lora {
    fn check_modules(&self) -> Result<(), SettingError> {
        match self.modules_to_save.iter().find(|m| *m != "multi_modal_projector") {
            None => Ok(()),
            Some(other) => Err(SettingError::rule(format!(
                "`modules_to_save` names `{other}`, but only `multi_modal_projector` can be trained whole beside LoRA"
            ))),
        }
    }

    /// Factor on the update.
    pub fn scale(&self) -> f32 {
        let r = self.r as f64;
        (self.lora_alpha / if self.use_rslora { r.sqrt() } else { r }) as f32
    }

    fn slot(&self, linear: &Linear, rng: &mut ChaCha8Rng, device: &Device) -> AdapterSlot {
        let [outputs, inputs] = linear.shape();
        // PEFT draws A by kaiming_uniform(a = √5), which is uniform in ±1/√in, and starts B at zero.
        let bound = 1.0 / (inputs as f32).sqrt();
        let a: Vec<f32> = (0..self.r * inputs).map(|_| rng.random_range(-bound..bound)).collect();
        let matrix = |values: Vec<f32>, shape: [usize; 2]| {
            Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), device))
        };
        AdapterSlot {
            params: vec![matrix(a, [self.r, inputs]), matrix(vec![0.0; outputs * self.r], [outputs, self.r])],
            rule: Arc::new(LoraRule { scale: self.scale(), dropout: self.lora_dropout }),
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
        let matcher = self.target_modules.matcher(prefix)?;
        let (mut attached, mut paths) = (0, Vec::new());
        model.visit_linears(&mut |path, linear| {
            if matcher.matches(path) {
                linear.adapter = Some(self.slot(linear, rng, device));
                attached += 1;
            }
            paths.push(path.to_owned());
        });
        let idle = matcher.idle(&paths);
        if attached == 0 || !idle.is_empty() {
            paths.truncate(7);
            let pattern = if idle.is_empty() { self.target_modules.to_string() } else { idle.join(", ") };
            return Err(AdapterError::NoTarget { pattern, examples: paths.join(", ") });
        }
        Ok(model)
    }

    fn peft_config(&self, context: &PeftContext) -> Option<serde_json::Value> {
        Some(peft::write(self, context))
    }

    fn trains_projector(&self) -> Option<bool> {
        Some(self.modules_to_save.iter().any(|module| module == "multi_modal_projector"))
    }

    fn from_peft_config(config: &serde_json::Value) -> Result<Self, AdapterError> {
        peft::read(config)
    }
}
