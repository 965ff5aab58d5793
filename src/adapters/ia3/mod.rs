//! (IA)³: one learned factor per output or input of a layer, file-compatible with PEFT.

// n rows, i in_features, o out_features
use super::target::{attach_to, one_regex};
use super::{Adapter, AdapterError, PROJECTOR, PeftContext, Removable, Targets, check_modules, check_whole, file};
use crate::models::CausalLm;
use crate::nn::{AdapterSlot, LinearAdapter, PlainMap, Weight, cast_to, params, to_f32};
use crate::settings::{Kind, SettingError};
use burn::tensor::{Device, Tensor};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::sync::Arc;

crate::component! {
    /// `y = (xWᵀ + b) ⊙ l` with `l` over the outputs, and in feed-forward layers `y = (x ⊙ l)Wᵀ + b` with `l` over the
    /// inputs; `l` starts at one.
    ///
    /// # Source
    /// Liu et al. 2022; `peft.IA3Config`, whose names, defaults by model type and initialisation it has.
    pub struct Ia3, Ia3Builder {
        /// `all-linear`, names of layers, or one regular expression over full module paths; left open, PEFT's choice for
        /// the model's type.
        pub target_modules: Option<Targets> = None => Kind::list_or_text().or_none(),
        /// Those among them whose inputs are scaled, as names or one regular expression.
        pub feedforward_modules: Targets = Targets::Suffixes(vec!["down_proj".to_owned()]) => Kind::list_or_text(),
        /// Modules that are trained whole and saved with the adapter.
        pub modules_to_save: Vec<String> = vec![PROJECTOR.to_owned()] => Kind::list(),
    }
    check = Ia3::check_settings;
}

/// PEFT's default targets by `model_type`.
const DEFAULTS: &[(&str, &[&str])] = &[
    ("llama", &["k_proj", "v_proj", "down_proj"]),
    ("mistral", &["k_proj", "v_proj", "down_proj"]),
    ("qwen2", &["q_proj", "v_proj", "down_proj"]),
];

impl Ia3 {
    fn check_settings(&self) -> Result<(), SettingError> {
        check_modules(&self.modules_to_save)
    }

    fn targets(&self, model_type: &str) -> Result<Targets, AdapterError> {
        if let Some(targets) = &self.target_modules {
            return Ok(targets.clone());
        }
        let found = DEFAULTS.iter().find(|(name, _)| *name == model_type);
        let (_, names) = found.ok_or_else(|| AdapterError::NoDefault { model_type: model_type.to_owned() })?;
        Ok(Targets::Suffixes(names.iter().map(|name| (*name).to_owned()).collect()))
    }
}

impl Removable for Ia3 {}

impl Adapter for Ia3 {
    const FREEZES_LANGUAGE_MODEL: bool = true;

    fn attach<M: CausalLm>(
        &self,
        mut model: M,
        prefix: &str,
        _rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Result<M, AdapterError> {
        check_whole(&mut model, &self.modules_to_save)?;
        let targets = self.targets(model.model_type())?;
        let feedforward = self.feedforward_modules.matcher(prefix)?;
        attach_to(&mut model, &targets, prefix, &|_| true, &mut |path, linear| {
            let [outputs, inputs] = linear.shape();
            let scales = if feedforward.matches(path) { Scales::Inputs } else { Scales::Outputs };
            let shape = if scales == Scales::Inputs { [1, inputs] } else { [outputs, 1] };
            linear.adapter = Some(AdapterSlot::new(vec![params::constant(shape, 1.0, device)], Arc::new(scales)));
            Ok(())
        })?;
        Ok(model)
    }

    fn peft_config(&self, context: &PeftContext) -> Option<Value> {
        // The paths are whole ones: no prefix stands before them.
        let feedforward = self.feedforward_modules.matcher("").ok()?;
        let scaled: Vec<String> = context.targets.iter().filter(|path| feedforward.matches(path)).cloned().collect();
        let feedforward = if scaled.is_empty() { json!([]) } else { json!(one_regex(&scaled)) };
        Some(json!({
            "peft_type": "IA3",
            "task_type": context.task_type(),
            "base_model_name_or_path": context.base_model,
            "inference_mode": true,
            "target_modules": one_regex(&context.targets),
            "feedforward_modules": feedforward,
            "modules_to_save": context.modules_to_save,
            "fan_in_fan_out": false,
            "init_ia3_weights": true,
        }))
    }

    fn modules_to_save(&self) -> Option<&[String]> {
        Some(&self.modules_to_save)
    }

    fn from_peft_config(config: &Value) -> Result<Self, AdapterError> {
        const LAYERS: &str = "a list of names or a regular expression";
        file::kind(config, "IA3", "Ia3")?;
        file::refuse(config, &[("fan_in_fan_out", &["false"]), ("exclude_modules", &["[]"])])?;
        let feedforward: Option<Targets> = file::optional(config, "feedforward_modules", LAYERS)?;
        Ok(Self {
            target_modules: file::optional(config, "target_modules", LAYERS)?,
            feedforward_modules: feedforward.unwrap_or(Targets::Suffixes(Vec::new())),
            modules_to_save: file::modules_to_save(config)?,
        })
    }
}

/// What the factors of one layer act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scales {
    /// `[out, 1]`; the bias is scaled as well.
    Outputs,
    /// `[1, in]`.
    Inputs,
}

