//! Guides. Their code is compiled and run with the tests.
//!
//! - [`first_recipe`]: what an experiment is, its settings, and how to run it.
//! - [`real_checkpoint`]: models, adapters and parts from folders and from the Hugging Face hub; converting and merging.
//! - [`data`]: data kinds, each with a row; sources, truncation, special tokens, a data kind of your own.
//! - [`templates`]: how a conversation becomes text, and what of it is learned.
//! - [`alignment`]: preferences, judgements, rewards, classes and distillation; objectives and what they compare with.
//! - [`adapters`]: LoRA and its kinds, (IA)³, virtual tokens; PEFT's files, merging, combining, switching off.
//! - [`inference`]: answers at a prompt, over files, while training and over HTTP; choosing, measuring, comparing.
//! - [`memory`]: running blocks again, small moments, weights that move in the backward pass.
//! - [`resume`]: stopping, crashing and going on.
//! - [`report`]: what a run leaves, and how to read it; TensorBoard and other trackers.
//! - [`own_component`]: a projector, an encoder, an adapter, a data kind, an objective of your own.

#[doc = include_str!("first_recipe.md")]
pub mod first_recipe {}

#[doc = include_str!("real_checkpoint.md")]
pub mod real_checkpoint {}

#[doc = include_str!("data.md")]
pub mod data {}

#[doc = include_str!("templates.md")]
pub mod templates {}

#[doc = include_str!("alignment.md")]
pub mod alignment {}

#[doc = include_str!("adapters.md")]
pub mod adapters {}

#[doc = include_str!("inference.md")]
pub mod inference {}

#[doc = include_str!("memory.md")]
pub mod memory {}

#[doc = include_str!("resume.md")]
pub mod resume {}

#[doc = include_str!("report.md")]
pub mod report {}

#[doc = include_str!("own_component.md")]
pub mod own_component {}
