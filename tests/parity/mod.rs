//! The numbers of transformers and PEFT on the tiny checkpoints in `tests/fixtures/parity`, which the scripts in `gen/`
//! make.
//!
//! `FIREBRICK_TEST_DEVICE=cpu|wgpu` picks the device; the CPU is the default.

mod adapters;
mod alignment;
pub(crate) mod case;
mod errors;
mod forward;
mod generation;
mod original;
mod packed;
mod prompt_heads;
mod prompt_learning;
mod prompt_starts;
mod quantized;
mod round_trip;
mod searches;
mod tools;
mod tower;
mod training;
mod tuners;
mod variants;
