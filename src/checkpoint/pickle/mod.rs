//! The tensors of PyTorch's `.bin`, `.pt` and `.pth` files, read without running what is in them.
//!
//! A pickle is a program: `torch.load` of a hostile one runs any command. Here it is read by a
//! machine whose values can do nothing, and which knows the twenty or so names that a file of tensors
//! asks for; every other name is refused, with the name. Memory is bounded by the file's length.
//!
//! Reading downward:
//! - [`read`] takes a whole file's bytes and gives its tensors, as windows of those bytes where the
//!   elements lie in order.
//! - `zip` and `legacy` are the two layouts around the pickle; `machine`, `input`, `opcode`,
//!   `value`, `globals` and `rebuild` are the machine.
//! - `state` finds the state dict in what the file holds; `layout` finds a tensor's bytes.
//!
//! # Source
//! The formats as `torch/serialization.py` and `torch/_weights_only_unpickler.py` of torch 2.15 write
//! and read them; checked against that version, byte by byte.

mod error;
mod globals;
mod input;
mod layout;
mod legacy;
mod machine;
mod opcode;
mod rebuild;
mod state;
mod value;
mod zip;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::tensors::Dtype;
pub use error::PickleError;
use error::shown;
use machine::Loaded;
use value::Object;

/// What a PyTorch file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Contents {
    /// The state dict, in its own order. Tied weights are there under each of their names.
    pub tensors: Vec<StoredTensor>,
    /// Names of what else there is and was not read: an `epoch`, an `optimizer`.
    pub beside: Vec<String>,
}

/// A tensor of a PyTorch file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// The key; keys of nested dicts are joined by dots.
    pub name: String,
    /// The element type.
    pub dtype: Dtype,
    /// The shape.
    pub shape: Vec<usize>,
    /// The elements, row-major, little-endian, as many as type and shape need.
    pub bytes: StoredBytes,
}

/// Where a tensor's elements are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoredBytes {
    /// These bytes of the file; not necessarily aligned. Tied tensors share them.
    Mapped(Range<usize>),
    /// Copied, because the file holds them in another order, e.g. transposed. All copies together
    /// are no larger than the file.
    Copied(Arc<Vec<u8>>),
}

/// Reads a file that `torch.save` wrote, given all of its bytes; in the zip layout or the one before
/// torch 1.6.
///
/// A state dict may lie under `state_dict`, `model_state_dict`, `model` or `module`, as training
/// scripts save it. Other nested dicts and lists give names joined by dots. Only the pickle's own
/// bytes are looked at, the tensors' are not, but for those that must be copied.
///
/// # Errors
/// [`PickleError::Global`] with the full name and the offset where the pickle asks for a function or
/// class that a state dict does not need; the others for files that are damaged, big-endian,
/// compressed, or hold something else than one state dict. Nothing of the file is run in any case.
pub fn read(file: &[u8]) -> Result<Contents, PickleError> {
    if file.starts_with(zip::MAGIC) {
        let archive = zip::Archive::open(file)?;
        let pickle = archive.pickle()?;
        let loaded = machine::load(&file[pickle.clone()], pickle.start)?;
        if loaded.len != pickle.len() {
            let extra = pickle.len() - loaded.len;
            return Err(PickleError::file(format!("{extra} bytes follow the pickle in its `data.pkl`")));
        }
        return collect(file, &loaded, |key| archive.get(&format!("data/{key}")));
    }
    if let Some(at) = legacy::magic(file) {
        let legacy = legacy::read(file, at)?;
        return collect(file, &legacy.loaded, |key| legacy.storages.get(key).cloned());
    }
    Err(unknown(file))
}

fn collect(
    file: &[u8],
    loaded: &Loaded<'_>,
    storage: impl Fn(&str) -> Option<Range<usize>>,
) -> Result<Contents, PickleError> {
    let state::Found { tensors: found, beside } = state::find(&loaded.heap, loaded.root, loaded.len)?;
    let mut copies = file.len();
    // One storage may serve many tensors, and finding it in an archive makes its path.
    let mut places: HashMap<u32, Range<usize>> = HashMap::new();
    let mut seen = HashSet::with_capacity(found.len());
    for (name, tensor) in &found {
        if !seen.insert(name.as_str()) {
            return Err(PickleError::contents(format!("the tensor `{}` occurs twice", shown(name))));
        }
        if places.contains_key(&tensor.storage) {
            continue;
        }
        let Object::Storage(claimed) = loaded.heap.get(tensor.storage) else { continue };
        let bad = |reason: String| PickleError::tensor(name, reason);
        let range = storage(claimed.key)
            .ok_or_else(|| bad(format!("lies in the storage `{}`, which is not in the file", shown(claimed.key))))?;
        let width = claimed.dtype.bitsize() as u64 / 8;
        if claimed.len.checked_mul(width) != Some(range.len() as u64) {
            return Err(bad(format!(
                "lies in a storage of {} elements of {}, for which the file has {} bytes",
                claimed.len,
                claimed.dtype,
                range.len()
            )));
        }
        places.insert(tensor.storage, range);
    }
    drop(seen);
    let mut tensors = Vec::with_capacity(found.len());
    for (name, tensor) in found {
        let range = places[&tensor.storage].clone();
        let (shape, bytes) = layout::place(file, range, &tensor, &loaded.heap, &mut copies)
            .map_err(|reason| PickleError::tensor(&name, reason))?;
        tensors.push(StoredTensor { name, dtype: tensor.dtype, shape, bytes });
    }
    Ok(Contents { tensors, beside })
}

/// Explains a file of neither layout. A bare pickle is read for the sake of what it asks for.
fn unknown(file: &[u8]) -> PickleError {
    if file.starts_with(b"version https://git-lfs") {
        return PickleError::file("it is a Git LFS pointer; fetch the file itself with `git lfs pull`");
    }
    if file.get(257..262) == Some(b"ustar") {
        return PickleError::file("it is a tar archive, as torch wrote before 0.2; load and save it with torch");
    }
    match machine::load(file, 0) {
        Err(error @ PickleError::Global { .. }) => error,
        Ok(_) => PickleError::file("it is a pickle that torch.save did not write; save its tensors with torch.save"),
        Err(_) => PickleError::file(format!(
            "its {} bytes begin neither with a zip archive nor with the magic number of torch.save",
            file.len()
        )),
    }
}

#[cfg(test)]
mod tests;
