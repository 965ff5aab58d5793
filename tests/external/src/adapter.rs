//! (IA)³ on the outputs of linear layers: one learned factor per output, and nothing else.

// n rows, i in_features, o out_features
use burn::tensor::{Device, FloatDType, Tensor};
use firebrick::adapters::{AdapterError, ChaCha8Rng, PeftContext};
use firebrick::models::CausalLm;
use firebrick::nn::{AdapterSlot, LinearAdapter, PlainMap, Weight, params};
use firebrick::prelude::*;
use firebrick::settings::Kind;
use serde_json::{Value, json};
use std::sync::Arc;

firebrick::component! {
    /// `y = s ⊙ (xWᵀ) + b` with `s: [out, 1]`, which starts at one.
    ///
    /// # Source
    /// Liu et al. 2022; `peft.IA3Config` with no `feedforward_modules`, which is the same on layers without a bias.
    pub struct Ia3, Ia3Builder {
        /// Names of layers; those whose path ends in one of them are scaled.
        pub target_modules: Vec<String> = vec!["k_proj".to_owned(), "v_proj".to_owned()] => Kind::list(),
    }
}

/// The arithmetic on one layer.
#[derive(Clone, Copy, Debug)]
pub struct OutputScale;

impl LinearAdapter for OutputScale {
    fn names(&self) -> &[&'static str] {
        &["ia3_l"]
    }

    fn forward(&self, x_ni: Tensor<2>, weight: &Weight, bias_o: Option<Tensor<1>>, params: &[Tensor<2>]) -> Tensor<2> {
        // The parameter is f32; activations may be narrower.
        let scale_1o = params[0].clone().cast(FloatDType::from(x_ni.dtype())).transpose();
        // The weight multiplies by itself: it may be quantized.
        let y_no = weight.linear(x_ni, None) * scale_1o;
        match bias_o {
            Some(bias_o) => y_no + bias_o.unsqueeze(),
            None => y_no,
        }
    }

    fn merged(&self, plain: PlainMap, params: &[Tensor<2>]) -> Option<PlainMap> {
        let scale_o1 = params[0].clone().cast(FloatDType::from(plain.weight_oi.dtype()));
        Some(PlainMap { weight_oi: plain.weight_oi * scale_o1, ..plain })
    }
}

impl Ia3 {
    fn targets(&self, path: &str) -> bool {
        let ends = |name: &str| path.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        self.target_modules.iter().any(|name| ends(name))
    }
}

impl Adapter for Ia3 {
    const FREEZES_LANGUAGE_MODEL: bool = true;

    fn attach<M: CausalLm>(
        &self,
        mut model: M,
        prefix: &str,
        _rng: &mut ChaCha8Rng,
        device: &Device,
    ) -> Result<M, AdapterError> {
        let (mut attached, mut paths) = (0, Vec::new());
        model.visit_linears(&mut |path, linear| {
            if self.targets(&format!("{prefix}{path}")) {
                let [outputs, _] = linear.shape();
                let scale = params::constant([outputs, 1], 1.0, device);
                linear.adapter = Some(AdapterSlot::new(vec![scale], Arc::new(OutputScale)));
                attached += 1;
            }
            paths.push(path.to_owned());
        });
        if attached == 0 {
            paths.truncate(7);
            return Err(AdapterError::NoTarget { pattern: self.target_modules.join(", "), examples: paths.join(", ") });
        }
        Ok(model)
    }

    fn peft_config(&self, context: &PeftContext) -> Option<Value> {
        Some(json!({
            "peft_type": "IA3",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": context.base_model,
            "inference_mode": true,
            "target_modules": context.targets,
            "feedforward_modules": [],
            "modules_to_save": context.modules_to_save,
            "fan_in_fan_out": false,
            "init_ia3_weights": true,
        }))
    }

    fn from_peft_config(config: &Value) -> Result<Self, AdapterError> {
        if config["peft_type"] != "IA3" {
            return Err(AdapterError::Kind { found: config["peft_type"].to_string(), expected: Self::NAME });
        }
        let refused = config["feedforward_modules"].as_array().is_none_or(|list| !list.is_empty());
        if refused {
            return Err(AdapterError::Unsupported {
                key: "feedforward_modules".to_owned(),
                value: config["feedforward_modules"].to_string(),
                advice: "merge the adapter with PEFT and load the merged model".to_owned(),
            });
        }
        let target_modules = serde_json::from_value(config["target_modules"].clone());
        let target_modules = target_modules.map_err(|_| AdapterError::Value {
            key: "target_modules".to_owned(),
            value: config["target_modules"].to_string(),
            expected: "a list of names",
        })?;
        Ok(Self { target_modules })
    }
}
