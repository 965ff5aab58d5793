//! A language model that sees: image features spliced into the token sequence.

// b batch, t tokens, d hidden width, n images, s supervised tokens
mod adapters;
mod inputs;
mod keys;
mod original;

pub use adapters::AdapterMatrix;
pub use inputs::{Targets, VlmInputs};
pub use keys::{IGNORED, Layout, Part, Rules, module_to_save, peft_rename};
pub use original::{APART, Original, for_original_code, is_original, to_original};

use crate::models::CausalLm;
use crate::nn::{KvCache, Linear, TokenStats, cast_to, token_log_probs, token_stats};
use crate::projector::ProjectorModel;
use crate::vision::VisionTower;
use burn::module::Module;
use burn::tensor::Tensor;

/// Any encoder, any projector, any language model; without images it is the language model alone.
#[derive(Module, Debug)]
pub struct Vlm<L, T, P> {
    /// Encodes pixels.
    pub vision_tower: T,
    /// Maps features to the language model's width.
    pub multi_modal_projector: P,
    /// Reads tokens and projected features alike.
    pub language_model: L,
}

impl<L: CausalLm, T: VisionTower, P: ProjectorModel> Vlm<L, T, P> {
    /// Positions that one image takes in the token sequence.
    pub fn tokens_per_image(&self) -> usize {
        self.multi_modal_projector.tokens(self.vision_tower.tokens_per_image())
    }

    /// Embeddings of the whole sequence, features at the image positions.
    ///
    /// One lookup in the table of token embeddings and features together replaces the splice: a text-only row takes
    /// nothing from it, and the gradient reaches the projector through the same lookup.
    ///
    /// # Shapes
    /// `[b, t, d]`.
    pub fn embed(&self, inputs: &VlmInputs) -> Tensor<3> {
        let x_btd = self.language_model.embed(inputs.ids_bt.clone());
        let Some((pixels, index)) = &inputs.images else { return x_btd };
        let [b, t, d] = x_btd.dims();
        let features = self.multi_modal_projector.forward(self.vision_tower.encode(pixels.clone()));
        let [n, tokens, _] = features.dims();
        let features = cast_to(features.reshape([n * tokens, d]), x_btd.dtype());
        let table = Tensor::cat(vec![x_btd.reshape([b * t, d]), features], 0);
        table.select(0, index.clone()).reshape([b, t, d])
    }

    /// Final hidden states.
    ///
    /// # Shapes
    /// `[b, t, d]`.
    pub fn hidden(&self, inputs: &VlmInputs, cache: Option<&mut KvCache>) -> Tensor<3> {
        self.language_model.hidden(self.embed(inputs), &inputs.layout, cache)
    }

    /// Log-probability in nats of every supervised token, row by row; differentiable.
    ///
    /// Only the hidden states that predict a supervised token pass the head.
    ///
    /// # Shapes
    /// `[s]`.
    pub fn log_probs(&self, inputs: &VlmInputs, targets: &Targets) -> Tensor<1> {
        let rows = self.predicting_rows(inputs, targets);
        token_log_probs(rows, self.language_model.head(), targets.ids_s.clone())
    }

    /// Log-probabilities and greedy predictions at every supervised token, without gradients.
    ///
    /// # Shapes
    /// `[s]` each.
    pub fn stats(&self, inputs: &VlmInputs, targets: &Targets) -> TokenStats {
        let rows = self.predicting_rows(inputs, targets);
        token_stats(rows, self.language_model.head(), targets.ids_s.clone())
    }

    fn predicting_rows(&self, inputs: &VlmInputs, targets: &Targets) -> Tensor<2> {
        let hidden = self.hidden(inputs, None);
        let [b, t, d] = hidden.dims();
        hidden.reshape([b * t, d]).select(0, targets.predictors_s.clone())
    }

    /// Every linear layer of the language model, with its path inside it.
    pub fn visit_linears(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        self.language_model.visit_linears(visit);
    }
}
