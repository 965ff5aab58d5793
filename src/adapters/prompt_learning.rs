//! What the tuners of virtual tokens share: random starts, and the common part of `adapter_config.json`.

use super::{AdapterError, PeftContext};
use crate::nn::{PromptEncoder, PromptRule, VirtualPlace, VirtualTokens};
use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};
use std::sync::Arc;

/// Most virtual tokens: a damaged file must not take all memory.
pub(super) const MOST: i64 = 65_536;

/// Parameters of a prompt encoder, drawn as PEFT draws them.
pub(super) struct Drawing<'a> {
    rng: &'a mut ChaCha8Rng,
    device: &'a Device,
    matrices: Vec<Param<Tensor<2>>>,
    biases: Vec<Param<Tensor<1>>>,
}

impl<'a> Drawing<'a> {
    pub(super) fn new(rng: &'a mut ChaCha8Rng, device: &'a Device) -> Self {
        Self { rng, device, matrices: Vec::new(), biases: Vec::new() }
    }

    /// A table from `N(0, 1)`, as `torch.nn.Embedding` starts.
    pub(super) fn table(&mut self, shape: [usize; 2]) {
        let values = (0..shape[0] * shape[1]).map(|_| normal(self.rng)).collect();
        self.given(values, shape);
    }

    /// A matrix of given values.
    pub(super) fn given(&mut self, values: Vec<f32>, shape: [usize; 2]) {
        self.matrices.push(Param::from_tensor(Tensor::from_data(TensorData::new(values, shape), self.device)));
    }

    /// A matrix and its bias, uniform in `±1/√inputs`, as `torch.nn.Linear` starts.
    pub(super) fn linear(&mut self, inputs: usize, outputs: usize) {
        let bound = 1.0 / (inputs as f32).sqrt();
        self.matrix([outputs, inputs], bound);
        self.bias(outputs, bound);
    }

    /// A matrix and its bias of zeros.
    pub(super) fn zero_linear(&mut self, inputs: usize, outputs: usize) {
        self.given(vec![0.0; outputs * inputs], [outputs, inputs]);
        self.biases.push(Param::from_tensor(Tensor::zeros([outputs], self.device)));
    }

    /// A matrix, uniform in `±bound`.
    pub(super) fn matrix(&mut self, shape: [usize; 2], bound: f32) {
        let values = (0..shape[0] * shape[1]).map(|_| self.rng.random_range(-bound..bound)).collect();
        self.given(values, shape);
    }

    /// A vector, uniform in `±bound`.
    pub(super) fn bias(&mut self, length: usize, bound: f32) {
        let values: Vec<f32> = (0..length).map(|_| self.rng.random_range(-bound..bound)).collect();
        self.biases.push(Param::from_tensor(Tensor::from_data(TensorData::new(values, [length]), self.device)));
    }

    pub(super) fn finish(self, rule: impl PromptRule + 'static, place: VirtualPlace) -> VirtualTokens {
        let Self { matrices, biases, .. } = self;
        VirtualTokens { adapter: PromptEncoder { matrices, biases, rule: Arc::new(rule) }, place }
    }
}

/// A draw from `N(0, 1)` (Box and Muller).
fn normal(rng: &mut ChaCha8Rng) -> f32 {
    // In (0, 1], whose logarithm is finite.
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    (radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()) as f32
}

/// The fields that every tuner of virtual tokens writes; `width` is that of one virtual token as PEFT counts it.
pub(super) fn write(peft_type: &str, count: usize, width: usize, heads: usize, context: &PeftContext) -> Value {
    let modules = (!context.modules_to_save.is_empty()).then_some(&context.modules_to_save);
    json!({
        "peft_type": peft_type,
        "task_type": context.task_type(),
        "base_model_name_or_path": context.base_model,
        "inference_mode": true,
        "num_virtual_tokens": count,
        "token_dim": width,
        "num_attention_heads": heads,
        "num_layers": context.sizes.num_layers,
        "num_transformer_submodules": 1,
        "modules_to_save": modules,
    })
}

/// Reads such a file's fields, each of the type that it must have.
pub(super) struct Reader<'a>(&'a Value);

