//! Checkpoints on disk, in host memory: Hugging Face folders in and out, and the run's own
//! checkpoints.
//!
//! Reading downward:
//! - [`Shards`] opens a folder's safetensors files over a memory map and distrusts every header.
//! - [`resolve`] matches what a model expects against what a folder holds, through ordered prefix
//!   [`Rename`] rules, and reports *all* missing, unexpected and misshapen tensors at once.
//! - [`HostTensor`] is a tensor in host memory; [`write_safetensors`] and [`write_model`] stream
//!   tensors into files.
//! - [`bnb`] reads weights that bitsandbytes quantized.
//! - [`JsonFile`] and [`Fields`] read `config.json` with errors that name the file and the field.
//! - [`DirWriter`] and [`write_file`] make writing crash-safe; every write, fsync and rename is a
//!   [fault point](fault).
//! - [`run`] keeps `checkpoint-N` folders in a run folder; [`RunLock`] keeps a second process out
//!   of it.
//!
//! Nothing here names an architecture and nothing here names a compute device: a model's key map
//! lives in that model's folder.

mod atomic;
pub mod bnb;
pub mod bridge;
mod config_json;
mod durable;
mod error;
pub mod fault;
mod header;
pub mod hub;
mod keys;
mod leftovers;
mod lock;
mod manifest;
mod mapped;
pub mod pickle;
pub mod run;
mod shards;
mod tensors;
mod writer;

pub use atomic::{DirWriter, Manifest, place_file, write_file};
pub use config_json::{Fields, JsonFile, read_json};
pub use durable::DurableFile;
pub use error::{CheckpointError, Mismatch, Misshapen};
pub use keys::{Expected, Rename, Resolved, resolve};
pub use leftovers::recover;
pub use lock::RunLock;
pub use manifest::verify;
pub use mapped::unchanged;
pub use shards::{Shards, TensorView};
pub use tensors::{Dtype, HostTensor, byte_len};
pub use writer::{Pending, write_model, write_safetensors};

#[cfg(test)]
mod tests;
