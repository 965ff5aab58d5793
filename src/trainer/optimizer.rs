//! AdamW over a module's named parameters: groups, accumulation, global norm, moments.

use super::Train;
use super::moments::{Moments, Optim};
use crate::nn::{AdamWStep, RateGroup, params, sums_of_squares};
use crate::vlm::Part;
use burn::module::{Module, Param, ParamId};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use params::{NamedMapper, NamedVisitor};
use std::collections::BTreeMap;

impl Part {
    /// The part's peak learning rate.
    pub fn learning_rate(self, settings: &Train) -> f64 {
        match self {
            Self::VisionTower => settings.vision_tower_learning_rate,
            Self::Projector => settings.projector_learning_rate,
            Self::LanguageModel => settings.language_model_learning_rate,
        }
        .unwrap_or(settings.learning_rate)
    }
}

/// Whether weight decay acts on a parameter: not on biases, not on norms.
pub fn decays(parameter: &str) -> bool {
    let mut fields = parameter.rsplit('.');
    let field = fields.next().unwrap_or_default();
    let module = fields.next().unwrap_or_default();
    // `pre_layrnorm`, the reference's own spelling, ends in `norm` like the others.
    // A prompt encoder's biases are numbered.
    field != "bias" && module != "biases" && !module.trim_end_matches(|c: char| c.is_ascii_digit()).ends_with("norm")
}

/// Gradients by parameter name, summed over micro-batches; flat, f32.
#[derive(Debug, Default)]
pub struct GradientSum {
    sums: BTreeMap<String, Tensor<1>>,
}

impl GradientSum {
    /// Adds the gradients of one micro-batch.
    pub fn add<M: Module>(&mut self, model: &M, gradients: &mut Gradients) {
        struct Collect<'a> {
            gradients: &'a mut Gradients,
            sums: &'a mut BTreeMap<String, Tensor<1>>,
        }
        impl NamedVisitor for Collect<'_> {
            fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
                if !param.is_require_grad() {
                    return;
                }
                let Some(gradient) = param.val().grad_remove(self.gradients) else { return };
                let length = gradient.shape().num_elements();
                let gradient = crate::nn::to_f32(gradient.reshape([length]));
                let sum = match self.sums.remove(name) {
                    Some(sum) => sum + gradient,
                    None => gradient,
                };
                self.sums.insert(name.to_owned(), sum);
            }
        }
        params::visit(model, &mut Collect { gradients, sums: &mut self.sums });
    }

    /// Adds another sum, parameter by parameter.
    pub fn merge(&mut self, other: Self) {
        for (name, gradient) in other.sums {
            let sum = match self.sums.remove(&name) {
                Some(sum) => sum + gradient,
                None => gradient,
            };
            self.sums.insert(name, sum);
        }
    }

    /// Takes out the sums of some of `model`'s parameters.
    pub fn take<M: Module>(&mut self, model: &M, ids: &[ParamId]) -> Self {
        struct Take<'a> {
            ids: &'a [ParamId],
            from: &'a mut BTreeMap<String, Tensor<1>>,
            taken: BTreeMap<String, Tensor<1>>,
        }
        impl NamedVisitor for Take<'_> {
            fn visit<const D: usize>(&mut self, name: &str, param: &Param<Tensor<D>>) {
                if self.ids.contains(&param.id) {
                    self.taken.extend(self.from.remove_entry(name));
                }
            }
        }
        let mut take = Take { ids, from: &mut self.sums, taken: BTreeMap::new() };
        if !ids.is_empty() {
            params::visit(model, &mut take);
        }
        Self { sums: take.taken }
    }

    /// Sum of squares of each parameter's gradient.
    pub(super) fn squares(&self) -> BTreeMap<String, f64> {
        self.norms().into_iter().map(|(name, square)| (name.to_owned(), square)).collect()
    }

    /// The flat sums by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tensor<1>)> {
        self.sums.iter().map(|(name, sum)| (name.as_str(), sum))
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.sums.is_empty()
    }

    /// Euclidean norm over all parameters, in f64 on the host; parameters in the order of their names.
    pub fn global_norm(&self) -> f64 {
        self.norms().values().sum::<f64>().sqrt()
    }

    /// Sum of squares per parameter.
    fn norms(&self) -> BTreeMap<&str, f64> {
        let tensors: Vec<&Tensor<1>> = self.sums.values().collect();
        self.sums.keys().map(String::as_str).zip(sums_of_squares(&tensors)).collect()
    }

    /// Euclidean norm of each parameter's gradient.
    pub fn norm_by_parameter(&self) -> BTreeMap<String, f64> {
        self.norms().into_iter().map(|(name, square)| (name.to_owned(), square.sqrt())).collect()
    }
}

