//! Searches on a model that is a hash of the last two tokens: it needs no device, and the references run on it as well. What
//! is reused between prompts, on tiny checkpoints.

mod driver;
#[cfg(feature = "cpu")]
mod reuse;
mod searches;
mod table;
