//! A model whose weights are f32 and whose activations are bf16, on the device that has both.

use super::*;
use crate::checkpoint::JsonFile;
use crate::models::CausalLm;
use crate::nn::params::{NamedVisitor, visit};
use crate::nn::{SequenceLayout, token_log_probs};
use burn::module::Param;
use burn::tensor::{DType, Gradients, Int, Tensor, TensorData};
use std::collections::BTreeMap;

/// Mixed precision against f32, relative to the largest element of each gradient: two blocks round their results and
/// scores to 8 bits a dozen times on the way, 4e-3 each.
const BF16_TOLERANCE: f32 = 6e-2;

struct Collect {
    gradients: Gradients,
    found: BTreeMap<String, Vec<f32>>,
}

impl NamedVisitor for Collect {
    fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
        assert_eq!(param.val().dtype(), DType::F32, "{name}");
        let gradient = param.val().grad_remove(&mut self.gradients).unwrap_or_else(|| panic!("{name}: no gradient"));
        assert_eq!(gradient.dtype(), DType::F32, "the gradient of {name}");
        self.found.insert(name.to_owned(), gradient.into_data().iter::<f32>().collect());
    }
}

/// The loss on a few tokens and the gradients of all parameters by name.
fn step(model: &LlamaForCausalLm, device: &Device) -> (f32, BTreeMap<String, Vec<f32>>) {
    let (b, t) = (2, 7);
    let ids: Vec<i32> = (0..(b * t) as i32).map(|i| i * 5 % 32).collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [b, t]), device);
    let hidden = model.hidden(model.embed(ids.clone()), &SequenceLayout::right_padded(b), None);
    let targets = ids.reshape([b * t]);
    let loss = -token_log_probs(hidden.reshape([b * t, 32]), model.head(), targets).mean();
    assert_eq!(loss.dtype(), DType::F32);
    let value = loss.clone().into_scalar::<f32>();
    let mut collect = Collect { gradients: loss.backward(), found: BTreeMap::new() };
    visit(model, &mut collect);
    (value, collect.found)
}

#[test]
fn weights_in_f32_are_trained_through_bf16_activations() {
    let device = Device::flex().autodiff();
    let config = serde_json::json!({"model_type": "qwen2", "vocab_size": 32, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2});
    let config = LlamaConfig::read(&JsonFile::from_value("config.json", config).fields().unwrap()).unwrap();
    device.seed(7);
    let mut model = LlamaForCausalLm::new(&config, &device);
    let (loss, gradients) = step(&model, &device);
    model.token_table_mut().activations = Some(DType::BF16);
    let (narrow_loss, narrow_gradients) = step(&model, &device);
    assert!((loss - narrow_loss).abs() < 2e-2, "{narrow_loss} instead of {loss}");
    assert_ne!(loss, narrow_loss, "nothing was computed in bf16");
    for (name, gradient) in &gradients {
        let size = gradient.iter().fold(1e-3f32, |size, x| size.max(x.abs()));
        for (a, e) in narrow_gradients[name].iter().zip(gradient) {
            assert!((a - e).abs() <= BF16_TOLERANCE * size, "{name}: {a} instead of {e} (largest {size})");
        }
    }
}