impl<'a> Reader<'a> {
    pub(super) fn new(config: &'a Value, peft_type: &str, expected: &'static str) -> Result<Self, AdapterError> {
        if config["peft_type"] != peft_type {
            return Err(AdapterError::Kind { found: config["peft_type"].to_string(), expected });
        }
        let submodules = &config["num_transformer_submodules"];
        if !(submodules.is_null() || *submodules == 1) {
            return Err(AdapterError::Unsupported {
                key: "num_transformer_submodules".to_owned(),
                value: submodules.to_string(),
                advice: "it is 1 for decoders, the only models here".to_owned(),
            });
        }
        Ok(Self(config))
    }

    fn wrong(&self, key: &str, expected: &'static str) -> AdapterError {
        AdapterError::Value { key: key.to_owned(), value: self.0[key].to_string(), expected }
    }

    pub(super) fn count(&self) -> Result<usize, AdapterError> {
        let key = "num_virtual_tokens";
        let count = self.opt_count(key)?.filter(|count| *count <= MOST as usize);
        count.ok_or_else(|| self.wrong(key, "a whole number, at least 1 and at most 65536"))
    }

    pub(super) fn opt_count(&self, key: &str) -> Result<Option<usize>, AdapterError> {
        match &self.0[key] {
            Value::Null => Ok(None),
            value => match value.as_u64().filter(|n| (1..=u64::from(u32::MAX)).contains(n)) {
                Some(n) => Ok(Some(n as usize)),
                None => Err(self.wrong(key, "a whole number, at least 1")),
            },
        }
    }

    pub(super) fn bool(&self, key: &str) -> Result<bool, AdapterError> {
        match &self.0[key] {
            Value::Null => Ok(false),
            value => value.as_bool().ok_or_else(|| self.wrong(key, "true or false")),
        }
    }

    pub(super) fn number(&self, key: &str) -> Result<f64, AdapterError> {
        match &self.0[key] {
            Value::Null => Ok(0.0),
            value => value.as_f64().ok_or_else(|| self.wrong(key, "a number")),
        }
    }

    /// A text among `allowed`, the first of them where the file says nothing.
    pub(super) fn choice(&self, key: &str, allowed: &[&str], expected: &'static str) -> Result<String, AdapterError> {
        match &self.0[key] {
            Value::Null => Ok(allowed[0].to_owned()),
            value => {
                let text = value.as_str().filter(|text| allowed.contains(text));
                text.map(str::to_owned).ok_or_else(|| self.wrong(key, expected))
            }
        }
    }

    /// The modules that stand whole in the file. The head of a sequence classifier, which PEFT adds to the list itself,
    /// is none of the tuner's settings.
    pub(super) fn modules(&self) -> Result<Vec<String>, AdapterError> {
        let key = "modules_to_save";
        let modules: Option<Vec<String>> =
            serde_json::from_value(self.0[key].clone()).map_err(|_| self.wrong(key, "a list of names"))?;
        let mut modules = modules.unwrap_or_default();
        modules.retain(|module| module != "score" && module != "classifier");
        Ok(modules)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::rand_core::SeedableRng;

    #[test]
    fn draws_are_normal() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let n = 20_000;
        let values: Vec<f64> = (0..n).map(|_| f64::from(normal(&mut rng))).collect();
        let moment = |power: i32| values.iter().map(|x| x.powi(power)).sum::<f64>() / f64::from(n);
        // Four standard errors of each.
        let error = |variance: f64| 4.0 * (variance / f64::from(n)).sqrt();
        assert!(moment(1).abs() < error(1.0), "{}", moment(1));
        assert!((moment(2) - 1.0).abs() < error(2.0), "{}", moment(2));
        assert!((moment(4) - 3.0).abs() < error(96.0), "{}", moment(4));
    }

    #[test]
    fn encoder_decoders_are_refused_by_name() {
        let file = json!({"peft_type": "PROMPT_TUNING", "num_transformer_submodules": 2});
        let error = Reader::new(&file, "PROMPT_TUNING", "PromptTuning").err().unwrap().to_string();
        assert!(error.contains("num_transformer_submodules = 2"), "{error}");
    }
}