impl LinearAdapter for Scales {
    fn names(&self) -> &[&'static str] {
        &["ia3_l"]
    }

    fn forward(&self, x_ni: Tensor<2>, weight: &Weight, bias_o: Option<Tensor<1>>, params: &[Tensor<2>]) -> Tensor<2> {
        let factors = cast_to(params[0].clone(), x_ni.dtype());
        match self {
            Self::Outputs => weight.linear(x_ni, bias_o) * factors.transpose(),
            Self::Inputs => weight.linear(x_ni * factors, bias_o),
        }
    }

    fn merged(&self, plain: PlainMap, params: &[Tensor<2>]) -> Option<PlainMap> {
        let dtype = plain.weight_oi.dtype();
        let weight_oi = cast_to(to_f32(plain.weight_oi) * params[0].clone(), dtype);
        let bias_o = match self {
            Self::Inputs => plain.bias_o,
            Self::Outputs => plain.bias_o.map(|bias_o| {
                let (dtype, factors_o) = (bias_o.dtype(), params[0].clone().flatten(0, 1));
                cast_to(to_f32(bias_o) * factors_o, dtype)
            }),
        };
        Some(PlainMap { weight_oi, bias_o })
    }
}

#[cfg(all(test, feature = "cpu"))]
mod tests {
    use super::*;
    use crate::settings::audit;

    #[test]
    fn the_table_is_the_struct() {
        audit::<Ia3>().unwrap();
    }

    #[test]
    fn an_output_factor_scales_the_bias_too_and_merging_does_the_same() {
        let device = Device::flex();
        let x = Tensor::from_floats([[1.0, 2.0]], &device);
        let plain = PlainMap {
            weight_oi: Tensor::from_floats([[1.0, 1.0], [0.0, 3.0]], &device),
            bias_o: Some(Tensor::from_floats([10.0, 20.0], &device)),
        };
        for (scales, factors, expected) in [
            (Scales::Outputs, Tensor::from_floats([[2.0], [0.5]], &device), [26.0, 13.0]),
            (Scales::Inputs, Tensor::from_floats([[2.0, 0.5]], &device), [13.0, 23.0]),
        ] {
            let params = [factors];
            let y = scales.forward(x.clone(), &plain.weight_oi.clone().into(), plain.bias_o.clone(), &params);
            assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), expected);
            let merged = scales.merged(plain.clone(), &params).unwrap();
            let y = Weight::from(merged.weight_oi).linear(x.clone(), merged.bias_o);
            assert_eq!(y.into_data().try_to_vec::<f32>().unwrap(), expected);
        }
    }

    #[test]
    fn there_and_back_through_the_file() {
        let ia3 = Ia3 { modules_to_save: Vec::new(), ..Ia3::default() };
        let targets = ["self_attn.k_proj", "mlp.down_proj"].map(|name| format!("model.layers.0.{name}")).to_vec();
        let context = PeftContext { base_model: "base".into(), targets, ..PeftContext::default() };
        let config = ia3.peft_config(&context).unwrap();
        assert_eq!(config["feedforward_modules"], r"model\.layers\.(?:0)\.mlp\.down_proj");
        let back = Ia3::from_peft_config(&config).unwrap();
        assert!(back.feedforward_modules.matcher("model.").unwrap().matches("layers.0.mlp.down_proj"));
        assert!(!back.feedforward_modules.matcher("model.").unwrap().matches("layers.0.self_attn.k_proj"));
    }
}
