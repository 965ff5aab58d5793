//! What tuners have put on a model: seen, taken off, written into the weights.

use super::keys::{HEAD, LANGUAGE, PROJECTOR, TOWER};
use super::{Layout, Vlm};
use crate::models::CausalLm;
use crate::nn::params::ParamInfo;
use crate::nn::{AdapterSlot, Linear, Quantized, RateGroup, TRAINED_ROWS, TRAINED_ROWS_KEY, params};
use crate::projector::ProjectorModel;
use crate::vision::VisionTower;
use burn::module::Param;
use burn::tensor::Tensor;
use std::collections::BTreeMap;

/// A trained matrix of an adapter.
#[derive(Clone, Debug)]
pub struct AdapterMatrix {
    /// Its name in a PEFT file.
    pub key: String,
    /// Its name in the model.
    pub parameter: String,
    /// Its shape in a PEFT file.
    pub file_shape: Vec<usize>,
    /// How fast it learns under LoRA+.
    pub rate_group: RateGroup,
}

impl<L: CausalLm, T: VisionTower, P: ProjectorModel> Vlm<L, T, P> {
    /// Every linear layer that may carry an adapter, with its path inside the language model: those of the blocks, and the
    /// head.
    fn visit_carriers(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        self.language_model.visit_linears(visit);
        if let Some(head) = self.language_model.head_mut() {
            visit(HEAD, head);
        }
    }

    /// Every linear layer of the whole model but the heads, with its path in it: what transformers quantizes.
    pub fn visit_all_linears(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        self.vision_tower.visit_linears(&mut |path, linear| visit(&format!("{TOWER}{path}"), linear));
        self.multi_modal_projector.visit_linears(&mut |path, linear| visit(&format!("{PROJECTOR}{path}"), linear));
        self.language_model.visit_linears(&mut |path, linear| visit(&format!("{LANGUAGE}{path}"), linear));
    }

    /// The weights that are quantized, by name, with shapes: no parameters, and listed nowhere else.
    pub fn quantized_weights(&self) -> Vec<(ParamInfo, Quantized)> {
        let mut found = Vec::new();
        // A clone shares its weights.
        self.clone().visit_all_linears(&mut |path, linear| {
            if let Some(weight) = linear.weight.quantized() {
                let info = ParamInfo { name: format!("{path}.weight"), shape: weight.shape().to_vec() };
                found.push((info, weight.clone()));
            }
        });
        found
    }

    /// Calls `visit` for every layer that carries an adapter, with its path inside the language model.
    pub fn visit_adapters(&self, visit: &mut dyn FnMut(&str, &AdapterSlot)) {
        // A clone shares its parameters.
        self.clone().visit_carriers(&mut |path, linear| {
            if let Some(slot) = &linear.adapter {
                visit(path, slot);
            }
        });
    }

    /// Every trained matrix of every adapter, and the trained rows of the token table.
    pub fn adapter_matrices(&self, layout: Layout) -> Vec<AdapterMatrix> {
        let mut found = Vec::new();
        self.visit_adapters(&mut |path, slot| {
            for (index, (name, param)) in slot.rule.names().iter().zip(&slot.params).enumerate() {
                found.push(AdapterMatrix {
                    key: Self::peft_adapter_key(path, name, layout),
                    parameter: format!("{LANGUAGE}{path}.adapter.params.{index}"),
                    file_shape: slot.rule.file_shape(index, param.lazy_shape().dims()),
                    rate_group: slot.rule.rate_group(index),
                });
            }
        });
        for rows in params::list(&self.language_model) {
            let Some(path) = rows.name.strip_suffix(TRAINED_ROWS) else { continue };
            found.push(AdapterMatrix {
                key: Self::peft_adapter_key(path, TRAINED_ROWS_KEY, layout),
                parameter: format!("{LANGUAGE}{}", rows.name),
                file_shape: rows.shape,
                rate_group: RateGroup::Base,
            });
        }
        found
    }

    /// What a PEFT file holds of the adapters, by key, with the file's shapes.
    pub fn adapter_tensors(&self, layout: Layout) -> Vec<(String, Vec<usize>, Tensor<2>)> {
        let mut found = Vec::new();
        self.visit_adapters(&mut |path, slot| {
            for (index, (name, tensor)) in slot.rule.names().iter().zip(slot.rule.saved(&slot.matrices())).enumerate() {
                let shape = slot.rule.file_shape(index, tensor.dims());
                found.push((Self::peft_adapter_key(path, name, layout), shape, tensor));
            }
        });
        let mut model = self.language_model.clone();
        if let Some(trained) = &model.token_table_mut().adapter {
            let rows: Param<Tensor<2>> = trained.rows.clone();
            let key = Self::peft_adapter_key(TABLE, TRAINED_ROWS_KEY, layout);
            found.push((key, rows.dims().to_vec(), rows.val()));
        }
        found
    }

    /// How fast each adapter's matrices learn under LoRA+, by their names in the model; others learn at the base's rate.
    pub fn rate_groups(&self) -> BTreeMap<String, RateGroup> {
        self.adapter_matrices(Layout::Plain).into_iter().map(|matrix| (matrix.parameter, matrix.rate_group)).collect()
    }

    /// The same model with its adapters off, trained rows of tokens and virtual tokens included: PEFT's `disable_adapter`. It shares all weights
    /// with this one and costs no memory.
    ///
    /// An adapter leaves the base's weights as they were loaded, so that the base's own numbers come back to the bit. What
    /// training changes in place (a projector, a module of `modules_to_save`) is shared as it stands when this is called:
    /// for a reference that training must not move, call it once before the first step.
    pub fn without_adapters(&self) -> Self {
        let mut plain = self.clone();
        plain.visit_carriers(&mut |_, linear| linear.adapter = None);
        plain.language_model.token_table_mut().adapter = None;
        plain.virtual_tokens = None;
        plain
    }

    /// Writes every adapter beside a layer, and the trained rows of tokens, into the weights, and takes them off.
    ///
    /// # Errors
    /// The path of a layer whose adapter has no plain map.
    pub fn merge_adapters(&mut self) -> Result<(), String> {
        self.language_model.token_table_mut().merge();
        let mut done = Ok(());
        self.visit_carriers(&mut |path, linear| {
            if !linear.merge() {
                done = Err(path.to_owned());
            }
        });
        done
    }
}

/// The token table's field in a language model.
const TABLE: &str = "embed_tokens";
