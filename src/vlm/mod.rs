//! A language model that sees: image features spliced into the token sequence.

// b batch, t tokens, d hidden width, n images, s supervised tokens
mod adapters;
mod inputs;
mod keys;
mod original;

pub use adapters::AdapterMatrix;
pub use inputs::{Targets, VlmInputs, last_tokens, marked_tokens};
pub use keys::{IGNORED, Layout, Part, Rules, SCORE, module_to_save, peft_rename};
pub use original::{APART, Original, for_original_code, is_original, to_original};

use crate::models::CausalLm;
use crate::nn::{
    KvCache, Linear, SequenceLayout, TokenStats, VirtualPlace, VirtualTokens, cast_to, put_in_front, to_f32,
    token_log_probs, token_stats,
};
use crate::projector::ProjectorModel;
use crate::vision::VisionTower;
use burn::module::Module;
use burn::tensor::{Int, Tensor};

/// Any encoder, any projector, any language model; without images it is the language model alone.
#[derive(Module, Debug)]
pub struct Vlm<L, T, P> {
    /// Encodes pixels.
    pub vision_tower: T,
    /// Maps features to the language model's width.
    pub multi_modal_projector: P,
    /// Reads tokens and projected features alike.
    pub language_model: L,
    /// Yields scores in place of the next token: transformers' `score`.
    pub score: Option<Linear>,
    /// What a tuner has put in front of every row. Without it the model is the base again, to the bit.
    pub virtual_tokens: Option<VirtualTokens>,
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
        let x_btd = inputs.with_noise(x_btd);
        let Some((pixels, index)) = &inputs.images else { return x_btd };
        let [b, t, d] = x_btd.dims();
        let features = self.multi_modal_projector.forward(self.vision_tower.encode(pixels.clone()));
        let [n, tokens, _] = features.dims();
        let features = cast_to(features.reshape([n * tokens, d]), x_btd.dtype());
        let table = Tensor::cat(vec![x_btd.reshape([b * t, d]), features], 0);
        table.select(0, index.clone()).reshape([b, t, d])
    }

    /// Final hidden states of the tokens that `inputs` has: virtual tokens act on them and are left out.
    ///
    /// # Shapes
    /// `[b, t, d]`.
    pub fn hidden(&self, inputs: &VlmInputs, cache: Option<&mut KvCache>) -> Tensor<3> {
        let x_btd = self.embed(inputs);
        match &self.virtual_tokens {
            // They enter once, with the first tokens of a sequence.
            Some(virtual_tokens) if inputs.layout.past == 0 => {
                self.behind(virtual_tokens, x_btd, &inputs.layout, cache)
            }
            _ => self.language_model.hidden(x_btd, &inputs.layout, cache),
        }
    }

    /// Hidden states of `x_btd` behind virtual tokens, `[b, t, d]`.
    fn behind(
        &self,
        virtual_tokens: &VirtualTokens,
        x_btd: Tensor<3>,
        layout: &SequenceLayout,
        cache: Option<&mut KvCache>,
    ) -> Tensor<3> {
        let table_nw = virtual_tokens.table();
        let (n, t) = (table_nw.dims()[0], x_btd.dims()[1]);
        match virtual_tokens.place {
            VirtualPlace::Embeddings => {
                let x_btd = put_in_front(x_btd, table_nw, &layout.starts);
                self.language_model.hidden(x_btd, &layout.behind(n), cache).narrow(1, n, t)
            }
            VirtualPlace::KeysAndValues => {
                let mut own = None;
                let cache = cache.unwrap_or_else(|| own.insert(self.language_model.new_cache()));
                cache.prefill(table_nw, &layout.starts);
                let layout = SequenceLayout { past: n, ..layout.behind(n) };
                self.language_model.hidden(x_btd, &layout, Some(cache))
            }
        }
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

    /// Final hidden states at flat positions of the batch.
    ///
    /// # Shapes
    /// `positions_n: [n]` to `[n, d]`.
    pub fn hidden_at(&self, inputs: &VlmInputs, positions_n: Tensor<1, Int>) -> Tensor<2> {
        let hidden = self.hidden(inputs, None);
        let [b, t, d] = hidden.dims();
        hidden.reshape([b * t, d]).select(0, positions_n)
    }

    /// The head's scores of hidden states, f32; differentiable. `None` where the model has no such head.
    ///
    /// # Shapes
    /// `[n, d]` to `[n, k]`.
    pub fn scores(&self, hidden_nd: Tensor<2>) -> Option<Tensor<2>> {
        self.score.as_ref().map(|head| to_f32(head.forward(hidden_nd)))
    }

    fn predicting_rows(&self, inputs: &VlmInputs, targets: &Targets) -> Tensor<2> {
        self.hidden_at(inputs, targets.predictors_s.clone())
    }

    /// Every linear layer of the language model, with its path inside it.
    pub fn visit_linears(&mut self, visit: &mut dyn FnMut(&str, &mut Linear)) {
        self.language_model.visit_linears(visit);
    }
}
