//! How answers are made: decoding on host arrays, and greedy decoding with a key-value cache.
//!
//! Everything but [`Lanes`] and [`greedy`] is independent of burn and of any model. [`settings::Generation`] says how answers are
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
mod given;
mod greedy;
mod groups;
mod lanes;
mod math;
pub mod processors;
mod reuse;
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
pub use given::given_log_probs;
pub use greedy::{Stop, greedy};
pub use lanes::Lanes;
pub use reuse::Reuse;
