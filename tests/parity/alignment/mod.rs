//! The whole chain of an alignment step against TRL's own trainers: a checkpoint, the policy's forward pass, the objective,
//! the gradients, AdamW.
//!
//! `tests/fixtures/objectives` has what TRL logged on `llama_text` and the ids it saw; `gen/trl_*.py` wrote it. All
//! parameters are trained. Where a reference is needed it is the checkpoint with every weight moved a little.

mod chain;
mod heads;
mod pairs;
mod scores;
mod supervised;
mod trained;
mod trajectories;
mod unpaired;
