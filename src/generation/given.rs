//! What a model thinks of tokens that are there already.

// t tokens, d hidden width, v vocabulary, c rows of a chunk
use super::choose::{Reported, TokenLogprob};
use crate::models::CausalLm;
use crate::nn::{linear, to_f32};
use crate::projector::ProjectorModel;
use crate::vision::VisionTower;
use crate::vlm::{Vlm, VlmInputs};

/// Logits that are held at a time, in elements.
const CHUNK_ELEMENTS: usize = 4 << 20;

/// The log-probability of every token of one row but the first, each with the `top` likeliest tokens at its place.
///
/// `inputs` is the row alone and `ids` its tokens. Image positions are tokens like others and mean nothing.
pub fn given_log_probs<L: CausalLm, T: VisionTower, P: ProjectorModel>(
    model: &Vlm<L, T, P>,
    inputs: &VlmInputs,
    ids: &[u32],
    top: usize,
) -> Vec<TokenLogprob> {
    let hidden_btd = model.hidden(inputs, None);
    let [_, t, d] = hidden_btd.dims();
    let hidden_td = hidden_btd.reshape([t, d]);
    let head = model.language_model.head();
    let rows = (CHUNK_ELEMENTS / head.dims()[0].max(1)).max(1);
    let predicted = t.min(ids.len()).saturating_sub(1);
    let mut found = Vec::with_capacity(predicted);
    for first in (0..predicted).step_by(rows) {
        let c = rows.min(predicted - first);
        let logits = to_f32(linear(hidden_td.clone().narrow(0, first, c), head.clone(), None));
        let v = logits.dims()[1];
        let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
        for (scores, &id) in logits.chunks_exact(v).zip(&ids[first + 1..]) {
            found.push(match Reported::of_all(scores, top) {
                Some(reported) => reported.about(id),
                // Scores that are not finite say nothing of any token.
                None => TokenLogprob { id, logprob: f32::NAN, top: Vec::new() },
            });
        }
    }
    found
}
