//! How answers are made: decoding on host arrays, and greedy decoding with a key-value cache.
//!
//! Everything but [`greedy`] is independent of burn and of any model. [`settings::Generation`] says how answers are
//! made, under the names of transformers; [`settings::CheckpointDefaults`] reads a checkpoint's
//! `generation_config.json`; resolved, they are a [`decoding::Decoding`]. A model is a [`driver::StepModel`]: lanes
//! that read a prompt, take a token each, and are dropped, repeated and reordered. [`driver::generate`] decodes rows
//! together until each has ended; [`driver::Batch`] lets rows join and leave between two steps. A row
//! ([`row::RowState`]) knows nothing of the others: alone or in any batch its answer is the same.
//!
//! ```
//! use firebrick::generation::decoding::{Answers, Ask, Decoding};
//! use firebrick::generation::driver::{Request, StepModel, generate};
//! use firebrick::generation::row::RowSettings;
//! use firebrick::generation::stop::StopRules;
//! use std::ops::ControlFlow;
//! use std::sync::Arc;
//!
//! /// Says the number after the last one, up to 4.
//! struct Counts(Vec<u32>);
//!
//! impl Counts {
//!     fn answer(&self) -> Answers {
//!         let next = |last: &u32| (0..5).map(|id| if id == last + 1 { 1.0 } else { 0.0 }).collect::<Vec<f32>>();
//!         Answers::logits(5, self.0.iter().flat_map(next).collect())
//!     }
//! }
//!
//! impl StepModel for Counts {
//!     type Prompt = u32;
//!     type Error = std::convert::Infallible;
//!
//!     fn start(&mut self, prompts: Vec<u32>, _: &[Ask]) -> Result<Answers, Self::Error> {
//!         let new = Counts(prompts);
//!         self.0.extend(&new.0);
//!         Ok(new.answer())
//!     }
//!
//!     fn step(&mut self, tokens: &[u32], _: &[Ask]) -> Result<Answers, Self::Error> {
//!         self.0 = tokens.to_vec();
//!         Ok(self.answer())
//!     }
//!
//!     fn keep(&mut self, lanes: &[usize]) -> Result<(), Self::Error> {
//!         self.0 = lanes.iter().map(|&lane| self.0[lane]).collect();
//!         Ok(())
//!     }
//! }
//!
//! let decoding = Arc::new(Decoding::greedy(StopRules { ids: vec![4], ..StopRules::default() }));
//! let row = |prompt: u32| Request {
//!     prompt,
//!     settings: RowSettings { decoding: decoding.clone(), prompt: vec![prompt], key: 0, detokenizer: None },
//! };
//! let rows = generate(Counts(Vec::new()), vec![row(0), row(2)], &mut |_, _| ControlFlow::Continue(()))?;
//! assert_eq!((&rows[0][0].ids[..], &rows[1][0].ids[..]), (&[1, 2, 3, 4][..], &[3, 4][..]));
//! # Ok::<(), firebrick::generation::driver::BatchError<std::convert::Infallible>>(())
//! ```

pub mod beams;
pub mod best_of;
mod choose;
mod contrastive;
pub mod decoding;
pub mod driver;
mod groups;
mod math;
pub mod processors;
pub mod row;
pub mod sample;
pub mod sequence;
pub mod settings;
pub mod stop;
mod strands;
mod tokenizer;

#[cfg(test)]
mod tests;

pub use choose::TokenLogprob;

// b batch, t tokens, d hidden width
use crate::models::CausalLm;
use crate::nn::{SequenceLayout, token_stats};
use crate::projector::ProjectorModel;
use crate::vision::VisionTower;
use crate::vlm::{Vlm, VlmInputs};
use burn::tensor::{Int, Tensor, TensorData};

/// When decoding ends.
#[derive(Clone, Debug)]
pub struct Stop {
    /// Tokens that end a row; they are not part of the answer.
    pub end_tokens: Vec<u32>,
    /// Tokens after which a row ends anyway.
    pub max_new_tokens: usize,
}

/// The likeliest token at each step, for every row of a left-padded batch, until each has ended.
///
/// `on_token(row, id)` sees each new token of an answer as it is made; returning `false` ends that row.
///
/// Run it on `model.valid()`: on a model that is tracked for gradients it would keep every step's graph.
pub fn greedy<L: CausalLm, T: VisionTower, P: ProjectorModel>(
    model: &Vlm<L, T, P>,
    inputs: &VlmInputs,
    stop: &Stop,
    mut on_token: impl FnMut(usize, u32) -> bool,
) -> Vec<Vec<u32>> {
    let b = inputs.ids_bt.dims()[0];
    let mut answers: Vec<Vec<u32>> = vec![Vec::new(); b];
    if stop.max_new_tokens == 0 || b == 0 {
        return answers;
    }
    let device = inputs.ids_bt.device();
    let mut ended = vec![false; b];
    let mut cache = model.language_model.new_cache();
    let mut hidden = model.hidden(inputs, Some(&mut cache));
    loop {
        let next = likeliest(model, hidden);
        for (row, &id) in next.iter().enumerate() {
            if ended[row] {
                continue;
            }
            if stop.end_tokens.contains(&id) {
                ended[row] = true;
                continue;
            }
            answers[row].push(id);
            ended[row] = !on_token(row, id) || answers[row].len() >= stop.max_new_tokens;
        }
        if ended.iter().all(|&e| e) {
            return answers;
        }
        let ids: Vec<i32> = next.iter().map(|&id| id as i32).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [b, 1]), &device);
        // The cache also holds what virtual tokens put in front.
        let layout = SequenceLayout { starts: inputs.layout.starts.clone(), past: cache.length };
        let x = model.language_model.embed(ids);
        hidden = model.language_model.hidden(x, &layout, Some(&mut cache));
    }
}

/// Argmax of the head at each row's last position.
fn likeliest<L: CausalLm, T: VisionTower, P: ProjectorModel>(model: &Vlm<L, T, P>, hidden_btd: Tensor<3>) -> Vec<u32> {
    let [b, t, d] = hidden_btd.dims();
    let last = hidden_btd.narrow(1, t - 1, 1).reshape([b, d]);
    let unused = Tensor::<1, Int>::zeros([b], &last.device());
    let argmax = token_stats(last, model.language_model.head(), unused).argmax;
    argmax.into_data().iter::<i64>().map(|id| id as u32).collect()
}