/// AdamW with torch's arithmetic.
///
/// # Source
/// `torch.optim.AdamW`: decay before the update, bias-corrected moments, ε outside the root.
#[derive(Debug, Default)]
pub struct AdamW {
    /// How moments are held.
    pub optim: Optim,
    /// Moments by parameter name.
    pub moments: BTreeMap<String, Moments>,
    /// How fast parameters learn under LoRA+, by name; others learn at the base's rate.
    pub rate_groups: BTreeMap<String, RateGroup>,
}

impl AdamW {
    /// Moves every parameter that has a gradient; `factor` is the schedule's, `clip` scales the gradients.
    pub fn step<M: Module>(&mut self, model: M, gradients: GradientSum, settings: &Train, factor: f64, clip: f64) -> M {
        let (beta1, beta2) = (settings.adam_beta1, settings.adam_beta2);
        let common = AdamWStep {
            lr: 0.0,
            beta1,
            beta2,
            eps: settings.adam_epsilon,
            weight_decay: 0.0,
            bias_correction1: 1.0,
            bias_correction2: 1.0,
            grad_scale: clip,
        };
        let mut stepper = Stepper { adam: self, gradients: gradients.sums, settings, factor, common };
        params::map(model, &mut stepper)
    }
}

struct Stepper<'a> {
    adam: &'a mut AdamW,
    gradients: BTreeMap<String, Tensor<1>>,
    settings: &'a Train,
    factor: f64,
    common: AdamWStep,
}

impl Stepper<'_> {
    /// LoRA+'s factor on a parameter's rate.
    fn raised(&self, name: &str) -> f64 {
        match self.adam.rate_groups.get(name) {
            Some(RateGroup::Raised) => self.settings.loraplus_lr_ratio.unwrap_or(1.0),
            Some(RateGroup::Base) | None => 1.0,
        }
    }
}

impl NamedMapper for Stepper<'_> {
    fn map<const D: usize>(&mut self, name: &str, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove(name) else { return param };
        let length = gradient.dims()[0];
        let optim = self.adam.optim;
        let moments = self.adam.moments.remove(name);
        let moments = moments.unwrap_or_else(|| Moments::new(length, optim, &gradient.device()));
        let steps = moments.steps + 1;
        let update = AdamWStep {
            bias_correction1: 1.0 - self.common.beta1.powf(steps as f64),
            bias_correction2: 1.0 - self.common.beta2.powf(steps as f64),
            lr: Part::of(name).learning_rate(self.settings) * self.raised(name) * self.factor,
            weight_decay: if decays(name) { self.settings.weight_decay } else { 0.0 },
            ..self.common
        };
        let (id, tensor, mapper) = param.consume();
        let shape = tensor.dims();
        // Nothing else may hold the weights here, or the update in place becomes a copy.
        let weights = tensor.inner().reshape([length]);
        let (param, moments) = moments.step(weights, gradient, update, optim.home);
        self.adam.moments.insert(name.to_owned(), moments);
        let tensor = param.reshape(shape).autodiff().require_grad();
        Param::from_mapped_value(id, tensor, mapper)
    }
}

/// A flat f32 tensor from host memory.
pub(crate) fn flat(values: Vec<f32>, device: &Device) -> Tensor<1> {
    let length = values.len();
    Tensor::from_data(TensorData::new(values, [length]), device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decay_spares_biases_and_norms() {
        for name in [
            "language_model.layers.0.input_layernorm.weight",
            "language_model.norm.weight",
            "vision_tower.pre_layrnorm.weight",
            "vision_tower.encoder.layers.0.layer_norm1.weight",
            "multi_modal_projector.linears.0.bias",
            "virtual_tokens.adapter.biases.1",
        ] {
            assert!(!decays(name), "{name}");
        }
        for name in [
            "language_model.embed_tokens.weight",
            "language_model.layers.0.self_attn.q_proj.adapter.params.0",
            "vision_tower.embeddings.class_embedding",
        ] {
            assert!(decays(name), "{name}");
        }
    }

    #[test]
    fn parts_by_the_first_field() {
        assert_eq!(Part::of("vision_tower.x"), Part::VisionTower);
        assert_eq!(Part::of("multi_modal_projector.linears.0.weight"), Part::Projector);
        assert_eq!(Part::of("language_model.norm.weight"), Part::LanguageModel);
    }
}
